"""Who may ask the API server next.

Thousands of objects can want to write at once. Sent all together, they open a connection each, hold each other up past
their time-outs, and starve the renewal of the Lease. So a few go at once, and the most pressing goes first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum


class Urgency(Enum):
    """What a request is for; the value is the seconds for which others may go first."""

    START = 0.0
    """A claim is good for seconds, and its run must be written down."""
    STATUS = 2.0
    OTHER = 10.0
    EVENT = 30.0


class Turns:
    """So many at once. In the queue the earliest deadline is first, so nobody waits for ever."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def turn(self, urgency: Urgency) -> AsyncIterator[None]:
        """A turn, for as long as the block lasts."""
        await self._acquire(urgency)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, urgency: Urgency) -> None:
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        called: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._queue, (loop.time() + urgency.value, next(self._arrivals), called))
        try:
            await called
        except asyncio.CancelledError:
            if not called.cancelled():  # called and cancelled at once: the turn goes on to the next
                self._release()
            raise

    def _release(self) -> None:
        while self._queue:
            *_, called = heapq.heappop(self._queue)
            if not called.done():
                called.set_result(None)
                return
        self._free += 1
