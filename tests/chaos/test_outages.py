"""Each row of docs/reliability.md: what an outage shows on the object, and that it heals by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dbtrun.api import ConditionStatus, ConditionType, Phase, Reason
from tests.chaos.outages import OUTAGES
from tests.chaos.world import World, in_virtual_time, watched
from watcher.lifecycle.known import CLOCK_MARGIN
from watcher.simulator.faults import HideRuns, Reply, Rule

DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"
LASTING = 200.0
"""Seconds of an outage: longer than any pause that forgives it."""


def reachable(world: World) -> tuple[ConditionStatus, Reason]:
    condition = world.objects.last["a"].status.condition(ConditionType.REACHABLE)
    assert condition is not None
    return condition.status, condition.reason


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_is_told_changes_no_phase_and_heals(name: str) -> None:
    outage = OUTAGES[name]

    async def play() -> None:
        async with watched() as world:
            world.create("endless")
            run_id = (await world.phase(Phase.RUNNING)).status.run_id
            assert run_id is not None
            if outage.effect is not None:
                world.simulator.faults.add(Rule(effect=outage.effect))
            world.wire.error = outage.error
            await asyncio.sleep(LASTING)
            assert world.objects.last["a"].status.phase is Phase.RUNNING
            assert reachable(world)[1] is outage.reason
            world.simulator.faults.clear()
            world.wire.error = None
            await world.until(lambda: reachable(world) == (ConditionStatus.TRUE, Reason.ANSWERING), "it heals")
            await world.finish(run_id)
            await world.phase(Phase.SUCCEEDED)
            assert await world.journal() == ["start"]

    in_virtual_time(play)


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_at_the_start_starts_one_run_when_it_is_over(name: str) -> None:
    outage = OUTAGES[name]

    async def play() -> None:
        async with watched() as world:
            await asyncio.sleep(CLOCK_MARGIN.total_seconds() + 1)  # older objects are searched for before they start
            if outage.effect is not None:
                world.simulator.faults.add(Rule(effect=outage.effect))
            world.wire.error = outage.error
            world.create("success")
            await asyncio.sleep(LASTING)
            world.simulator.faults.clear()
            world.wire.error = None
            await world.phase(Phase.SUCCEEDED, Phase.ERROR)
            refused = world.objects.last["a"].status.reason is Reason.FORBIDDEN
            assert await world.journal() == ([] if refused else ["start"])
            assert refused is (name == "403"), "only a clear refusal ends an object"

    in_virtual_time(play)


def test_a_hidden_run_that_comes_back_in_time_is_followed_on() -> None:
    async def play() -> None:
        async with watched() as world:
            world.create("endless")
            run_id = (await world.phase(Phase.RUNNING)).status.run_id
            assert run_id is not None
            world.simulator.faults.add(Rule(effect=HideRuns(runs=[run_id])))
            await asyncio.sleep(world.policy.missing_grace / 2)
            world.simulator.faults.clear()
            await world.finish(run_id)
            await world.phase(Phase.SUCCEEDED)

    in_virtual_time(play)


def test_a_run_that_stays_hidden_is_an_error_that_says_so() -> None:
    async def play() -> None:
        async with watched() as world:
            world.create("endless")
            run_id = (await world.phase(Phase.RUNNING)).status.run_id
            assert run_id is not None
            world.simulator.faults.add(Rule(effect=HideRuns(runs=[run_id])))
            run = await world.phase(Phase.ERROR, reason=Reason.RUN_NOT_FOUND)
            assert str(run_id) in run.status.message

    in_virtual_time(play)


def test_a_404_on_the_job_is_an_error_and_starts_nothing() -> None:
    async def play() -> None:
        async with watched() as world:
            world.simulator.faults.add(Rule(effect=Reply(status=404, body="enveloped"), kinds=["start"]))
            world.create("success")
            await world.phase(Phase.ERROR, reason=Reason.JOB_NOT_FOUND)
            assert await world.journal() == []

    in_virtual_time(play)


def test_a_start_refused_in_dbt_clouds_own_words_is_an_error_that_repeats_them() -> None:
    locked = Reply(status=400, body="enveloped", message="This account is locked. Contact support.")

    async def play() -> None:
        async with watched() as world:
            world.simulator.faults.add(Rule(effect=locked, kinds=["start"]))
            world.create("success")
            run = await world.phase(Phase.ERROR, reason=Reason.SUBMISSION_REJECTED)
            assert locked.message in run.status.message
            assert await world.journal() == []

    in_virtual_time(play)


def test_contact_that_stays_lost_is_an_error_that_warns_of_the_live_run() -> None:
    async def play() -> None:
        async with watched() as world:
            world.create("endless", lost_contact_deadline_seconds=600)
            run_id = (await world.phase(Phase.RUNNING)).status.run_id
            world.simulator.faults.add(Rule(effect=Reply(status=502, body="html")))
            run = await world.phase(Phase.ERROR, reason=Reason.LOST_CONTACT)
            assert f"Run {run_id} may still be running" in run.status.message

    in_virtual_time(play)


@pytest.mark.parametrize("offset", [-300, 300])
def test_a_clock_of_dbt_cloud_that_is_minutes_wrong_moves_no_deadline(offset: int) -> None:
    async def play() -> None:
        async with watched() as world:
            world.simulator.set_clock(None, offset)
            world.create("endless", active_deadline_seconds=60)
            await world.phase(Phase.RUNNING)
            began = asyncio.get_running_loop().time()
            await world.phase(Phase.CANCELLING)
            assert 55 <= asyncio.get_running_loop().time() - began <= 65

    in_virtual_time(play)


def test_every_outage_has_its_row_in_the_document() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    for name, outage in OUTAGES.items():
        assert any(row.startswith(f"| {name} |") and outage.reason in row for row in rows), name
