from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_trigger.reacting.position import MOST_KEYS, OVERLAP, Position, beginning, from_now, key_of
from airflow_trigger.shared.objects import Run
from tests.unit.airflow_trigger.fakes import dbtrun

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def ended(number: int, seconds: float = 0.0, **status: Any) -> Run:
    """The run that ended so long after noon."""
    at = (NOON + timedelta(seconds=seconds)).isoformat()
    told: dict[str, Any] = {"phase": "Succeeded", "accountId": 1, "runId": number, "completionTime": at} | status
    return dbtrun(f"run-{number}", uid=f"u{number}", **told)


def numbers(runs: list[Run]) -> list[int | None]:
    return [run.run_id for run in runs]


def stored(position: Position) -> Position:
    return Position.read(json.loads(json.dumps(position.stored())))


def test_two_objects_that_follow_the_same_run_have_one_key() -> None:
    mirrored = dbtrun("nightly-7", uid="u8", spec={"runId": 7, "accountId": 1}, phase="Succeeded")
    assert key_of(ended(7)) == key_of(mirrored) == "1/7"


def test_an_object_that_never_had_a_run_is_its_own() -> None:
    assert key_of(dbtrun(uid="u9", phase="Error")) == "dbtrun/u9"


def test_what_was_told_is_not_told_again_and_the_oldest_comes_first() -> None:
    position = beginning(NOON)
    assert numbers(position.fresh([ended(2, 20), ended(1, 10)])) == [1, 2]
    position = position.after([ended(1, 10)], NOON)
    assert numbers(position.fresh([ended(2, 20), ended(1, 10)])) == [2]


def test_a_late_write_within_the_overlap_is_told() -> None:
    position = beginning(NOON).after([ended(1, 1_000)], NOON + timedelta(seconds=1_000))
    assert numbers(position.fresh([ended(2, 1_000 - OVERLAP.total_seconds()), ended(3, 100)])) == [2]


def test_an_end_in_the_future_hides_nobody_elses() -> None:
    position = beginning(NOON).after([ended(1, 86_400)], NOON)
    assert numbers(position.fresh([ended(1, 86_400), ended(2, 5)])) == [2]


def test_one_that_begins_now_tells_nothing_of_before_whatever_its_clock_says() -> None:
    for clock in (-300, 0, 300):
        position = from_now([ended(1, -5), ended(2, -3_600)], NOON + timedelta(seconds=clock))
        assert numbers(position.fresh([ended(1, -5), ended(2, -3_600), ended(3, 1)])) == [3]


def test_two_that_watched_know_together_what_each_told() -> None:
    one, other = beginning(NOON).after([ended(1)], NOON), beginning(NOON).after([ended(2)], NOON)
    assert one.joined(other).fresh([ended(1), ended(2), ended(3)]) == [ended(3)]


def test_a_storm_keeps_the_position_bounded_and_tells_nothing_twice() -> None:
    storm = [ended(number, number / 20) for number in range(3 * MOST_KEYS)]
    position = stored(beginning(NOON).after(storm, NOON + timedelta(hours=1)))
    assert len(json.dumps(position.stored())) < 65_536
    assert position.fresh(storm) == []
    assert numbers(position.fresh([ended(99_999, 3 * MOST_KEYS / 20 + 1)])) == [99_999]


def test_history_reaches_back_if_something_older_than_the_pause_is_still_there() -> None:
    position, later = beginning(NOON), NOON + timedelta(hours=1)
    assert position.reaches_back([ended(1, -5), ended(2, 5)], later)
    assert not position.reaches_back([ended(2, 5)], later)
    assert not position.reaches_back([], later)
    assert position.reaches_back([], NOON + OVERLAP / 2)


@pytest.mark.parametrize("odd", [None, [], "x", {}, {"floor": 1}, {"floor": 1, "through": 1, "told": [1]}])
def test_what_is_no_position_is_a_value_error(odd: object) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Position.read(odd)


@given(
    order=st.permutations(range(1, 13)),
    cuts=st.lists(st.integers(1, 12), max_size=4),
    spread=st.integers(0, 100),
)
def test_each_run_is_told_exactly_once_however_the_ends_come_and_whenever_the_position_is_stored(
    order: list[int], cuts: list[int], spread: int
) -> None:
    """All within the overlap: that is what it is for."""
    position, told = beginning(NOON), []
    for place, number in enumerate(order):
        there = [ended(each, each * spread / 2) for each in order[: place + 1]]
        fresh = position.fresh(there)
        told += numbers(fresh)
        position = position.after(fresh, NOON + timedelta(hours=1))
        if number in cuts:
            position = stored(position)
    assert sorted(number for number in told if number is not None) == list(range(1, 13))
