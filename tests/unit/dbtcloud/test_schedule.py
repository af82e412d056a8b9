"""Which uid follows which run."""

from __future__ import annotations

import pytest

from watcher.dbtcloud.schedule import Schedule


@pytest.mark.parametrize("strange", [-1, 0, 2**63 - 1])
def test_a_strange_run_of_one_is_nobody_elses(strange: int) -> None:
    schedule = Schedule()
    schedule.follow("forged", strange, 30, 0)
    schedule.follow("honest", 7, 30, 0)
    followed = schedule.of("honest")
    assert followed is not None
    assert followed.run_id == 7
    schedule.unfollow("unknown")
    assert schedule.of("unknown") is None
    assert {run.run_id for run in schedule} == {strange, 7}
