"""Things that all tasks of one event loop share, made on first use and closed a while after the last.

Airflow gives a trigger no place to keep anything in common with its neighbours, `dag.test()` makes a new event loop for
each trigger, and a connection belongs to the loop it was made in. So the loop is part of the key.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class _Entry(Generic[V]):
    def __init__(self, value: V) -> None:
        self.value = value
        self.users = 0
        self.closing: asyncio.TimerHandle | None = None


class PerLoop(Generic[K, V]):
    """Values by (running event loop, key), counted by use.

    `make` is called inside the loop and must not block. `close` runs `linger` seconds after the last lease ended; a
    loop that ends earlier takes its values along.
    """

    def __init__(self, make: Callable[[K], V], close: Callable[[V], Coroutine[Any, Any, None]]) -> None:
        self._make = make
        self._close = close
        self._loops: dict[asyncio.AbstractEventLoop, dict[K, _Entry[V]]] = {}
        self._closings: set[asyncio.Task[None]] = set()

    def lease(self, key: K, linger: float = 0.0) -> Lease[K, V]:
        """The shared value of this loop for `key`, kept at least as long as this context."""
        return Lease(self, key, linger)

    def _take(self, key: K) -> _Entry[V]:
        for loop in [loop for loop in self._loops if loop.is_closed()]:
            self._loops.pop(loop, None)
        entries = self._loops.setdefault(asyncio.get_running_loop(), {})
        if key not in entries:
            entries[key] = _Entry(self._make(key))
        entry = entries[key]
        entry.users += 1
        if entry.closing is not None:
            entry.closing.cancel()
            entry.closing = None
        return entry

    async def _give_back(self, key: K, entry: _Entry[V], linger: float) -> None:
        entry.users -= 1
        if entry.users:
            return
        loop = asyncio.get_running_loop()
        if not linger:
            # Not in a task: a loop that is being torn down would not wait for a new one.
            del self._loops[loop][key]
            await self._close(entry.value)
            return
        # An empty context: the last user's would send the value's last words to that task's log.
        context = contextvars.Context()
        entry.closing = loop.call_later(linger, self._expire, loop, key, entry, context, context=context)

    def _expire(self, loop: asyncio.AbstractEventLoop, key: K, entry: _Entry[V], context: contextvars.Context) -> None:
        del self._loops[loop][key]
        task = loop.create_task(self._close(entry.value), context=context)
        self._closings.add(task)
        task.add_done_callback(self._closings.discard)


class Lease(Generic[K, V]):
    """One use of a shared value. A class, as `contextlib` would keep a generator for each trigger that waits."""

    __slots__ = ("_entry", "_key", "_linger", "_values")

    def __init__(self, values: PerLoop[K, V], key: K, linger: float) -> None:
        self._values, self._key, self._linger = values, key, linger

    async def __aenter__(self) -> V:
        self._entry = self._values._take(self._key)
        return self._entry.value

    async def __aexit__(self, *_raised: object) -> None:
        await self._values._give_back(self._key, self._entry, self._linger)
