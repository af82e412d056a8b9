"""One list-then-watch for everybody who waits on DbtRuns of a namespace.

A watch for each task would cost the API server a connection and the triggerer some 300 kB each; polling would cost
requests. So all waiters of an event loop share one watch, which outlives single waiters for a while, and each is told
the state at its subscription, so that nothing can be missed between creating an object and waiting for it.

The watch tells of ends alone: every write to a live run would wake the triggerer, and most are its progress. What a
task's log says of a live run, and a deletion in the middle of one, is found by a look at the live ones every few
seconds.

The watch is doubted on every trouble: it lists again and tells everybody what is true then. Only a refusal (permission,
credentials, no CRD) is told to the waiters; that the API server is away is not their business.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec.structs import replace

from airflow_trigger.shared.objects import Denied, Gone, Run, Seen, State
from airflow_trigger.waiting.runs import Change, HubRuns, Listing, Runs
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.connect import leased
from dbtrun.kube.errors import AlreadyExists, Denial, KubeError, NotFound, Rejected, Unreachable
from dbtrun.kube.per_loop import PerLoop
from dbtrun.kube.retry import pauses
from dbtrun.kube.watch import Progress, Removed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How patient a hub is; all in seconds.

    `silence` must be longer than the API server's 60 s between bookmarks, else a quiet watch is taken for a dead one.
    `recheck` is the pause between two looks at the live ones where they are few. It grows with their number, up to
    `longest_recheck`: so many objects are read at a time that it costs the processor a few thousandths.
    """

    linger: float = 10.0
    silence: float = 90.0
    recheck: float = 5.0
    longest_recheck: float = 60.0
    first_retry: float = 0.2
    longest_retry: float = 30.0
    denied_retry: float = 5.0

    def recheck_of(self, live: int) -> float:
        """The pause after a look that found so many live ones."""
        return max(self.recheck, min(self.longest_recheck, live / LOOKED_AT))

    def retries(self) -> Iterator[float]:
        """Growing pauses, with jitter."""
        return pauses(self.first_retry, self.longest_retry)


DEFAULT_PACE: Final = Pace()
LOOKED_AT: Final = 20
"""Live objects that are read in a second: 1,000 are looked at every 50 seconds. Each look reads all of them, and a
thousand waiting triggers must not cost more than a fiftieth of what polling dbt Cloud costs."""
SLICE: Final = 50
"""Waiters that get a state in one turn of the event loop: each of them then does some work."""


class subscribe:  # noqa: N801 - a class, as `contextlib` would keep a generator for each trigger that waits
    """The states of one DbtRun from now on: first how it is, then its end or deletion; what comes between may be late.

    Iteration never ends; it raises nothing but CancelledError. A slow reader is told the newest state only.
    """

    __slots__ = ("_hub", "_lease", "_name", "_states")

    def __init__(self, config: ClusterConfig, namespace: str, name: str, pace: Pace = DEFAULT_PACE) -> None:
        self._lease = _hubs.lease((config, namespace, pace), pace.linger)
        self._name = name

    async def __aenter__(self) -> Subscription:
        self._hub = await self._lease.__aenter__()
        self._states = Subscription(self._hub, self._name)
        self._hub.join(self._states)
        return self._states

    async def __aexit__(self, *raised: object) -> None:
        self._hub.leave(self._states)
        await self._lease.__aexit__(*raised)


class Subscription:
    """One waiter's view of one DbtRun."""

    __slots__ = ("_hub", "_rest", "_retries", "_state", "_unsure", "_wakeup", "name")

    def __init__(self, hub: Hub, name: str) -> None:
        self.name = name
        self._hub = hub
        self._state: State | None = None
        self._unsure = True
        self._wakeup: asyncio.Future[None] | None = None
        self._retries: Iterator[float] | None = None
        self._rest = 0.0

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> State:
        while self._state is None:
            if self._rest:
                rest, self._rest = self._rest, 0.0
                await self._changed_within(rest)
            elif self._unsure and self._hub.synced:
                await self._ask()
            else:
                await self._changed()
        state, self._state = self._state, None
        return state

    async def create(self, body: Mapping[str, Any]) -> KubeError | None:
        """Creates the object. What came of it is the next state: Seen (also somebody else's), Denied, or Gone: again.

        Returns the trouble that keeps it from being created for now; None if there is none.

        Raises:
            Rejected: it breaks a rule of the API.
        """
        try:
            self.tell(self._hub.observe(await self._hub.runs.create(body)))
        except AlreadyExists:
            # An earlier try whose answer was lost, or somebody else's object: the next state says which.
            await self._ask()
        except Denial as error:
            await self._refused(error)
        except Rejected:
            raise
        except KubeError as error:
            # The caller gets the error at once; the pause comes before the next look.
            self._rest = self._pause(error)
            self.doubt()
            return error
        return None

    def tell(self, state: State) -> None:
        """Leaves a state for the reader; one that it has not taken yet is replaced."""
        self._state = state
        self._unsure = False
        self._wake()

    def doubt(self) -> None:
        """Nothing certain is known: the object itself is to be asked for."""
        self._unsure = True
        self._wake()

    async def _ask(self) -> None:
        """Only its own 404 says that an object is not there: a list and a watch lag behind."""
        try:
            self.tell(self._hub.observe(await self._hub.runs.get(self.name)))
        except NotFound:
            self.tell(Gone())
        except Denial as error:
            await self._refused(error)
        except KubeError as error:
            await self._changed_within(self._pause(error))

    async def _refused(self, error: Denial) -> None:
        await self._changed_within(self._hub.pace.denied_retry)
        if self._state is None:
            self.tell(Denied(str(error)))
            self.doubt()

    def _pause(self, error: KubeError) -> float:
        self._retries = self._retries or self._hub.pace.retries()
        return max(next(self._retries), error.retry_after)

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _changed(self) -> asyncio.Future[None]:
        self._wakeup = asyncio.get_running_loop().create_future()
        return self._wakeup

    async def _changed_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed()


class listen:  # noqa: N801 - as `subscribe`
    """Which DbtRuns of the namespace end, from now on. It never ends and raises nothing but CancelledError."""

    def __init__(self, config: ClusterConfig, namespace: str, pace: Pace = DEFAULT_PACE) -> None:
        self._lease = _hubs.lease((config, namespace, pace), pace.linger)

    async def __aenter__(self) -> Listener:
        self._hub = await self._lease.__aenter__()
        self._listener = Listener(self._hub)
        self._hub.join_listener(self._listener)
        return self._listener

    async def __aexit__(self, *raised: object) -> None:
        self._hub.leave_listener(self._listener)
        await self._lease.__aexit__(*raised)


class Listener:
    """One reader of all ends in a namespace."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._ended: dict[str, Run] = {}
        self._wakeup = asyncio.Event()

    @property
    def synced(self) -> bool:
        """Whether `finished` has everything that was over when the listener joined."""
        return self._hub.synced

    def finished(self) -> list[Run]:
        """All that are over and still there."""
        return self._hub.finished()

    async def take(self, seconds: float) -> list[Run]:
        """Those that ended since the last call; none: so many seconds have passed, or somebody woke the reader.

        One may come twice, and an end that came while nothing could be watched comes later.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wakeup.wait()
        self._wakeup.clear()
        ended, self._ended = self._ended, {}
        return list(ended.values())

    def tell(self, run: Run) -> None:
        """Leaves an end for the reader."""
        self._ended[run.metadata.uid] = run
        self.wake()

    def wake(self) -> None:
        """Lets the reader look, also if nothing has ended."""
        self._wakeup.set()


class Hub:
    """The shared watch: a mirror of a namespace's DbtRuns, and who waits for which of them."""

    runs: Runs

    def __init__(self, source: Source, pace: Pace = DEFAULT_PACE) -> None:
        self.pace = pace
        self.synced = False
        """Whether the mirror was complete at some time, and is not known to be cut off by a refusal."""
        self._source = source
        self._mirror: dict[str, Run] = {}
        # Names of objects that an answer of ours brought before the watch: an older list does not take them away.
        self._ahead: set[str] = set()
        # Versions at which names were deleted: an answer that was asked for before does not bring them back.
        self._buried: dict[str, int] = {}
        self._version = 0
        self._heard = False
        self._denied: Denied | None = None
        self._waiters: dict[str, list[Subscription]] = {}
        self._listeners: set[Listener] = set()
        # An empty context: the first waiter's would send what is said here to that task's log.
        self._task = asyncio.get_running_loop().create_task(self._live(), context=contextvars.Context())

    async def close(self) -> None:
        """Ends the watch."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def join(self, waiter: Subscription) -> None:
        """Adds a waiter and gives it what is known."""
        self._waiters.setdefault(waiter.name, []).append(waiter)
        if self._denied is not None:
            waiter.tell(self._denied)
        elif waiter.name in self._mirror:
            waiter.tell(Seen(self._mirror[waiter.name]))

    def leave(self, waiter: Subscription) -> None:
        """Forgets a waiter."""
        waiters = self._waiters[waiter.name]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[waiter.name]

    def join_listener(self, listener: Listener) -> None:
        """Adds a reader of all ends."""
        self._listeners.add(listener)

    def leave_listener(self, listener: Listener) -> None:
        """Forgets it."""
        self._listeners.discard(listener)

    def finished(self) -> list[Run]:
        """All that are over, of those that are known to be there."""
        return [run for run in self._mirror.values() if run.final]

    def observe(self, run: Run) -> State:
        """Takes an object that a request of our own returned, and says what is true of it by all that is known.

        The watch may be behind such an answer or ahead of it: the resourceVersions tell.
        """
        name, version = run.metadata.name, run.metadata.version
        known = self._mirror.get(name)
        if known is not None and known.metadata.version >= version:
            return Seen(known)
        if version <= self._buried.get(name, 0):
            return Gone(run)
        self._ahead.add(name)
        self._put(run)
        return Seen(run)

    async def _live(self) -> None:
        """Runs until it is cancelled. A waiter gets the reason if the client cannot be used at all."""
        retries = self.pace.retries()
        while True:
            try:
                await self._ask()
            except Exception as error:
                log.exception("Unexpected error while requesting DbtRuns; retrying")
                self._deny(f"the Kubernetes client cannot be used ({type(error).__name__}): see this process's log")
            await asyncio.sleep(next(retries))

    async def _ask(self) -> None:
        async with self._source() as self.runs, asyncio.TaskGroup() as both:
            both.create_task(self._look_at_the_live())
            retries = self.pace.retries()
            while True:
                pause = await self._until_trouble()
                # A list alone proves little: where only the watch fails, the pauses go on growing.
                if self._heard:
                    retries = self.pace.retries()
                await asyncio.sleep(max(pause, next(retries)))

    async def _until_trouble(self) -> float:
        """Lists and watches until something is in doubt; returns the seconds that must pass before the next try."""
        self._heard = False
        try:
            await self._replace(await self.runs.list())
            while True:
                # Documented: the API server ends a watch after a while by itself. It goes on from the same version.
                await self._watch()
        except Denial as error:
            self._deny(str(error))
            return self.pace.denied_retry
        except KubeError as error:
            log.info("The watch of DbtRuns may have missed changes; listing again: %s", error)
            return error.retry_after
        except Exception:
            log.exception("Unexpected error in the watch of DbtRuns; listing again")
            return 0.0

    async def _watch(self) -> None:
        heard = False
        async with aclosing(self.runs.watch(str(self._version), self.pace.silence)) as changes:
            async for change in changes:
                heard = self._heard = True
                self._apply(change)
        # Something in between that ends each watch at once would be asked again without a pause.
        if not heard:
            raise Unreachable("the watch ended without an error message")

    def _apply(self, change: Change) -> None:
        self._version = max(self._version, int(change.version))
        if isinstance(change, Progress):
            return
        name = change.run.metadata.name
        known = self._mirror.get(name)
        if known is not None and known.metadata.version >= change.run.metadata.version:
            return
        self._ahead.discard(name)
        if not isinstance(change, Removed):
            self._put(change.run)
        # A watch with a selector says DELETED also of what it no longer selects.
        elif not change.run.final:
            self._lose(name)
        else:
            self._tell_listeners(change.run, self._mirror.pop(name, None))
            self._buried[name] = change.run.metadata.version
            for waiter in self._waiters.get(name, ()):
                waiter.tell(Gone(change.run))

    async def _look_at_the_live(self) -> None:
        """Tells what is new of them: the watch is of ends alone. What vanished before it ended is missing there."""
        live = 0
        while True:
            await asyncio.sleep(self.pace.recheck_of(live))
            if not self.synced:
                continue
            try:
                listing = await self.runs.live()
                live = len(listing.runs)
                await self._compare(listing)
            except KubeError as error:
                log.info("The live DbtRuns could not be listed; retrying at the next interval: %s", error)
            except Exception:
                log.exception("Unexpected error while comparing the live DbtRuns")

    async def _compare(self, listing: Listing) -> None:
        async for run in _in_slices(listing.runs.values()):
            name, found = run.metadata.name, run.metadata.version
            known = self._mirror.get(name)
            # The watch, or an answer of our own, may be ahead of the list.
            if found >= known.metadata.version if known else found > self._buried.get(name, 0):
                self._ahead.discard(name)
                self._put(run)
        version = int(listing.version)
        async for name in _in_slices(list(self._mirror)):
            known = self._mirror.get(name)
            # What is newer than the list may have been created after it, and what has ended is in no list of the live.
            listed = known is None or known.metadata.version > version or known.final or name in listing.runs
            if not listed:
                self._lose(name)
        self._buried = {name: buried for name, buried in self._buried.items() if buried > version}

    def _lose(self, name: str) -> None:
        self._mirror.pop(name, None)
        self._ahead.discard(name)
        for waiter in self._waiters.get(name, ()):
            waiter.doubt()

    async def _replace(self, listing: Listing) -> None:
        ahead = {name: self._mirror[name] for name in self._ahead if name in self._mirror}
        missed = {name: run for name, run in ahead.items() if run.metadata.version > int(listing.version)}
        # All of it before the first pause: a waiter that joins in one must not see half of it.
        before, self._mirror = self._mirror, {**listing.runs, **missed}
        self._ahead = set(missed)
        self._buried.clear()
        self._version = int(listing.version)
        self.synced, self._denied = True, None
        async for name in _in_slices(list(self._waiters)):
            run, former = self._mirror.get(name), before.get(name)
            for waiter in self._waiters.get(name, ()):
                if run is not None:
                    waiter.tell(Seen(run))
                elif former is not None:
                    waiter.tell(Gone(former))
                else:
                    waiter.doubt()
        if self._listeners:
            for name, run in self._mirror.items():
                self._tell_listeners(run, before.get(name))
            for listener in self._listeners:
                listener.wake()

    def _deny(self, message: str) -> None:
        if self._denied is None or self._denied.message != message:
            log.warning("DbtRuns cannot be watched: %s", message)
        self.synced, self._denied = False, Denied(message)
        for waiters in list(self._waiters.values()):
            for waiter in list(waiters):
                waiter.tell(self._denied)

    def _put(self, run: Run) -> None:
        name = run.metadata.name
        before = self._mirror.get(name)
        if before is not None and before.tells_the_same_as(run):
            # The waiters keep the former: what is equal is not to be in memory twice.
            self._mirror[name] = replace(before, metadata=run.metadata)
            return
        self._mirror[name] = run
        self._tell_listeners(run, before)
        for waiter in self._waiters.get(name, ()):
            waiter.tell(Seen(run))

    def _tell_listeners(self, run: Run, before: Run | None) -> None:
        if run.final and not (before is not None and before.final and before.metadata.uid == run.metadata.uid):
            for listener in self._listeners:
                listener.tell(run)


async def _in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    for number, item in enumerate(items, 1):
        yield item
        if number % SLICE == 0:
            await asyncio.sleep(0)


Source = Callable[[], AbstractAsyncContextManager[Runs]]


@asynccontextmanager
async def _over_http(config: ClusterConfig, namespace: str) -> AsyncIterator[Runs]:
    async with leased(config) as cluster:
        yield HubRuns(cluster, namespace)


def _new_hub(key: tuple[ClusterConfig, str, Pace]) -> Hub:
    config, namespace, pace = key
    return Hub(partial(_over_http, config, namespace), pace)


_hubs: Final[PerLoop[tuple[ClusterConfig, str, Pace], Hub]] = PerLoop(_new_hub, Hub.close)
