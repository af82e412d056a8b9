"""A coroutine that a thread without a loop waits for."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from airflow_trigger.shared.blocking import blocking


class Interrupted(BaseException):
    """As Airflow's own: raised in the main thread by a signal's handler."""


@pytest.fixture
def interrupting() -> Iterator[None]:
    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


def test_its_result_is_returned() -> None:
    assert blocking(answer()) == 42


def test_its_error_is_raised_here() -> None:
    async def fails() -> None:
        raise LookupError("so")

    with pytest.raises(LookupError, match="so"):
        blocking(fails())


def test_a_task_that_is_interrupted_leaves_nothing_running(interrupting: None) -> None:
    ended = threading.Event()

    async def for_ever() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(Interrupted):
        blocking(for_ever())
    assert ended.is_set()


def test_a_signals_handler_can_wait_for_one_while_another_is_interrupted() -> None:
    answers: list[int] = []
    release = threading.Event()

    def handle(number: int, frame: object) -> None:
        answers.append(blocking(answer()))
        release.set()

    async def until_released() -> str:
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.to_thread(release.wait, 10)
        return "done"

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        assert blocking(until_released()) == "done"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answers == [42]


def test_one_that_takes_too_long_is_cancelled() -> None:
    ended = threading.Event()

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        blocking(for_ever(), 0.01)
    assert ended.is_set()
