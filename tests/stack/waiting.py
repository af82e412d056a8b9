"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.patience import patience

T = TypeVar("T")


async def until(
    condition: Callable[[], Awaitable[T | None]], seconds: float = 60.0, what: str = "", pause: float = 0.2
) -> T:
    """The first true answer of the condition.

    Args:
        condition: what is waited for.
        seconds: in which it comes true on an idle machine.
        what: names it in the error.
        pause: between two looks.

    Raises:
        AssertionError: none came in time; it shows the last answer.
    """
    answer: object = None
    try:
        async with asyncio.timeout(patience(seconds)):
            while True:
                answer = await condition()
                if answer:
                    return answer
                await asyncio.sleep(pause)
    except TimeoutError:
        raise AssertionError(
            f"{what or condition} did not come true in {seconds:g} s; the last answer: {answer!r}"
        ) from None
