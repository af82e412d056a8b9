"""kopf, kept apart: in its own thread and event loop.

On its way out kopf cancels whatever tasks it finds in its loop, so it gets one without ours. It only watches: it
writes nothing to any object, and its handler returns None because kopf would write a result into the status.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Final, Self

import kopf

from watcher.api import GROUP, PLURAL, VERSION
from watcher.cluster.access import ClusterAccessError

logger = logging.getLogger(__name__)

Deliver = Callable[[str | None, Mapping[str, Any]], None]
Login = Callable[[], Awaitable[kopf.ConnectionInfo]]

SILENCE_SECONDS: Final = 90.0
"""A watch without a byte for this long is opened anew. The API server sends a bookmark about once a minute."""
IDENTITY: Final = "dbtrun"
"""Unused without peering. By default kopf asks for the user's name, and a container's uid often has none."""
STOP_SECONDS: Final = 0.8
"""How long a stop is awaited. A kopf that is still starting takes five: then its thread, a daemon, is left behind."""


class KopfThread:
    """`async with KopfThread(…) as thread`: events arrive by `deliver` in the caller's loop until the block is left."""

    ended: asyncio.Future[None]
    """Done when kopf has ended, with its exception if it had one."""

    def __init__(
        self, login: Login, namespaces: Collection[str], deliver: Deliver, *, silence: float = SILENCE_SECONDS
    ) -> None:
        self._namespaces = tuple(namespaces)
        self._deliver = deliver
        self._silence = silence
        self._stop = threading.Event()
        self._registry = _registry(login, self._forward)

    async def __aenter__(self) -> Self:
        _quieten()
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()
        # Not asyncio.to_thread: a thread of the pool that hangs would keep the process from exiting.
        threading.Thread(target=self._main, name="kopf", daemon=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.wait({self.ended}, timeout=STOP_SECONDS)
        if not self.ended.done():
            logger.debug("kopf has not stopped within %s s; its thread is left behind.", STOP_SECONDS)
        elif not self.ended.cancelled():
            self.ended.exception()  # retrieved, or asyncio would complain about it

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._operate())
        except BaseException as caught:  # noqa: BLE001 - it comes out of `ended`
            error = caught
        self._call(self._finish, error)

    async def _operate(self) -> None:
        scope: dict[str, Any] = {"namespaces": self._namespaces} if self._namespaces else {"clusterwide": True}
        try:
            await kopf.operator(
                registry=self._registry,
                settings=_settings(self._silence),
                standalone=True,
                identity=IDENTITY,  # type: ignore[arg-type]  # a NewType of str that kopf does not export
                stop_flag=self._stop,
                **scope,
            )
        finally:
            self._stop.set()  # kopf awaits the flag in a thread, and asyncio.run awaits that thread

    def _finish(self, error: BaseException | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    def _forward(self, event_type: str | None, body: Mapping[str, Any]) -> None:
        if not self._stop.is_set():
            self._call(self._deliver, event_type, body)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # our loop is closed already: nobody listens any more
            self._loop.call_soon_threadsafe(callback, *args)


def _registry(login: Login, forward: Deliver) -> kopf.OperatorRegistry:
    # The default registry has login handlers of its own, which read ~/.kube/config.
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        try:
            return await login()
        except ClusterAccessError as error:
            logger.warning("kopf cannot log in: %s", error)
            raise kopf.TemporaryError(str(error), delay=5) from error

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        forward(event["type"], event["object"])

    return registry


def _quieten() -> None:
    """kopf logs every event, and tracebacks of what comes out of `ended` anyway. A level that was set before stays."""
    log = logging.getLogger("kopf")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)


def _settings(silence: float) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # or it lists and watches all CRDs and namespaces
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = None  # a SIGKILL is not kopf's to send
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.watching.server_timeout = 300
    settings.watching.inactivity_timeout = silence
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = [1, 1, 2]  # then it ends, and we look why
    return settings


class _NoDiffBase(kopf.DiffBaseStorage):
    """kopf prepares a diff for every event, even if nobody asks for one: a third of its CPU."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """No handler of ours has a progress."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence
