"""How much of the event loop the replies of dbt Cloud may take: one part at a time, and a quarter of it in all.

The host that a Secret names as dbt Cloud can send as fast as the network is, on many connections at once. Parsing that
would take all of the loop's time, and everyone else would wait. So each part that is read or decoded takes a turn, the
connections take turns, and all turns together take a quarter of the loop's time.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final

import httpcore

PART: Final = 32 * 1024
"""Bytes that are read in one turn."""
PART_OF_THE_LOOP: Final = 0.25
"""Of the loop's time, what replies may take on average."""
BURST: Final = 0.02
"""Seconds of processor time that they may take at once after a quiet time. A poll takes a tenth of it."""
CREDIT: Final = 0.005
"""Seconds of processor time in each second that a connection may use while the others' turns are being rested from: two
polls of a hundred runs."""
LONGEST_REST: Final = 0.1
"""Seconds; the largest file takes a second of a processor to decode, and others need not wait three for it."""


class Turns:
    """One turn at a time. Of those who wait, the connection whose turns took the least time goes next.

    Start-time fair queueing: a connection is due at the virtual time of its last turn plus what that turn took. One
    that was idle is due at once and has saved nothing up.

    Args:
        used: seconds of processor time; on a busy machine a turn lasts longer than it takes.
    """

    def __init__(self, used: Callable[[], float] = time.process_time) -> None:
        self._used = used
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._due: dict[Hashable, float] = {}
        """Virtual times in the future, by connection."""
        self._now = 0.0
        self._credits: dict[Hashable, tuple[float, float]] = {}
        """What was left, and when, by connection."""
        self._owner: Hashable = None
        self._active = False
        self._resting: asyncio.Handle | None = None
        self._since = 0.0
        self._level = BURST
        self._level_at = -math.inf

    async def take(self, owner: Hashable) -> None:
        """Waits for a turn. It lasts until `end`."""
        if not self._active and self._may_begin(owner):
            self._begin(owner)
            return
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(called)
        try:
            await called
        except asyncio.CancelledError:
            if not called.cancelled():  # called and cancelled at once: the turn goes on to the next
                self.end()
            raise

    async def pass_through(self, owner: Hashable) -> None:
        """Takes a turn that lasts until the loop's next round."""
        await self.take(owner)
        asyncio.get_running_loop().call_soon(self.end)

    def end(self) -> None:
        """Ends the turn; the next one begins when there is time for it."""
        took = self._used() - self._since
        self._due[self._owner] = max(self._due.get(self._owner, 0.0), self._now) + took
        loop = asyncio.get_running_loop()
        # May go below zero: what a long turn took too much is rested from afterwards.
        self._level = min(BURST, self._level + (loop.time() - self._level_at) * PART_OF_THE_LOOP) - took
        self._level_at = loop.time()
        self._credits[self._owner] = self._credit(self._owner) - took, loop.time()
        self._active = False
        if self._resting is None:
            rest = min(max(0.0, -self._level / PART_OF_THE_LOOP), LONGEST_REST)
            self._resting = loop.call_later(rest, self._rested)
        self._serve()

    def _rested(self) -> None:
        self._resting = None
        self._serve()
        if not self._active:
            self._due.clear()  # no one waits: all start from zero
            self._credits.clear()

    def _serve(self) -> None:
        while not self._active and (able := [owner for owner in self._waiting if self._may_begin(owner)]):
            owner = min(able, key=lambda one: self._due.get(one, 0.0))
            called = self._waiting[owner].popleft()
            if not self._waiting[owner]:
                del self._waiting[owner]
            if not called.done():
                self._now = max(self._now, self._due.get(owner, 0.0))
                self._begin(owner)
                called.set_result(None)

    def _may_begin(self, owner: Hashable) -> bool:
        return self._resting is None or self._credit(owner) > 0

    def _credit(self, owner: Hashable) -> float:
        now = asyncio.get_running_loop().time()
        left, at = self._credits.get(owner, (CREDIT, now))
        return min(CREDIT, left + (now - at) * CREDIT)

    def _begin(self, owner: Hashable) -> None:
        self._active, self._owner = True, owner
        self._since = self._used()


class PacedBackend(httpcore.AsyncNetworkBackend):
    """A network whose bytes come in parts, each in a turn. What a request sends is not slowed down."""

    def __init__(self, inner: httpcore.AsyncNetworkBackend, turns: Turns, owner: Hashable) -> None:
        self._inner = inner
        self._turns = turns
        self._owner = owner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """As httpcore's."""
        stream = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _PacedStream(stream, self._turns, self._owner)

    async def sleep(self, seconds: float) -> None:
        """As httpcore's."""
        await self._inner.sleep(seconds)


class _PacedStream(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream, turns: Turns, owner: Hashable) -> None:
        self._inner = inner
        self._turns = turns
        self._owner = owner
        self._socket: socket.socket | None = inner.get_extra_info("socket")

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._inner.read(min(max_bytes, PART), timeout)
        await self._turns.pass_through(self._owner)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _PacedStream(
            await self._inner.start_tls(ssl_context, server_hostname, timeout), self._turns, self._owner
        )

    def get_extra_info(self, info: str) -> Any:
        # The pool asks this of every idle connection, twice for each request, and anyio looks up all that there is to
        # know of a socket to answer it.
        if info == "is_readable" and self._socket is not None:
            # What comes on an idle connection is its end. One that is closed here has ended as well.
            if self._socket.fileno() < 0:
                return True
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        return self._inner.get_extra_info(info)
