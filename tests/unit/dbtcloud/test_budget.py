"""The budget under a clock that jumps: no test waits for real."""

from __future__ import annotations

import asyncio

import pytest

from watcher.dbtcloud.budget import Budget, Priority
from watcher.dbtcloud.errors import RateLimited

pytestmark = pytest.mark.looptime


def now() -> float:
    return asyncio.get_running_loop().time()


def a_budget(per_minute: int = 60, burst: int = 1) -> Budget:
    return Budget(per_minute, burst, clock=asyncio.get_running_loop().time)


async def spend(budget: Budget, priority: Priority, log: list[tuple[float, Priority]]) -> None:
    await budget.spend(priority)
    log.append((round(now(), 3), priority))


async def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    budget = a_budget(per_minute=600, burst=5)
    start = now()
    for _ in range(25):
        await budget.spend(Priority.POLL)
    assert now() - start == pytest.approx(2.0, abs=0.01)


async def test_a_minute_lets_through_a_minutes_worth() -> None:
    budget = a_budget(per_minute=1500, burst=25)
    tasks = [asyncio.create_task(budget.spend(Priority.POLL)) for _ in range(3000)]
    await asyncio.sleep(60)
    assert 1500 <= budget.spent[Priority.POLL] <= 1526
    for task in tasks:
        task.cancel()


async def test_idle_time_is_not_saved_beyond_the_burst() -> None:
    budget = a_budget(per_minute=60, burst=2)
    await asyncio.sleep(3600)
    start = now()
    for _ in range(4):
        await budget.spend(Priority.POLL)
    assert now() - start == pytest.approx(2.0, abs=0.01)


async def test_cancels_and_submissions_pass_polls_and_polls_pass_details() -> None:
    budget = a_budget()
    await budget.spend(Priority.POLL)
    log: list[tuple[float, Priority]] = []
    async with asyncio.TaskGroup() as group:
        for priority in (Priority.DETAILS, Priority.POLL, Priority.SUBMIT, Priority.CANCEL):
            group.create_task(spend(budget, priority, log))
    assert [priority for _, priority in log] == [
        Priority.CANCEL,
        Priority.SUBMIT,
        Priority.POLL,
        Priority.DETAILS,
    ]


async def test_a_poll_is_late_but_not_starved_by_submissions() -> None:
    budget = a_budget()
    log: list[tuple[float, Priority]] = []

    async def submit_for_ever() -> None:
        while True:
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(budget.spend(Priority.SUBMIT))

    storm = [asyncio.create_task(submit_for_ever()) for _ in range(5)]
    await asyncio.sleep(10)
    asked = now()
    await spend(budget, Priority.POLL, log)
    assert log[0][0] - asked < 40
    for task in storm:
        task.cancel()


async def test_who_gave_up_waiting_costs_nothing() -> None:
    budget = a_budget()
    await budget.spend(Priority.POLL)
    gone = asyncio.create_task(budget.spend(Priority.CANCEL))
    await asyncio.sleep(0)
    gone.cancel()
    start = now()
    await budget.spend(Priority.POLL)
    assert now() - start == pytest.approx(1.0, abs=0.01)
    assert budget.spent == {Priority.POLL: 2}


async def test_a_pause_refuses_everybody_and_says_for_how_long() -> None:
    budget = a_budget()
    await budget.spend(Priority.POLL)
    waiting = asyncio.create_task(budget.spend(Priority.SUBMIT))
    await asyncio.sleep(0)
    budget.pause(100)
    for turn in (waiting, asyncio.create_task(budget.spend(Priority.CANCEL))):
        with pytest.raises(RateLimited) as caught:
            await turn
        assert caught.value.not_sent
        assert caught.value.retry_after == pytest.approx(100)
    assert budget.paused_until == now() + 100


async def test_a_pause_without_a_length_is_dbt_clouds_own() -> None:
    budget = a_budget()
    budget.pause()
    assert budget.paused_until == now() + 300


async def test_a_pause_is_not_shortened_by_a_later_one() -> None:
    budget = a_budget()
    budget.pause(100)
    budget.pause(5)
    assert budget.paused_until == now() + 100


async def test_after_a_pause_it_goes_on_without_a_burst() -> None:
    budget = a_budget(per_minute=60, burst=10)
    budget.pause(100)
    await asyncio.sleep(100)
    assert budget.paused_until is None
    start = now()
    for _ in range(3):
        await budget.spend(Priority.POLL)
    assert now() - start == pytest.approx(3.0, abs=0.01)
