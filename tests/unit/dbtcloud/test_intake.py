"""Bytes of replies are bounded for the whole process, and who reads little does not wait."""

from __future__ import annotations

import asyncio
import threading

import pytest

from watcher.dbtcloud.intake import SHARE, SLOW_SECONDS, Intake

pytestmark = pytest.mark.looptime

MIB = 2**20


async def reading(intake: Intake, owner: str, size: int, given_up: asyncio.Event, *, hold: float = 0.0) -> int:
    """A reply that is read piece by piece and then held; returns the most that was held meanwhile."""
    most = 0
    with intake.body(owner) as body:
        body.give_up = given_up.set
        for _ in range(0, size, SHARE):
            if given_up.is_set():
                return most
            await intake.add(body, bytes(SHARE))
            most = max(most, intake.held)
        await asyncio.sleep(hold)
        return most


async def test_many_large_replies_are_held_one_after_the_other() -> None:
    intake, never = Intake(total=8 * MIB), asyncio.Event()
    most = await asyncio.gather(*(reading(intake, f"c{n}", 6 * MIB, never, hold=1.0) for n in range(20)))
    assert max(most) <= 8 * MIB + 20 * 2 * SHARE + 6 * MIB
    assert intake.held == 0
    assert not never.is_set()


async def test_who_reads_little_does_not_wait_for_those_who_read_much() -> None:
    intake, never = Intake(total=8 * MIB), asyncio.Event()
    greedy = [asyncio.create_task(reading(intake, "greedy", 32 * MIB, never, hold=9.0)) for _ in range(5)]
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    await reading(intake, "modest", SHARE, never)
    assert asyncio.get_running_loop().time() - began < 0.1
    for task in greedy:
        task.cancel()
    await asyncio.wait(greedy)
    assert intake.held == 0


async def test_a_reply_that_lasts_is_given_up_when_others_wait() -> None:
    intake, slow, never = Intake(total=2 * MIB), asyncio.Event(), asyncio.Event()

    async def drip() -> None:
        with intake.body("slow") as body:
            body.give_up = slow.set
            await intake.add(body, bytes(4 * MIB))
            await slow.wait()

    dripping = asyncio.create_task(drip())
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    await reading(intake, "quick", 4 * MIB, never)
    assert asyncio.get_running_loop().time() - began < SLOW_SECONDS + 5
    await dripping


async def test_a_large_reply_is_decoded_in_a_thread_and_a_small_one_at_once() -> None:
    intake = Intake()
    here = threading.get_ident()
    for size, inside in ((1_000, True), (MIB, False)):
        with intake.body("a") as body:
            await intake.add(body, bytes(size))
            assert (await intake.decode(body, threading.get_ident) == here) is inside
