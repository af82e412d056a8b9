"""A Secret that named the wrong host or account is corrected: what was learnt through it counts no longer."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest
from msgspec.structs import replace

from dbtrun.api import Job, Phase, Reason
from tests.chaos.world import ELSEWHERE, HOME, SCENARIO, STRANGERS, World, in_virtual_time, watched
from watcher.lifecycle.policy import Policy
from watcher.reconcile import RECONNECT
from watcher.simulator.faults import Reply, Rule
from watcher.sources import WAIT_SECONDS

THEIRS: Final = 5
"""The number that the job `success` has elsewhere."""
JOBS_ELSEWHERE: Final = [replace(job, id=THEIRS) if job.name == "success" else job for job in SCENARIO.jobs]
NAMED: Final = Job(name="success", project="Analytics", environment="Production")


def misdirected() -> World:
    """A world whose Secret names the wrong host."""
    world = World(Policy())
    world.secret.lead(world.strangers, ELSEWHERE)
    return world


def at(world: World) -> tuple[Phase | None, str | None]:
    status = world.objects.last["a"].status
    return status.phase, status.host


@pytest.mark.parametrize("age", [1, 30])
def test_the_corrected_host_is_used_within_seconds(age: int) -> None:
    """An object that the watcher saw being created is claimed before its host is first asked."""

    async def play() -> None:
        async with watched(misdirected(), RECONNECT) as world:
            world.wire.away.add(ELSEWHERE)
            await asyncio.sleep(age)
            world.create("endless")
            await asyncio.sleep(45)
            assert at(world)[0] is Phase.PENDING
            world.secret.lead(world.simulator, HOME)
            await asyncio.sleep(15)
            assert at(world) == (Phase.RUNNING, HOME)
            assert world.started == 1

    in_virtual_time(play)


def test_a_page_of_somebody_elses_host_is_no_answer() -> None:
    async def play() -> None:
        async with watched(misdirected(), RECONNECT) as world:
            world.strangers.faults.add(Rule(effect=Reply(status=200, body="html")))
            world.create(replace(NAMED, name="endless"))
            await asyncio.sleep(45)
            world.secret.lead(world.simulator, HOME)
            await asyncio.sleep(15)
            assert at(world) == (Phase.RUNNING, HOME)

    in_virtual_time(play)


@pytest.mark.parametrize("age", [1, 30])
def test_a_refused_token_ends_an_object_that_has_started_nothing_after_ten_minutes(age: int) -> None:
    async def play() -> None:
        async with watched(reconnect=RECONNECT) as world:
            world.fault(Reply(status=401), "start", times=None)
            await asyncio.sleep(age)
            world.create("endless")
            await asyncio.sleep(590)
            assert not world.objects.last["a"].status.final
            await asyncio.sleep(90)
            status = world.objects.last["a"].status
            assert (status.phase, status.reason) == (Phase.ERROR, Reason.UNAUTHORIZED)

    in_virtual_time(play)


def test_a_job_is_looked_up_again_in_another_account() -> None:
    async def play() -> None:
        world = World(Policy(), replace(SCENARIO, jobs=JOBS_ELSEWHERE))
        async with watched(world, RECONNECT):
            world.fault(Reply(status=503), "list-runs", times=None)
            world.create(NAMED)
            await asyncio.sleep(30)
            assert at(world)[0] is Phase.PENDING
            world.wire.away.add(HOME)
            world.secret.lead(world.strangers, ELSEWHERE)
            await asyncio.sleep(400)
            assert world.started == 0
            ours = list(world.strangers.account.runs.values())[STRANGERS:]
            assert [run.job_id for run in ours] == [THEIRS]

    in_virtual_time(play)


def test_an_outage_of_a_host_that_has_answered_reads_no_secret_again() -> None:
    async def play() -> None:
        async with watched(reconnect=RECONNECT) as world:
            world.create("endless")
            await asyncio.sleep(20)
            assert at(world)[0] is Phase.RUNNING
            world.wire.away.add(HOME)
            before = world.secret.reads
            await asyncio.sleep(200)
            assert world.secret.reads == before

    in_virtual_time(play)


def test_an_object_that_no_longer_tries_no_longer_has_its_secret_read() -> None:
    async def play() -> None:
        async with watched(misdirected(), RECONNECT) as world:
            world.wire.away.add(ELSEWHERE)
            world.create("endless")
            await asyncio.sleep(20)
            world.edit(suspend=True)
            await asyncio.sleep(WAIT_SECONDS + 20)
            before = world.secret.reads
            await asyncio.sleep(600)
            assert world.secret.reads <= before + 4

    in_virtual_time(play)
