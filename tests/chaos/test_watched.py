"""What it costs that somebody reads the steps of runs as they come: nothing where nobody does, and never much."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import pytest
from prometheus_client import Counter

from dbtrun.api import WATCHED_ANNOTATION, Phase
from dbtrun.api.watched import renewal
from tests.chaos.fate import Fate
from tests.chaos.world import JOBS, Watcher, World, in_virtual_time, now
from watcher.dbtcloud.looks import FOR_WATCHED
from watcher.lifecycle.policy import Policy

PER_MINUTE: Final = 200
POLICY: Final = Policy()
MINUTES: Final = 5


def played(runs: int, story: Callable[[World], Awaitable[None]], per_minute: int = PER_MINUTE) -> None:
    """A story in a world in which so many runs are live and no request is under way for their start."""

    async def play() -> None:
        world = World(POLICY)
        watcher = Watcher(world, Fate(), requests_per_minute=per_minute)
        await world.control("PATCH", f"/jobs/{JOBS['endless']}", {"parallel": True})
        living = asyncio.create_task(watcher.live())
        await asyncio.sleep(10)
        for number in range(runs):
            world.create("endless", name=f"r{number}")
        await world.until(lambda: all(running(world, number) for number in range(runs)), "all are running")
        world.simulator.requests.clear()
        await story(world)
        watcher.fate.dead.set()
        await living

    in_virtual_time(play)


def running(world: World, number: int) -> bool:
    return world.objects.last[f"r{number}"].status.phase is Phase.RUNNING


def looks(world: World) -> int:
    return world.simulator.requests.kinds["get-run"]


def watch(world: World, name: str) -> None:
    """As `dbtrun top` does at each look."""
    body = renewal(world.objects.last[name].metadata.annotations, now().wall)
    if body is not None:
        world.objects.annotate(name, body["metadata"]["annotations"])


async def watching(world: World, runs: int, seconds: float) -> None:
    for _ in range(round(seconds / 5)):
        for number in range(runs):
            watch(world, f"r{number}")
        await asyncio.sleep(5)


def test_one_run_that_is_watched_is_looked_at_every_five_seconds_until_nobody_does() -> None:
    async def story(world: World) -> None:
        await watching(world, 1, 60)
        assert 60 / POLICY.watched_interval - 2 <= looks(world) <= 60 / POLICY.watched_interval + 1
        assert world.objects.last["r0"].status.steps
        await asyncio.sleep(180)
        before = looks(world)
        await asyncio.sleep(POLICY.details_interval - 60)
        assert looks(world) - before <= 1, "the terminal was closed, and nothing had to be told to the watcher"

    played(1, story)


def test_a_run_that_does_not_change_costs_nothing_but_its_turns() -> None:
    """Objects that wake to find nothing to do would cost most of what a watcher of thousands of live runs uses."""

    async def story(world: World) -> None:
        await asyncio.sleep(10)  # what the starts have caused
        reconciles, before = world.watchers[-1].metrics.reconciles, looks(world)
        already = value_of(reconciles)
        await asyncio.sleep(MINUTES * 60)
        assert looks(world) - before >= (MINUTES - 1) * 30 - 5, "the turns are used"
        assert value_of(reconciles) - already <= 2 * (looks(world) - before) + 10

    played(200, story, per_minute=6_000)


def value_of(counter: Counter) -> float:
    return sum(
        sample.value for metric in counter.collect() for sample in metric.samples if sample.name.endswith("_total")
    )


@pytest.mark.parametrize("ahead", [timedelta(seconds=-1), timedelta(days=365)])
def test_an_annotation_that_does_not_count_costs_nothing(ahead: timedelta) -> None:
    totals: list[int] = []

    def story(annotated: bool) -> Callable[[World], Awaitable[None]]:
        async def told(world: World) -> None:
            for number in range(40) if annotated else ():
                told = (now().wall + ahead).isoformat()
                world.objects.annotate(f"r{number}", {WATCHED_ANNOTATION: told})
            await asyncio.sleep(MINUTES * 60)
            totals.append(world.simulator.requests.kinds.total())

        return told

    for annotated in (False, True):
        played(40, story(annotated))
    without, with_it = totals
    assert with_it <= 1.01 * without, totals


def test_many_watched_runs_leave_nine_tenths_of_the_budget_and_do_not_delay_a_start() -> None:
    runs = 200

    async def story(world: World) -> None:
        reading = asyncio.create_task(watching(world, runs, MINUTES * 60))
        await asyncio.sleep(60)
        world.create("success", name="urgent")
        began = now().mono
        await world.phase(Phase.QUEUED, Phase.RUNNING, name="urgent")
        assert now().mono - began < 2
        await reading
        sparse = MINUTES * 30  # one look in two seconds, of those that are not looked at often
        assert looks(world) <= PER_MINUTE * FOR_WATCHED * MINUTES + sparse + 10
        assert looks(world) >= PER_MINUTE * FOR_WATCHED * MINUTES * 0.8

    played(runs, story)
