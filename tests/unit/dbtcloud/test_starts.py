"""Places for starts: few at once, in order, and none is lost."""

from __future__ import annotations

import asyncio

import pytest

from dbtrun.fair import Applicant
from watcher.dbtcloud.starts import Starts

pytestmark = pytest.mark.looptime


def applicant(uid: str, namespace: str = "team", priority: int = 0) -> Applicant:
    return Applicant(uid=uid, namespace=namespace, priority=priority)


async def turns() -> None:
    """Lets everything that can go on go on."""
    await asyncio.sleep(0.001)


async def test_no_more_than_so_many_are_under_way_and_the_others_follow_in_order() -> None:
    starts, begun = Starts(at_once=2), list[str]()

    async def one(uid: str) -> None:
        assert await starts.begin(applicant(uid))
        begun.append(uid)

    tasks = [asyncio.create_task(one(uid)) for uid in "abcd"]
    await turns()
    assert (begun, starts.crowded) == (["a", "b"], True)
    starts.end("b")
    starts.end("unknown")
    await turns()
    assert begun == ["a", "b", "c"]
    starts.end("a")
    await asyncio.gather(*tasks)
    assert (begun, starts.under_way, starts.crowded) == (["a", "b", "c", "d"], 2, False)


async def test_one_that_waits_can_be_interrupted_and_takes_no_place() -> None:
    starts = Starts(at_once=1)
    assert await starts.begin(applicant("a"))
    waiting = asyncio.create_task(starts.begin(applicant("b")))
    await turns()
    starts.interrupt("b")
    assert not await waiting
    starts.end("a")
    assert starts.under_way == 0


async def test_one_that_gives_up_waiting_leaves_the_turn_to_the_next() -> None:
    starts = Starts(at_once=1)
    assert await starts.begin(applicant("a"))
    second, third = asyncio.create_task(starts.begin(applicant("b"))), asyncio.create_task(starts.begin(applicant("c")))
    await turns()
    second.cancel()
    await turns()
    starts.end("a")
    assert await third


async def test_a_place_that_nobody_gives_back_comes_back_by_itself() -> None:
    starts = Starts(at_once=1, seconds=90)
    assert await starts.begin(applicant("a"))
    assert await starts.begin(applicant("b"))
    assert asyncio.get_running_loop().time() == pytest.approx(90, abs=1)


async def test_whoever_has_a_place_keeps_it() -> None:
    starts = Starts(at_once=1)
    assert await starts.begin(applicant("a"))
    assert await starts.begin(applicant("a"))
    assert starts.under_way == 1


async def test_one_run_of_another_namespace_does_not_wait_for_a_backlog() -> None:
    starts, begun = Starts(at_once=1), list[str]()

    async def one(uid: str, namespace: str, priority: int = 0) -> None:
        assert await starts.begin(applicant(uid, namespace, priority))
        begun.append(uid)
        starts.end(uid)

    async with asyncio.TaskGroup() as group:
        assert await starts.begin(applicant("first"))
        for number in range(300):
            group.create_task(one(f"a{number:03}", "busy", priority=number == 299))
        group.create_task(one("b", "quiet"))
        await turns()
        starts.end("first")
    assert begun[:3] == ["a299", "b", "a000"]
