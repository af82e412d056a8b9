"""Two watchers serve one namespace, each with a dbt Cloud of its own: they notice, and tell their own runs alone."""

from __future__ import annotations

import asyncio
from typing import Final

from dbtrun.api import ConditionStatus, ConditionType, Phase
from tests.chaos.fate import Fate
from tests.chaos.world import ELSEWHERE, STRANGERS, Secret, Watcher, World, in_virtual_time
from watcher.lifecycle.policy import Policy

LONG: Final = 1_800.0
MOST_WRITES: Final = 40
"""In half an hour: some each ten minutes, far from a quarrel."""


def test_two_watchers_with_different_accounts_notice_each_other_and_do_not_quarrel() -> None:
    async def play() -> None:
        world = World(Policy())
        theirs = Secret(world.simulator)
        theirs.lead(world.strangers, ELSEWHERE)
        watchers = [Watcher(world, Fate()), Watcher(world, Fate(), secret=theirs)]
        living = [asyncio.create_task(watcher.live()) for watcher in watchers]
        world.create("endless")
        await world.phase(Phase.QUEUED, Phase.RUNNING)
        await asyncio.sleep(LONG)
        run = world.objects.last["a"]
        host = run.status.host
        mine, other = watchers if host == "127.0.0.1" else reversed(watchers)
        assert run.status.phase in (Phase.QUEUED, Phase.RUNNING)
        assert (mine.metrics.contested._value.get(), other.metrics.contested._value.get()) == (0, 1)
        reachable = run.status.condition(ConditionType.REACHABLE)
        assert reachable is not None
        assert reachable.status is ConditionStatus.TRUE
        assert len(world.objects.versions["a"]) <= MOST_WRITES
        here = len(world.simulator.account.runs) + len(world.strangers.account.runs) - STRANGERS
        assert here == 1
        for watcher in watchers:
            watcher.fate.dead.set()
        await asyncio.wait(living)

    in_virtual_time(play)
