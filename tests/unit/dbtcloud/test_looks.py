"""Which runs' steps are read when: at no other request's cost."""

from __future__ import annotations

from tests.unit.virtual import clock
from watcher.dbtcloud.budget import Budget, Priority, Share
from watcher.dbtcloud.looks import FOR_WATCHED, LATE_SECONDS, Looks

PER_MINUTE = 1_500


def looks(per_minute: int = PER_MINUTE, burst: int = 25) -> tuple[Looks, Budget]:
    budget = Budget(per_minute, burst, clock=lambda: clock().mono)
    share = Share(budget, budget)
    return Looks(share), budget


async def test_many_runs_share_one_look_in_two_seconds() -> None:
    mine, _ = looks()
    assert [mine.may_look(now) for now in (10.0, 11.5, 12.0, 13.9)] == [True, False, True, False]


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
