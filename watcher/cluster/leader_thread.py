"""The Lease is renewed in a thread with a client of its own, however busy the loop and its connections are.

A loop that reads large answers, or thousands of objects that all want to write, would renew too late; the watcher would
end, and the next one would meet the same. What the holder promises does not depend on its loop: `is_leader` goes by the
clock. A loop that is blocked for good ends the process by itself (see `watcher.telemetry.vitals`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

from watcher.cluster.access import ClusterAccess
from watcher.cluster.leader import RELEASE_SECONDS, Leader

STOP_SECONDS: Final = RELEASE_SECONDS + 1.0


class LeaderThread:
    """A `Leader` behind the same methods.

    Args:
        load: makes the client, in the thread.
        elect: makes the Leader of a client.
        on_change: called in the loop of `run`.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[ClusterAccess]],
        elect: Callable[[ClusterAccess], Leader],
        on_change: Callable[[bool], None],
    ) -> None:
        self._load = load
        self._elect = elect
        self._on_change = on_change
        self._leader: Leader | None = None

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last looked at; empty if no one did, or if that is not known."""
        return "" if self._leader is None else self._leader.holder

    @property
    def holder_address(self) -> str:
        """Where the holder takes webhooks; empty if that is not known."""
        return "" if self._leader is None else self._leader.holder_address

    def is_leader(self) -> bool:
        """Whether no other replica can hold the Lease at this instant."""
        return self._leader is not None and self._leader.is_leader()

    async def run(self) -> NoReturn:
        """Acquires and renews. Stop what acts before cancelling this: the next holder begins at once.

        Raises:
            RuntimeError: the thread ended.
        """
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._own = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        # A daemon: a thread that hangs in the network must not keep the process from ending.
        threading.Thread(target=self._main, name="leader", daemon=True).start()
        try:
            # Shielded: a future that is cancelled itself could not say below that the thread has ended.
            await asyncio.shield(self._ended)
            raise RuntimeError("the thread that renews the Lease ended")
        finally:
            with suppress(RuntimeError):  # its loop is closed already
                self._own.call_soon_threadsafe(self._stop.set)
            await asyncio.wait({self._ended}, timeout=STOP_SECONDS)

    # ── in the thread ──

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self._own) as runner:
                runner.run(self._compete())
        except BaseException as caught:  # noqa: BLE001 - it comes out of `run`
            error = None if self._stop.is_set() else caught
        self._call(self._finish, error)

    async def _compete(self) -> None:
        access = await self._load()
        self._leader = self._elect(access)
        self._leader.on_change = lambda leading: self._call(self._on_change, leading)
        work = asyncio.create_task(self._leader.run())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            work.cancel()
            await asyncio.wait({work})
            await access.close()
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    def _finish(self, error: BaseException | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the other loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback, *arguments)
