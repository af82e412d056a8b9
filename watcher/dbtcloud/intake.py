"""The bytes of replies that the process holds at once, of all connections together.

A reply is counted until it is decoded. When too many bytes are held, the replies of connections that hold many wait:
TCP slows their senders down. The oldest of them always goes on, so that waiting has an end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from watcher.dbtcloud.turns import Turns

TOTAL: Final = 24 * 1024 * 1024
"""Bytes held at once; one more reply of the greatest length may come on top."""
SHARE: Final = 512 * 1024
"""Bytes that a connection may always hold: a page of a hundred runs."""
SLOW_SECONDS: Final = 10.0
"""A reply for which others have waited for longer is given up."""
LOOK_SECONDS: Final = 0.5
"""Between two looks of one that waits at whether the oldest reply is slow."""
AT_ONCE: Final = 16 * 1024
"""Bytes that are decoded without a turn."""
IN_THE_LOOP: Final = 128 * 1024
"""Bytes that are decoded in the event loop; more are decoded in a thread."""
PIECES_IN_A_TURN: Final = 256
"""Pieces of a reply: each costs the loop some time, however small it is."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Body:
    """One reply while it is read and decoded."""

    owner: Hashable
    turn_at: float | None = None
    """Since when others wait for it alone."""
    content: bytearray = field(default_factory=bytearray)
    pieces: int = 0
    give_up: Callable[[], object] | None = None
    """Ends the request while its reply is read."""


class Intake:
    """Counts and slows down what is read. All of it on one event loop."""

    def __init__(self, total: int = TOTAL) -> None:
        self._total = total
        self._bodies: dict[Body, None] = {}
        self._held: Counter[Hashable] = Counter()
        self._changed = asyncio.Event()
        self.turns = Turns()
        # One thread, as one reply is decoded at a time: the C library keeps freed memory for each thread by itself.
        self._decoder = ThreadPoolExecutor(1, "decode")

    @property
    def held(self) -> int:
        """Bytes of replies that are held now."""
        return self._held.total()

    @contextmanager
    def body(self, owner: Hashable) -> Iterator[Body]:
        """A reply of one connection, counted until the block ends."""
        body = Body(owner)
        self._bodies[body] = None
        try:
            yield body
        finally:
            del self._bodies[body]
            self._held[owner] -= len(body.content)
            if not self._held[owner]:
                del self._held[owner]
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def add(self, body: Body, piece: bytes) -> None:
        """Takes a piece of the reply, and waits until the next one may be read."""
        body.content += piece
        body.pieces += 1
        self._held[body.owner] += len(piece)
        if body.pieces % PIECES_IN_A_TURN == 0:
            await self.turns.pass_through(body.owner)
        # The oldest of the limited replies always goes on, so that waiting has an end.
        while self.held > self._total and self._held[body.owner] > SHARE and self._oldest() is not body:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                oldest, now = self._oldest(), asyncio.get_running_loop().time()
                if oldest is not None and oldest is not body and oldest.give_up is not None:
                    oldest.turn_at = oldest.turn_at or now
                    if now - oldest.turn_at > SLOW_SECONDS:
                        oldest.give_up()

    async def decode(self, body: Body, read: Callable[[], T]) -> T:
        """Runs `read`, where it does not hold up the loop for long."""
        # From here on the reply is complete: ending the request could only lose it.
        body.give_up = None
        if len(body.content) <= AT_ONCE:
            return read()
        await self.turns.take(body.owner)
        try:
            if len(body.content) <= IN_THE_LOOP:
                return read()
            return await asyncio.get_running_loop().run_in_executor(self._decoder, read)
        finally:
            self.turns.end()

    def _oldest(self) -> Body | None:
        """The oldest reply of a connection that holds more than its share."""
        return next((body for body in self._bodies if self._held[body.owner] > SHARE), None)
