"""Looks that webhooks cause: together, bounded, and only for what somebody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.unit.virtual import clock, now
from watcher.dbtcloud.budget import Budget, Share
from watcher.dbtcloud.hints import BURST, FOR_HINTS, GATHER_SECONDS, MAX_HINTED, OUTDATED_SECONDS, Hints

pytestmark = pytest.mark.looptime

PER_MINUTE = 1_500


@dataclass
class Followed:
    """A poller whose runs end when a test says so."""

    runs: set[int] = field(default_factory=set)
    looked: list[tuple[float, frozenset[int]]] = field(default_factory=list)
    ends_when_looked_at: bool = True

    def awaited(self, run_ids: Iterable[int]) -> list[int]:
        return [run_id for run_id in run_ids if run_id in self.runs]

    def look_at(self, run_ids: Collection[int]) -> None:
        if run_ids:
            self.looked.append((now(), frozenset(run_ids)))
        if self.ends_when_looked_at:
            self.runs -= set(run_ids)


@dataclass
class Listed:
    """A ledger that has not read these runs yet."""

    waiting: set[int] = field(default_factory=set)
    lists: int = 1
    hurried: list[float] = field(default_factory=list)

    def awaits(self, run_id: int, *, ended: bool) -> bool:
        return run_id in self.waiting

    def hurry(self) -> None:
        self.hurried.append(now())


@dataclass
class Scene:
    hints: Hints
    poller: Followed
    ledger: Listed
    budget: Budget
    asked: list[int]
    """The requests of each look."""

    @property
    def looks(self) -> list[float]:
        return [at for at, _ in self.poller.looked]


@asynccontextmanager
async def hinted(per_minute: int = PER_MINUTE) -> AsyncIterator[Scene]:
    budget = Budget(per_minute, 25, clock=lambda: clock().mono)
    poller, ledger = Followed(), Listed()
    asked: list[int] = []
    hints = Hints(Share(budget, budget), poller, ledger, clock, asked.append)
    task = asyncio.create_task(hints.run())
    await asyncio.sleep(1)
    try:
        yield Scene(hints, poller, ledger, budget, asked)
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_run_that_is_followed_is_looked_at_at_once_and_once() -> None:
    async with hinted() as scene:
        scene.poller.runs = {1}
        start = now()
        assert scene.hints.note(1, ended=True)
        await asyncio.sleep(60)
        assert scene.looks == [pytest.approx(start + GATHER_SECONDS)]
        assert scene.asked == [1]


async def test_while_the_api_is_behind_the_webhook_it_is_looked_at_again_and_not_for_ever() -> None:
    async with hinted() as scene:
        scene.poller.runs, scene.poller.ends_when_looked_at = {1}, False
        start = now()
        scene.hints.note(1, ended=True)
        await asyncio.sleep(60)
        assert [at - start for at in scene.looks] == pytest.approx([GATHER_SECONDS, 1.0, 3.0])


async def test_runs_that_end_together_are_looked_at_together() -> None:
    async with hinted() as scene:
        scene.poller.runs = set(range(150))
        for run_id in range(150):
            scene.hints.note(run_id, ended=True)
        await asyncio.sleep(1)
        assert [len(runs) for _, runs in scene.poller.looked] == [150]
        assert scene.asked == [2]


async def test_nothing_is_asked_about_a_run_that_nobody_waits_for() -> None:
    async with hinted() as scene:
        for run_id in range(10_000):
            assert not scene.hints.note(run_id, ended=True)
        await asyncio.sleep(60)
        assert (scene.looks, scene.ledger.hurried, scene.asked) == ([], [], [])


async def test_a_mirror_reads_for_many_runs_once_and_again_until_the_list_has_them() -> None:
    async with hinted() as scene:
        scene.ledger.waiting = {1, 2, 3}
        start = now()
        for run_id in (1, 2, 3):
            scene.hints.note(run_id, ended=True)
        await asyncio.sleep(0.5)
        scene.ledger.waiting = {3}
        await asyncio.sleep(0.7)
        scene.ledger.waiting = set()
        await asyncio.sleep(60)
        assert [at - start for at in scene.ledger.hurried] == pytest.approx([GATHER_SECONDS, 1.0])


async def test_a_flood_spends_a_fifth_of_the_budget_and_the_memory_of_so_many() -> None:
    async with hinted() as scene:
        scene.poller.runs, scene.poller.ends_when_looked_at = set(range(100_000)), False
        scene.ledger.waiting, scene.ledger.lists = set(range(100_000, 200_000)), 2
        for second in range(600):
            for number in range(50):
                scene.hints.note(second * 50 + number + (number % 2) * 100_000, ended=True)
            assert len(scene.hints._hinted) <= MAX_HINTED
            await asyncio.sleep(1)
        allowed = 10 * PER_MINUTE * FOR_HINTS + BURST
        assert 0.5 * allowed < sum(scene.asked) <= allowed


async def test_only_so_many_runs_wait_for_their_look() -> None:
    async with hinted() as scene:
        scene.poller.runs = set(range(10_000))
        noted = sum(scene.hints.note(run_id, ended=True) for run_id in range(10_000))
        assert noted == len(scene.hints._hinted) == MAX_HINTED
        await asyncio.sleep(2)
        assert scene.hints.note(9_999, ended=True), "there is room again"


async def test_a_run_that_is_hinted_at_a_thousand_times_is_looked_at_a_few_times() -> None:
    async with hinted() as scene:
        scene.poller.runs, scene.poller.ends_when_looked_at = {1}, False
        for _ in range(1_000):
            scene.hints.note(1, ended=True)
        await asyncio.sleep(60)
        assert len(scene.looks) == 3


async def test_the_end_of_a_short_run_is_looked_at_at_once_although_its_start_was() -> None:
    async with hinted() as scene:
        scene.poller.runs, scene.poller.ends_when_looked_at = {1}, False
        scene.hints.note(1, ended=False)
        await asyncio.sleep(1.5)
        ended = now()
        scene.hints.note(1, ended=True)
        await asyncio.sleep(0.2)
        assert scene.looks[-1] == pytest.approx(ended + GATHER_SECONDS)


async def test_a_paused_account_is_left_alone_and_the_hint_is_followed_or_forgotten() -> None:
    async with hinted() as scene:
        scene.poller.runs = {1}
        scene.budget.pause(5)
        scene.hints.note(1, ended=True)
        await asyncio.sleep(4)
        assert scene.looks == []
        await asyncio.sleep(2)
        assert len(scene.looks) == 1
        scene.poller.runs = {2}
        scene.budget.pause(OUTDATED_SECONDS + 5)
        scene.hints.note(2, ended=True)
        await asyncio.sleep(60)
        assert len(scene.looks) == 1


async def test_the_part_grows_with_the_budget_when_the_token_is_accepted() -> None:
    account, own = (Budget(rate, 25, clock=lambda: clock().mono) for rate in (PER_MINUTE, 6))
    share, poller = Share(account, own), Followed(set(range(10_000)), ends_when_looked_at=False)
    asked: list[int] = []
    hints = Hints(share, poller, Listed(), clock, asked.append)
    share.heard(200)
    for run_id in range(600):
        hints.note(run_id, ended=True)
        hints.look()
        await asyncio.sleep(0.1)
    assert sum(asked) > 60
