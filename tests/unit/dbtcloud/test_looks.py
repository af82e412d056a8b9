"""Which runs' steps are read when: at no other request's cost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from tests.unit.dbtcloud.heard import Heard
from tests.unit.virtual import clock, now
from watcher.dbtcloud.budget import Budget, Priority, Share
from watcher.dbtcloud.looks import FOR_WATCHED, LATE_SECONDS, LOOK_SECONDS, SPARE, Looks

PER_MINUTE = 1_500


pytestmark = pytest.mark.looptime


def looks(per_minute: int = PER_MINUTE, burst: int = 25, heard: Heard | None = None) -> tuple[Looks, Budget]:
    budget = Budget(per_minute, burst, clock=now)
    share = Share(budget, budget)
    return Looks(share, (heard or Heard()).turned, clock), budget


@pytest.fixture
async def turns() -> AsyncIterator[tuple[Looks, Heard]]:
    """Looks that give turns, and what was given."""
    heard = Heard()
    mine, _ = looks(heard=heard)
    task = asyncio.create_task(mine.run())
    yield mine, heard
    assert not task.done()
    task.cancel()


Turns = tuple[Looks, Heard]


async def test_many_runs_share_one_look_in_two_seconds(turns: Turns) -> None:
    mine, heard = turns
    for number in range(100):
        mine.want(f"r{number}", now())
    await asyncio.sleep(10 * LOOK_SECONDS + 1)
    times = [at for at, _ in heard.turns]
    assert len(times) == 10
    assert {round(later - earlier, 3) for earlier, later in itertools.pairwise(times)} == {LOOK_SECONDS}


async def test_who_has_waited_longest_is_next_and_each_gets_a_turn(turns: Turns) -> None:
    mine, heard = turns
    for number in range(20):
        mine.want(f"r{number}", now() + 60 - number)
    await asyncio.sleep(40)
    assert heard.turns == [], "none before the moment that it wants"
    await asyncio.sleep(21 + 20 * LOOK_SECONDS)
    assert [uid for _, uid in heard.turns] == [f"r{number}" for number in reversed(range(20))]


async def test_one_that_says_again_that_it_waits_keeps_its_place(turns: Turns) -> None:
    mine, heard = turns
    moment = now()
    mine.want("z", moment)
    await asyncio.sleep(1)
    mine.want("a", moment)
    mine.want("z", moment)
    await asyncio.sleep(3 * LOOK_SECONDS)
    assert [uid for _, uid in heard.turns] == ["z", "a"]


async def test_one_that_uses_no_turn_takes_none_from_the_others(turns: Turns) -> None:
    mine, heard = turns
    moment = now()
    for uid in ("idle", "late", "last"):
        mine.want(uid, moment)
        await asyncio.sleep(0.1)
    for _ in range(6):
        await asyncio.sleep(LOOK_SECONDS)
        mine.want("idle", moment)
    assert [uid for _, uid in heard.turns][:4] == ["idle", "late", "last", "idle"]


async def test_one_that_was_looked_at_waits_for_its_next_time(turns: Turns) -> None:
    mine, heard = turns
    mine.want("a", now())
    await asyncio.sleep(LOOK_SECONDS + 1)
    mine.want("a", now())
    mine.want("a", now() + 300)
    await asyncio.sleep(299)
    assert len(heard.turns) == 1
    await asyncio.sleep(10)
    assert len(heard.turns) == 2


async def test_one_that_left_gets_no_turn(turns: Turns) -> None:
    mine, heard = turns
    for number in range(5):
        mine.want(f"r{number}", now() + 60)
    for number in range(4):
        mine.want(f"r{number}", None)
    await asyncio.sleep(60 + 5 * LOOK_SECONDS)
    assert [uid for _, uid in heard.turns] == ["r4"]
    mine.want("late", now())
    await asyncio.sleep(2 * LOOK_SECONDS)
    assert [uid for _, uid in heard.turns] == ["r4", "late"]


async def test_runs_that_come_and_go_leave_nothing_behind() -> None:
    mine, _ = looks()
    for number in range(10_000):
        mine.want(f"r{number}", now() + 60)
        mine.want(f"r{number - 10}", None)
    assert len(mine._line) <= 2 * 10 + SPARE + 1


async def test_a_run_that_is_watched_alone_is_looked_at_each_time() -> None:
    mine, _ = looks()
    assert [mine.turn(now) for now in (100.0, 105.0, 110.0)] == [100.0, 105.0, 110.0]


async def test_a_thousand_watched_runs_take_turns_in_a_tenth_of_the_budget() -> None:
    mine, _ = looks()
    turns = [mine.turn(100.0) or 0.0 for _ in range(1_000)]
    assert turns == sorted(turns), "who came first is looked at first"
    within = [turn for turn in turns if turn < 160.0]
    assert len(within) == PER_MINUTE * FOR_WATCHED
    assert [mine.turn(turn, turn) for turn in turns] == turns, "each keeps the turn that it was given"


async def test_a_turn_that_was_not_taken_is_lost() -> None:
    """Else a thousand runs that are watched again would all be looked at together."""
    mine, _ = looks()
    given = [mine.turn(100.0) or 0.0 for _ in range(1_000)]
    later = given[-1] + LATE_SECONDS + 1
    assert len([turn for turn in (mine.turn(later, turn) for turn in given) if turn == later]) == 1


async def test_looks_at_watched_runs_are_what_is_dropped_first() -> None:
    mine, budget = looks(burst=4)
    assert mine.turn(clock().mono) is not None
    for _ in range(3):
        await budget.spend(Priority.POLL)
    assert mine.turn(clock().mono + 10) is None, "what is left is kept for what matters more"


async def test_none_is_looked_at_while_the_account_is_paused() -> None:
    mine, budget = looks()
    budget.pause(60)
    assert mine.turn(clock().mono) is None
