"""Who may ask the API server next.

Thousands of objects can want to write at once. Sent all together, they open a connection each, hold each other up past
their time-outs, and starve the renewal of the Lease. So a few go at once; namespaces take turns, and within a namespace
the most pressing request goes first.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum

from dbtrun.fair import Applicant, FairQueue


class Urgency(Enum):
    """What a request is for; the value is the seconds for which others of its namespace may go first."""

    START = 0.0
    """A claim is good for seconds, and its run must be written down."""
    STATUS = 2.0
    OTHER = 10.0
    EVENT = 30.0
    LIST = 5.0
    """In a line of its own: behind thousands of writes, the watch would look dead, and decisions would be made upon
    what is long past."""


class Turns:
    """So many at once. Within a namespace the earliest deadline goes first, so no request waits for ever."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._queue = FairQueue()
        self._called: dict[str, asyncio.Future[None]] = {}
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def turn(self, urgency: Urgency, namespace: str = "") -> AsyncIterator[None]:
        """A turn, for as long as the block lasts.

        Args:
            namespace: whose request it is; requests of no namespace share a line of their own.
        """
        if self._free:
            self._free -= 1
        else:
            loop = asyncio.get_running_loop()
            called: asyncio.Future[None] = loop.create_future()
            uid = f"{next(self._arrivals):020}"  # padded, so that equal deadlines keep the order of arrival
            self._called[uid] = called
            self._queue.push(Applicant(uid=uid, namespace=namespace, created=loop.time() + urgency.value))
            try:
                await called
            except asyncio.CancelledError:
                if called.cancelled():
                    self._queue.discard(uid)
                    self._called.pop(uid, None)
                else:  # called and cancelled at once: the turn goes on to the next
                    self._release()
                raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        while self._queue:
            called = self._called.pop(self._queue.pop().uid)
            # Else its task was cancelled while it waited, and the turn goes to the next.
            if not called.done():
                called.set_result(None)
                return
        self._free += 1
