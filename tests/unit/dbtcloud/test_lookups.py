"""Look-ups share lists; none is answered by a list that began before it was asked, or that was not read far enough."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import httpx
import pytest

from tests.unit.virtual import JUMPING, NOON, clock
from tests.unit.world.dbtcloud import JOB, DbtCloud
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.errors import DbtCloudError, ServerFault, Unreachable
from watcher.dbtcloud.lookups import AT_ONCE, MAX_FOUND, PAUSE_SECONDS, Question

pytestmark = JUMPING

LATENCY: Final = 0.2
HOUR: Final = timedelta(hours=1)
MANY: Final = 500


def marker(number: int) -> str:
    return f"dbtrun:u{number}/1"


def add(
    cloud: DbtCloud, count: int = 1, cause: str = "other", age: timedelta = timedelta(minutes=1), **more: Any
) -> None:
    """Runs that follow on those that there are."""
    first = len(cloud.simulator.account.runs) + 1
    cloud.add(range(first, first + count), cause=cause, created=NOON - age, **more)


def look_up(client: Client, number: int, since: datetime = NOON - HOUR) -> Question:
    return client.look_up(JOB, marker(number), None, since)


async def found(client: Client, number: int, since: datetime = NOON - HOUR) -> Sequence[int]:
    with look_up(client, number, since) as question:
        return [run.run_id for run in (await question.answer()).found]


async def test_all_that_wait_for_one_job_share_a_list() -> None:
    cloud = DbtCloud(latency=LATENCY)
    add(cloud, 250)
    add(cloud, cause=marker(7))
    client = cloud.client()
    answers = await asyncio.gather(*(found(client, number) for number in range(MANY)))
    assert [number for number, runs in enumerate(answers) if runs] == [7]
    assert cloud.requests() == 3, "the pages of one list"


async def test_what_comes_bit_by_bit_shares_lists_too() -> None:
    cloud = DbtCloud(latency=LATENCY)
    add(cloud, 50)
    client = cloud.client()

    async def later(number: int) -> Sequence[int]:
        await asyncio.sleep(5 * number / MANY)
        return await found(client, number)

    began = clock().mono
    await asyncio.gather(*(later(number) for number in range(MANY)))
    assert cloud.requests() <= 5 / PAUSE_SECONDS + 2
    assert clock().mono - began <= 5 + PAUSE_SECONDS + LATENCY + 0.1


async def test_a_list_that_began_before_the_question_does_not_answer_it() -> None:
    cloud = DbtCloud(latency=LATENCY)
    client = cloud.client()
    first = asyncio.create_task(found(client, 1))
    await asyncio.sleep(LATENCY / 2)
    add(cloud, cause=marker(2))
    asked = clock().mono
    with look_up(client, 2) as question:
        answer = await question.answer()
    assert [run.run_id for run in answer.found] == [1]
    assert answer.at >= asked
    assert await first == []


async def test_a_question_that_waits_for_something_else_first_is_answered_meanwhile() -> None:
    cloud = DbtCloud(latency=LATENCY)
    client = cloud.client()
    with look_up(client, 1) as question:
        await asyncio.sleep(2)
        assert cloud.requests() == 0, "nobody waits for the answer"
        asked = clock().mono
        await found(client, 2)
        assert (await question.answer()).at >= asked
    assert cloud.requests() == 1


async def test_a_question_about_recent_runs_does_not_wait_for_old_ones() -> None:
    cloud = DbtCloud(latency=LATENCY)
    add(cloud, 2_000, age=timedelta(minutes=90))
    add(cloud, 50)
    client = cloud.client()
    old = asyncio.create_task(found(client, 1, NOON - timedelta(days=1)))
    began = clock().mono
    await found(client, 2)
    assert clock().mono - began <= 1.1 * LATENCY, "its list goes on, for the other"
    await found(client, 3)
    assert clock().mono - began <= PAUSE_SECONDS + 1.1 * LATENCY, "nor does the next list wait for that one's end"
    assert not old.done()
    assert await old == []


async def test_few_lists_of_a_job_are_read_at_once() -> None:
    cloud = DbtCloud(latency=1.0)
    add(cloud, 100 * (2 * AT_ONCE + 2))
    client = cloud.client()
    most = 0

    async def old() -> None:
        await found(client, 1, NOON - timedelta(days=1))

    asking = []
    for _ in range(2 * AT_ONCE):
        asking.append(asyncio.create_task(old()))
        await asyncio.sleep(PAUSE_SECONDS)
        most = max(most, sum("look up" in task.get_name() for task in asyncio.all_tasks()))
    assert most == AT_ONCE
    await asyncio.gather(*asking)


async def test_a_list_that_fails_is_told_to_those_who_wait_and_asked_again_by_the_others() -> None:
    cloud = DbtCloud(latency=LATENCY)
    cloud.broken["job_definition_id"] = httpx.ReadTimeout("")
    add(cloud, cause=marker(1))
    client = cloud.client()
    with look_up(client, 1) as question:
        with pytest.raises(DbtCloudError):
            await found(client, 2)
        cloud.broken.clear()
        assert [run.run_id for run in (await question.answer()).found] == [1]


async def test_what_nobody_foresaw_comes_out_as_it_is() -> None:
    cloud = DbtCloud()
    cloud.broken["job_definition_id"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await found(cloud.client(), 1)


async def test_a_list_that_nobody_waits_for_any_more_is_not_read_to_its_end() -> None:
    cloud = DbtCloud(latency=LATENCY)
    add(cloud, 2_000)
    client = cloud.client()
    asking = asyncio.create_task(found(client, 1))
    await asyncio.sleep(LATENCY / 2)
    asking.cancel()
    await asyncio.sleep(10)
    assert cloud.requests() == 1
    assert not client._look_ups._lines, "and nothing is kept of it"


async def test_a_connection_that_is_given_up_leaves_nobody_waiting() -> None:
    cloud = DbtCloud(latency=LATENCY)
    client = cloud.client()
    asking = asyncio.create_task(found(client, 1))
    await asyncio.sleep(LATENCY / 2)
    await client.close()
    with pytest.raises(Unreachable, match=r"connection (is|was) closed"):
        await asking


async def test_a_run_that_cannot_be_read_is_the_trouble_of_whoever_looks_for_it() -> None:
    cloud = DbtCloud(latency=LATENCY)
    add(cloud, cause=marker(1))
    cloud.shown[1] = {"status": 77, "in_progress": None}
    client = cloud.client()
    answers = await asyncio.gather(*(found(client, number) for number in (1, 2)), return_exceptions=True)
    assert isinstance(answers[0], ServerFault)
    assert answers[1] == []


async def test_of_endless_runs_with_one_marker_the_oldest_are_kept() -> None:
    cloud = DbtCloud(latency=LATENCY)
    add(cloud, 3_000, cause=marker(1))
    assert list(await found(cloud.client(), 1)) == list(range(1, MAX_FOUND + 1))


async def test_a_run_that_has_the_marker_and_resumes_the_run_is_found_once() -> None:
    cloud = DbtCloud(latency=LATENCY)
    add(cloud, cause=marker(1), retrying_run_id=5)
    add(cloud, cause="other", retrying_run_id=5)
    with cloud.client().look_up(JOB, marker(1), 5, NOON - HOUR) as question:
        assert [run.run_id for run in (await question.answer()).found] == [1, 2]
