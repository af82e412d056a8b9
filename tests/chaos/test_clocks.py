"""Every period ends when it should: across a restart, and whatever clock is wrong by ten minutes.

Each row is a period, each column a disturbance. The times are those of nobody's clock: the loop's own. `make test`
tries every second pair, `make crash-points` all.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import pytest

from dbtrun.api import ConditionStatus, ConditionType, Phase, Reason, Retry
from tests.chaos.fate import Fate
from tests.chaos.world import EPOCH, JOBS, Watcher, World, in_virtual_time
from watcher.dbtcloud.errors import COOL_DOWN
from watcher.lifecycle.policy import Policy
from watcher.simulator.faults import Drop, RateLimit, Reply

SECONDS: Final = 600
"""Of the periods that people choose: as long as the clocks are wrong, so that none of them hides the other."""
SKEW: Final = 600.0
RESTART_SECONDS: Final = 5.0
"""While nobody watches."""
TOLERANCE: Final = 12.0
"""Two polls and the resolution of a Date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What goes on meanwhile. Skews are seconds ahead of the API server."""

    dbt: float = 0.0
    watcher: float = 0.0
    successor: float | None = None
    """The skew of the watcher that takes over in the middle; None: none does."""


DISTURBANCES: Final = {
    "nothing": Disturbance(),
    "a restart": Disturbance(successor=0.0),
    "dbt Cloud behind": Disturbance(dbt=-SKEW),
    "dbt Cloud ahead": Disturbance(dbt=SKEW),
    "dbt Cloud behind and a restart": Disturbance(dbt=-SKEW, successor=0.0),
    "dbt Cloud ahead and a restart": Disturbance(dbt=SKEW, successor=0.0),
    "the watcher behind": Disturbance(watcher=-SKEW),
    "the watcher ahead": Disturbance(watcher=SKEW),
    "a successor behind": Disturbance(successor=-SKEW),
    "a successor ahead": Disturbance(successor=SKEW),
    "one ahead, then one behind": Disturbance(dbt=SKEW, watcher=SKEW, successor=-SKEW),
}


@dataclass(slots=True)
class Stage:
    """A world, and the watcher that lives in it."""

    world: World
    lives: list[asyncio.Task[None]] = field(default_factory=list)
    restarted_at: float = 0.0

    def begin(self, skew: float) -> None:
        self.lives.append(asyncio.create_task(Watcher(self.world, Fate(), skew).live()))

    async def change(self, skew: float) -> None:
        self.world.watchers[-1].fate.dead.set()
        await self.lives[-1]
        await asyncio.sleep(RESTART_SECONDS)
        self.begin(skew)
        self.restarted_at = loop_time()

    async def end(self) -> None:
        for life in self.lives:
            life.cancel()
        await asyncio.wait(self.lives)


Moment = Callable[[World], Awaitable[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """How it begins, how it ends, both as moments of the loop, and how long it lasts."""

    begin: Moment
    end: Moment
    seconds: float = SECONDS
    anew: bool = False
    """A restart begins it anew: what it counts from is not written down."""
    later: float = 0.0
    """How much later it may end."""


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def created(world: World, run_id: int | None) -> float:
    assert run_id is not None
    return world.simulator.account.runs[run_id].created_real - EPOCH


async def _never_begins(world: World) -> float:
    await world.elsewhere("endless")  # the job's runs queue behind each other
    world.create("endless", queue_deadline_seconds=SECONDS)
    return created(world, (await world.phase(Phase.QUEUED)).status.run_id)


async def _runs_on(world: World) -> float:
    world.create("endless", active_deadline_seconds=SECONDS)
    await world.until(lambda: world.objects.last["a"].status.started_at is not None, "it has begun")
    (run,) = world.simulator.account.runs.values()
    assert run.started_time is not None
    return run.started_time - EPOCH


async def _lost(world: World) -> float:
    world.create("endless", lost_contact_deadline_seconds=SECONDS)
    await world.phase(Phase.RUNNING)
    world.fault(Reply(status=503, body="html"), times=None)

    def told() -> bool:
        condition = world.objects.last["a"].status.condition(ConditionType.REACHABLE)
        return condition is not None and condition.status is ConditionStatus.FALSE

    await world.until(told, "the lost contact is told")
    return loop_time()


async def _answer_lost(world: World) -> float:
    world.fault(Drop(when="before"), "start")
    world.create("success")
    await world.phase(Phase.SUBMITTING)
    return loop_time()


async def _too_many_requests(world: World) -> float:
    world.fault(RateLimit(cooldown=COOL_DOWN), "start")
    world.create("success")
    await world.phase(Phase.PENDING, reason=Reason.RATE_LIMITED)
    return world.simulator.faults.silent_until - COOL_DOWN - EPOCH


async def _succeeds(world: World) -> float:
    world.create("success", ttl_seconds_after_finished=SECONDS)
    await world.phase(Phase.SUCCEEDED)
    return loop_time()


async def _fails_once(world: World) -> float:
    world.create("flaky", retry=Retry(limit=1, backoff_seconds=SECONDS))
    await world.phase(Phase.PENDING, reason=Reason.RETRY_BACKOFF)
    return loop_time()


async def _deleted_in_vain(world: World) -> float:
    world.create("endless")
    await world.phase(Phase.RUNNING)
    world.fault(Reply(status=503, body="html"), times=None)
    world.delete()
    return loop_time()


def ends_as(*phases: Phase, reason: Reason) -> Moment:
    async def ended(world: World) -> float:
        await world.phase(*phases, reason=reason)
        return loop_time()

    return ended


async def _gone(world: World) -> float:
    await world.until(lambda: "a" not in world.objects.stored, "a is gone")
    return loop_time()


async def _started(world: World) -> float:
    await world.phase(Phase.RUNNING, Phase.SUCCEEDED)
    return created(world, world.objects.last["a"].status.run_id)


PERIODS: Final = {
    "queue deadline": Period(
        begin=_never_begins, end=ends_as(Phase.CANCELLING, Phase.TIMED_OUT, reason=Reason.QUEUE_DEADLINE_EXCEEDED)
    ),
    "active deadline": Period(
        begin=_runs_on, end=ends_as(Phase.CANCELLING, Phase.TIMED_OUT, reason=Reason.ACTIVE_DEADLINE_EXCEEDED)
    ),
    "lost contact": Period(begin=_lost, end=ends_as(Phase.ERROR, reason=Reason.LOST_CONTACT)),
    "quiet period": Period(begin=_answer_lost, end=_started, seconds=Policy().quiet_period, anew=True, later=5.0),
    "cool-down": Period(begin=_too_many_requests, end=_started, seconds=COOL_DOWN, anew=True, later=60.0),
    "TTL": Period(begin=_succeeds, end=_gone),
    "retry's backoff": Period(begin=_fails_once, end=_started),
    "deletion's patience": Period(begin=_deleted_in_vain, end=_gone, seconds=Policy().deletion_grace),
}


PAIRS: Final = [*itertools.product(PERIODS, DISTURBANCES)]


# Each period and each disturbance is in about half of its pairs, as there is an odd number of disturbances.
@pytest.mark.parametrize(("period_name", "disturbance_name"), PAIRS[:: 1 if "EVERY" in os.environ else 2])
def test_a_period_ends_when_it_should(period_name: str, disturbance_name: str) -> None:
    period, disturbance = PERIODS[period_name], DISTURBANCES[disturbance_name]

    async def play() -> None:
        world = World(Policy())
        world.simulator.clock.set(offset=disturbance.dbt)
        stage = Stage(world)
        stage.begin(disturbance.watcher)
        began = await period.begin(world)
        if disturbance.successor is not None:
            await asyncio.sleep(began + period.seconds / 2 - loop_time())
            await stage.change(disturbance.successor)
            began = stage.restarted_at if period.anew else began
        took = await period.end(world) - began
        await stage.end()
        assert -TOLERANCE <= took - period.seconds <= TOLERANCE + period.later

    in_virtual_time(play)


def test_a_restart_in_the_cool_down_costs_one_request() -> None:
    async def play() -> None:
        world = World(Policy())
        stage = Stage(world)
        stage.begin(0.0)
        await _too_many_requests(world)
        await asyncio.sleep(COOL_DOWN / 2)
        before = world.simulator.requests.kinds.total()
        await stage.change(0.0)
        await asyncio.sleep(COOL_DOWN / 2)
        assert world.simulator.requests.kinds.total() - before == 1
        await stage.end()

    in_virtual_time(play)


def test_a_run_that_dbt_cloud_dates_ten_minutes_back_is_found() -> None:
    async def play() -> None:
        world = World(Policy())
        world.simulator.clock.set(offset=-SKEW)
        stage = Stage(world)
        stage.begin(0.0)
        world.fault(Drop(when="after"), "start")
        world.create("success")
        await world.phase(Phase.SUCCEEDED)
        assert len([run for run in world.simulator.account.runs.values() if run.job_id == JOBS["success"]]) == 1
        await stage.end()

    in_virtual_time(play)
