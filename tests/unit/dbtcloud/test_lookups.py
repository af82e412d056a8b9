"""Look-ups share lists; none is answered by a list that began before it was asked, or that was not read far enough."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import httpx
import pytest

from tests.unit.dbtcloud import account
from tests.unit.virtual import clock
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.errors import DbtCloudError, ServerFault, Unreachable
from watcher.dbtcloud.lookups import AT_ONCE, MAX_FOUND, PAUSE_SECONDS, Question

pytestmark = pytest.mark.looptime

JOB: Final = 99
LATENCY: Final = 0.2
HOUR: Final = timedelta(hours=1)
MANY: Final = 500


def marker(number: int) -> str:
    return f"dbtrun:u{number}/1"


@dataclass
class DbtCloud:
    """The runs of a job as they are when the request arrives; each reply takes a while."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    """Oldest first."""
    requests: int = 0
    fault: Exception | None = None

    def add(self, count: int = 1, cause: str = "other", age: timedelta = timedelta(minutes=1), **more: Any) -> None:
        first = len(self.runs) + 1
        self.runs += [
            account.run(
                number,
                created_at=account.stamp(account.NOON - age),
                trigger={"id": 1, "cause": cause},
                **more,
            )
            for number in range(first, first + count)
        ]

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        offset = int(request.url.params["offset"])
        reply = account.listing(self.runs[::-1][offset : offset + 100], total=len(self.runs))
        await asyncio.sleep(LATENCY)
        if self.fault is not None:
            raise self.fault
        return reply

    def client(self) -> Client:
        return Client(account.CONNECTION, transport=httpx.MockTransport(self), clock=clock)


def look_up(client: Client, number: int, since: datetime = account.NOON - HOUR) -> Question:
    return client.look_up(JOB, marker(number), None, since)


async def found(client: Client, number: int, since: datetime = account.NOON - HOUR) -> Sequence[int]:
    with look_up(client, number, since) as question:
        return [run.run_id for run in (await question.answer()).found]


async def test_all_that_wait_for_one_job_share_a_list() -> None:
    cloud = DbtCloud()
    cloud.add(250)
    cloud.add(cause=marker(7))
    client = cloud.client()
    answers = await asyncio.gather(*(found(client, number) for number in range(MANY)))
    assert [number for number, runs in enumerate(answers) if runs] == [7]
    assert cloud.requests == 3, "the pages of one list"


async def test_what_comes_bit_by_bit_shares_lists_too() -> None:
    cloud = DbtCloud()
    cloud.add(50)
    client = cloud.client()

    async def later(number: int) -> Sequence[int]:
        await asyncio.sleep(5 * number / MANY)
        return await found(client, number)

    began = clock().mono
    await asyncio.gather(*(later(number) for number in range(MANY)))
    assert cloud.requests <= 5 / PAUSE_SECONDS + 2
    assert clock().mono - began <= 5 + PAUSE_SECONDS + LATENCY + 0.1


async def test_a_list_that_began_before_the_question_does_not_answer_it() -> None:
    cloud = DbtCloud()
    client = cloud.client()
    first = asyncio.create_task(found(client, 1))
    await asyncio.sleep(LATENCY / 2)
    cloud.add(cause=marker(2))
    asked = clock().mono
    with look_up(client, 2) as question:
        answer = await question.answer()
    assert [run.run_id for run in answer.found] == [1]
    assert answer.at >= asked
    assert await first == []


async def test_a_question_that_waits_for_something_else_first_is_answered_meanwhile() -> None:
    cloud = DbtCloud()
    client = cloud.client()
    with look_up(client, 1) as question:
        await asyncio.sleep(2)
        assert cloud.requests == 0, "nobody waits for the answer"
        asked = clock().mono
        await found(client, 2)
        assert (await question.answer()).at >= asked
    assert cloud.requests == 1


async def test_a_question_about_recent_runs_does_not_wait_for_old_ones() -> None:
    cloud = DbtCloud()
    cloud.add(2_000, age=timedelta(minutes=90))
    cloud.add(50)
    client = cloud.client()
    old = asyncio.create_task(found(client, 1, account.NOON - timedelta(days=1)))
    began = clock().mono
    await found(client, 2)
    assert clock().mono - began <= 1.1 * LATENCY, "its list goes on, for the other"
    await found(client, 3)
    assert clock().mono - began <= PAUSE_SECONDS + 1.1 * LATENCY, "nor does the next list wait for that one's end"
    assert not old.done()
    assert await old == []


async def test_few_lists_of_a_job_are_read_at_once() -> None:
    cloud = DbtCloud()
    cloud.add(9_000)
    client = cloud.client()
    most = 0

    async def old() -> None:
        await found(client, 1, account.NOON - timedelta(days=1))

    asking = []
    for _ in range(2 * AT_ONCE):
        asking.append(asyncio.create_task(old()))
        await asyncio.sleep(PAUSE_SECONDS)
        most = max(most, sum("look up" in task.get_name() for task in asyncio.all_tasks()))
    assert most == AT_ONCE
    await asyncio.gather(*asking)


async def test_a_list_that_fails_is_told_to_those_who_wait_and_asked_again_by_the_others() -> None:
    cloud = DbtCloud(fault=httpx.ReadTimeout(""))
    cloud.add(cause=marker(1))
    client = cloud.client()
    with look_up(client, 1) as question:
        with pytest.raises(DbtCloudError):
            await found(client, 2)
        cloud.fault = None
        assert [run.run_id for run in (await question.answer()).found] == [1]


async def test_what_nobody_foresaw_comes_out_as_it_is() -> None:
    client = DbtCloud(fault=ZeroDivisionError()).client()
    with pytest.raises(ZeroDivisionError):
        await found(client, 1)


async def test_a_list_that_nobody_waits_for_any_more_is_not_read_to_its_end() -> None:
    cloud = DbtCloud()
    cloud.add(2_000)
    client = cloud.client()
    asking = asyncio.create_task(found(client, 1))
    await asyncio.sleep(LATENCY / 2)
    asking.cancel()
    await asyncio.sleep(10)
    assert cloud.requests == 1
    assert not client._look_ups._lines, "and nothing is kept of it"


async def test_a_connection_that_is_given_up_leaves_nobody_waiting() -> None:
    cloud = DbtCloud()
    client = cloud.client()
    asking = asyncio.create_task(found(client, 1))
    await asyncio.sleep(LATENCY / 2)
    await client.close()
    with pytest.raises(Unreachable, match="given up"):
        await asking


async def test_a_run_that_cannot_be_read_is_the_trouble_of_whoever_looks_for_it() -> None:
    cloud = DbtCloud()
    cloud.add(cause=marker(1), status=77, in_progress=None)
    client = cloud.client()
    answers = await asyncio.gather(*(found(client, number) for number in (1, 2)), return_exceptions=True)
    assert isinstance(answers[0], ServerFault)
    assert answers[1] == []


async def test_of_endless_runs_with_one_marker_the_oldest_are_kept() -> None:
    cloud = DbtCloud()
    cloud.add(3_000, cause=marker(1))
    assert list(await found(cloud.client(), 1)) == list(range(1, MAX_FOUND + 1))


async def test_a_run_that_has_the_marker_and_resumes_the_run_is_found_once() -> None:
    cloud = DbtCloud()
    cloud.add(cause=marker(1), retrying_run_id=5)
    cloud.add(cause="other", retrying_run_id=5)
    with cloud.client().look_up(JOB, marker(1), 5, account.NOON - HOUR) as question:
        assert [run.run_id for run in (await question.answer()).found] == [1, 2]
