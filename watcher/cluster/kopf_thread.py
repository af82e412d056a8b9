"""kopf, kept apart: in a thread and event loop of its own, with one operator for each namespace.

An operator ends with the first namespace that it may not watch, so each has its own. On its way out kopf cancels
whatever tasks it finds in its loop: it is shown the operator's own alone. It only watches: it writes nothing to any
object. It does not list either: its list is answered with nothing but the version that its watch goes on from, as we
list ourselves once the watch is open. kopf is imported in that thread, too: that takes a third of the time for all
imports, and the first runs start meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from weakref import WeakSet

import aiohttp
from yarl import URL

from dbtrun.api import PLURAL, DbtRun
from watcher.cluster.kopf_login import IDENTITY, Login
from watcher.cluster.mirror import Unreadable

if TYPE_CHECKING:
    import kopf

logger = logging.getLogger(__name__)


SILENCE_SECONDS: Final = 90.0
"""A watch without a byte for this long is opened again. The API server sends a bookmark about once a minute."""
STOP_SECONDS: Final = 0.8
"""How long the end of a watch is awaited. A kopf that is still starting takes five: then it ends unattended."""
ANSWER_SECONDS: Final = 2.0
"""A thread that does not answer within this time hangs."""
FEW: Final = 4
"""Requests of kopf's under way besides watches; a hundred namespaces begin at once."""
NOTHING: Final = {"fieldSelector": "metadata.name=-", "limit": "1"}
"""A list that is always empty: no object has this name."""


class Listener(Protocol):
    """What a watch reports, in the loop of the caller that opened it."""

    def opened(self, resource_version: str) -> None:
        """It brings everything newer than this version. Called again after a gap, in which something may be missed."""

    def changed(self, item: DbtRun | Unreadable) -> None:
        """The object is new, or has changed."""

    def deleted(self, uid: str) -> None:
        """The object is gone."""


class Watching(Protocol):
    """An open watch."""

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when kopf has ended it, with its exception if it had one."""

    def finish(self, error: BaseException | None) -> None:
        """Treats it as ended."""


class Kopf:
    """Opens watches, all in one thread; a thread that hangs is abandoned and replaced."""

    def __init__(self, login: Login, *, silence: float = SILENCE_SECONDS) -> None:
        self._login = login
        self._silence = silence
        self._thread: _Thread | None = None

    @asynccontextmanager
    async def watch(self, namespace: str | None, listener: Listener) -> AsyncIterator[Watching]:
        """Watches a namespace, or all with None, until the block is left."""
        if self._thread is None:
            log = logging.getLogger("kopf")
            if log.level == logging.NOTSET:
                # It logs every event, and the traceback of what comes out of `ended` anyway.
                log.setLevel(logging.CRITICAL)
            self._thread = _Thread()
        thread = self._thread
        watch = _Watch(thread, namespace, listener, self._silence)
        thread.watches.add(watch)
        thread.run(watch.operate(self._login))
        try:
            yield watch
        finally:
            if not await watch.stop() and not await thread.answers():
                if self._thread is thread:
                    logger.warning("The thread of kopf's watch does not respond; a new thread replaces it.")
                    self._thread = None
                for stuck in tuple(thread.watches):
                    stuck.finish(RuntimeError("its thread stands still"))
            thread.watches.discard(watch)

    def close(self) -> None:
        """Ends the thread; whatever is still open in it ends unattended."""
        if self._thread is not None:
            self._thread.end()
            self._thread = None


class _Thread:
    """An event loop in a thread. A daemon, and not of asyncio's pool: one that hangs must not keep the process."""

    def __init__(self) -> None:
        self.watches: set[_Watch] = set()
        self.sessions = _Sessions()
        self._loop = asyncio.new_event_loop()
        # The only place where every task of kopf's shows as it is created, with the watch that it works for.
        self._loop.set_task_factory(cast("Any", _create_task))
        self._over = asyncio.Event()
        threading.Thread(target=self._main, name="kopf", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, callback: Callable[..., Any], *args: Any) -> None:
        self._loop.call_soon_threadsafe(callback, *args)

    async def answers(self) -> bool:
        """Whether the thread answers in time."""
        answered = asyncio.wrap_future(self.run(asyncio.sleep(0)))
        done, _ = await asyncio.wait({answered}, timeout=ANSWER_SECONDS)
        return bool(done)

    def end(self) -> None:
        self.call(self._over.set)

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._over.wait())


class _Watch:
    """One namespace's operator, as both threads see it."""

    def __init__(self, thread: _Thread, namespace: str | None, listener: Listener, silence: float) -> None:
        self._thread = thread
        self._namespace = namespace
        self._listener = listener
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._stopped = False
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()

    async def stop(self) -> bool:
        """Whether it has ended in time; nothing is reported from here on."""
        self._stopped = True
        self._thread.call(self._stop.set)
        await asyncio.wait({self.ended}, timeout=STOP_SECONDS)
        if not self.ended.done():
            logger.debug("kopf has not stopped within %s s; it is abandoned.", STOP_SECONDS)
            return False
        self.ended.exception()  # retrieved, or asyncio would complain about it
        return True

    def finish(self, error: BaseException | None) -> None:
        if self.ended.done():
            return
        if error is None or self._stopped:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))

    # ── in kopf's thread ──

    async def operate(self, login: Login) -> None:
        _OWNER.set(self)
        error: BaseException | None = None
        try:
            from watcher.cluster import kopf_operator  # imports kopf

            await kopf_operator.operate(
                self._namespace,
                login,
                lambda info: _Requests(self._thread.sessions.take(info), self._thread.sessions, self._listed),
                lambda item: self._tell(self._listener.changed, item),
                lambda uid: self._tell(self._listener.deleted, uid),
                silence=self._silence,
                stop=self._stop,
                strangers=_Strangers(self.tasks),
            )
        except BaseException as caught:  # noqa: BLE001 - it comes out of `ended`
            error = caught
        self._call(self.finish, error)

    def _listed(self, resource_version: str) -> None:
        self._tell(self._listener.opened, resource_version)

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        if not self._stopped:
            self._call(self._told, callback, *args)

    def _told(self, callback: Callable[..., None], *args: Any) -> None:
        # Asked again in our loop: the watch may have been left while the call was on its way.
        if not self._stopped:
            callback(*args)

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        with suppress(RuntimeError):  # our loop is closed already: nobody listens any more
            self._loop.call_soon_threadsafe(callback, *args)


_OWNER: ContextVar[_Watch] = ContextVar("owner")
"""The watch for which a task of kopf's loop works; a task has it from the one that created it."""


def _create_task(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, **options)
    owner = _OWNER.get(None)
    if owner is not None:
        owner.tasks.add(task)
    return task


@dataclass(frozen=True)
class _Strangers:
    """Whatever runs in kopf's loop and is not this watch's."""

    own: WeakSet[asyncio.Task[Any]]

    def __contains__(self, task: object) -> bool:
        return task not in self.own

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return (task for task in asyncio.all_tasks() if task in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass
class _Sessions:
    """One session for all operators of a thread, and another when the identity changes (a renewed token)."""

    _current: tuple[kopf.ConnectionInfo, aiohttp.ClientSession] | None = None
    _users: dict[aiohttp.ClientSession, int] = field(default_factory=dict)
    few: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FEW))
    """For all requests but watches: asyncio keeps a quarter of a megabyte for each TLS connection."""

    def take(self, info: kopf.ConnectionInfo) -> aiohttp.ClientSession:
        if self._current is None or self._current[0] != info:
            # Unlimited, as each watch holds a connection. Other requests are limited by `few`.
            connector = aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context())
            headers = {"User-Agent": IDENTITY, **info.as_http_headers()}
            session = aiohttp.ClientSession(connector=connector, headers=headers, proxy=info.proxy_url)
            self._current = info, session
            self._users[session] = 0
        session = self._current[1]
        self._users[session] += 1
        return session

    async def leave(self, session: aiohttp.ClientSession) -> None:
        self._users[session] -= 1
        if not self._users[session]:
            del self._users[session]
            if self._current is not None and self._current[1] is session:
                self._current = None
            await session.close()


class _Requests:
    """A session as kopf uses it. Its list of DbtRuns is empty, and says from where its watch goes on."""

    def __init__(self, session: aiohttp.ClientSession, sessions: _Sessions, listed: Callable[[str], None]) -> None:
        self._session = session
        self._sessions = sessions
        self._listed = listed
        # kopf (1.45) looks at these two of a session.
        self.headers = session.headers
        self.closed = False

    async def request(self, *, method: str, url: str, **options: Any) -> aiohttp.ClientResponse:
        asked = URL(url)
        lists = asked.name == PLURAL and "watch" not in asked.query
        if "watch" in asked.query:
            return await self._session.request(method, asked, **options)
        async with self._sessions.few:
            response = await self._session.request(method, asked.update_query(NOTHING) if lists else asked, **options)
            await response.read()  # and the connection is free for the next
        if lists and response.ok:
            self._listed(str((await response.json())["metadata"]["resourceVersion"]))
        return response

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            await self._sessions.leave(self._session)
