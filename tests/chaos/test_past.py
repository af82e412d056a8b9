"""What it costs not to trust a status: nothing for an object whose birth was seen, one search for each other."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from dbtrun.api import Phase
from tests.chaos.fate import Fate
from tests.chaos.world import JOBS, Watcher, World, in_virtual_time
from watcher.dbtcloud.budget import BURST
from watcher.dbtcloud.poller import FEED_SECONDS
from watcher.lifecycle.known import CLOCK_MARGIN
from watcher.lifecycle.policy import Policy

MANY: Final = 200
PER_MINUTE: Final = 300
LISTS: Final = 15
"""Of runs, besides the feed's: a few for the look-ups and, of a hundred runs each, for the polls."""


@pytest.mark.parametrize(("fresh", "searches"), [(True, 0), (False, 1)])
def test_only_an_object_that_is_met_costs_a_search(fresh: bool, searches: int) -> None:
    async def play() -> None:
        world = World(Policy())
        watcher = Watcher(world, Fate())
        if not fresh:
            world.create("success")
            await asyncio.sleep(1)
        living = asyncio.create_task(watcher.live())
        if fresh:
            await asyncio.sleep(CLOCK_MARGIN.total_seconds() + 1)
            world.create("success")
        await world.phase(Phase.QUEUED, Phase.RUNNING)
        made = world.simulator.requests.kinds
        assert (made["start"], made["list-runs"]) == (1, searches)
        watcher.fate.dead.set()
        await living

    in_virtual_time(play)


def test_a_restart_with_many_pending_objects_keeps_within_the_budget_and_starts_at_once() -> None:
    async def play() -> None:
        world = World(Policy())
        watcher = Watcher(world, Fate(), requests_per_minute=PER_MINUTE)
        for number in range(MANY):
            world.create("endless", name=f"r{number}")
        await asyncio.sleep(1)
        living = asyncio.create_task(watcher.live())
        starts = searches = seconds = 0
        while starts < MANY:
            await asyncio.sleep(5)
            seconds += 5
            made = world.simulator.requests.kinds
            starts, searches = made["start"], made["list-runs"]
            # What is saved while idle, twice: a token that is not proved yet has a budget of its own.
            assert sum(made.values()) <= PER_MINUTE * seconds / 60 + 2 * BURST, made
            assert searches <= LISTS + seconds / FEED_SECONDS, "one list of the job answers all that wait"
            assert seconds < 90 * MANY / PER_MINUTE, made
        watcher.fate.dead.set()
        await living

    in_virtual_time(play)


def test_searches_in_many_jobs_do_not_go_before_the_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each object is of another job, so that none shares a search; dbt Cloud knows none of the jobs."""

    async def play() -> None:
        world = World(Policy())
        watcher = Watcher(world, Fate(), requests_per_minute=PER_MINUTE)
        for number in range(MANY):
            monkeypatch.setitem(JOBS, f"job {number}", 1_000 + number)
            world.create(f"job {number}", name=f"r{number}")
        await asyncio.sleep(1)
        living = asyncio.create_task(watcher.live())
        starts = seconds = 0
        while starts < MANY:
            await asyncio.sleep(5)
            seconds += 5
            made = world.simulator.requests.kinds
            starts = made["start"]
            assert starts >= (made["list-runs"] - seconds / FEED_SECONDS) / 4, made
            assert seconds < 300 * MANY / PER_MINUTE, made
        watcher.fate.dead.set()
        await living

    in_virtual_time(play)
