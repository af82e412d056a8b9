"""The runs of an account that others start: every one that finished, and on request every one that started.

The poller's feed serves objects whose runs are known: it may pass over a page and looks back for a minute only. Here
nothing may be passed over. A list is read to its end, or counts only as far as it was read; it must be in the order
that was asked for, and each reading begins below the last one. All mirrors of a connection share the same readings.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from dbtrun.values import backoff
from watcher.clock import Clock, system_clock
from watcher.dbtcloud import wire
from watcher.dbtcloud.budget import Priority
from watcher.dbtcloud.channel import PAGE_SIZE, Channel, Page
from watcher.dbtcloud.errors import DbtCloudError, Rejected, ServerFault
from watcher.lifecycle.facts import RunFacts
from watcher.mirrors.progress import BEFORE, LATE_REACH, OVERLAP, Cursor, Reading, lanes

READ_SECONDS: Final = 5.0
"""Between two readings of what finished: twelve requests a minute."""
STARTED_SECONDS: Final = 30.0
"""Between two readings of what started."""
LATE_SECONDS: Final = 600.0
"""Between two looks for runs that were listed later than the overlap allows."""
LONGEST_PAUSE: Final = 60.0
"""Seconds at most between two tries while dbt Cloud does not answer."""
ENOUGH_PAGES: Final = 10
"""After so many pages, what was read is dealt with first: a long backlog is read piece by piece."""
MANY_PAGES: Final = 50
"""The same where so many end within minutes: 5,000 runs."""
MAX_PAGES: Final = 200
"""Pages of one reading, if more than 20,000 runs end within the overlap: then the look for late runs has what is listed
a little later."""
OPEN_END: Final = timedelta(days=365)
"""dbt Cloud wants both ends of a range; its clock may be ahead of ours."""
ROUNDING: Final = timedelta(seconds=1)
"""How far a time in a reply may be before the range that it was asked by."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """Runs that started, and the time of the list by dbt Cloud's clock."""

    runs: tuple[RunFacts, ...]
    at: datetime


class Source(Protocol):
    """The part of the client that the ledger uses."""

    async def ended(self, since: datetime) -> Reading: ...
    async def begun(self, after: int | None) -> Begun: ...


class Follower(Protocol):
    """A mirror, as the ledger sees it. As text it is the mirror's name, for the log."""

    @property
    def cursor(self) -> Cursor | None:
        """How far it has come; None: it takes nothing now."""

    @property
    def wants_started(self) -> bool:
        """Whether it shows runs that have not finished."""

    async def take_finished(self, reading: Reading) -> None:
        """Deals with what it can of a reading, and moves its cursor."""

    async def take_late(self, runs: tuple[RunFacts, ...]) -> None:
        """Deals with those of these runs that no reading for it has had."""

    async def take_started(self, runs: tuple[RunFacts, ...]) -> None:
        """Deals with runs that have started."""

    def troubled(self, error: DbtCloudError) -> None:
        """dbt Cloud does not answer."""

    def answering(self) -> None:
        """dbt Cloud answers."""


@dataclass(slots=True)
class _Proof:
    """That the pages of a list have all runs that have finished, oldest first."""

    last: datetime
    """When the last run on the pages so far ended."""
    items: int = 0
    total: int | None = None
    """Runs of the whole list, as the pages so far say."""

    def take(self, page: Page[wire.Run]) -> None:
        """Takes the next page.

        Raises:
            ServerFault: it is not what was asked for, so what is not on it may be anywhere. Or runs are missing: the
                list ended early, or runs left it, so that others moved to a page before.
        """
        for run in page.items:
            ended = wire.instant(run.finished_at)
            if ended is None or ended < self.last:
                raise ServerFault(
                    f"{page.received.request} did not answer with the runs that have finished, oldest first, so "
                    "nothing can be concluded from it"
                )
            if run.trigger is None:
                raise ServerFault(f"{page.received.request} left the triggers out, so nothing can be concluded from it")
            self.last = ended
        self.items += len(page.items)
        if page.total is None:
            return
        if self.total is not None and page.total < self.total:
            raise ServerFault(
                f"{page.received.request} listed fewer runs with each page, so some may have been passed over"
            )
        if not page.more and self.items < page.total:
            raise ServerFault(f"{page.received.request} listed {self.items:,} runs of {page.total:,}")
        self.total = page.total


async def read_finished(channel: Channel, since: datetime) -> Reading:
    """The runs that finished since then.

    Raises:
        ServerFault: the list proves nothing: a filter or the order was ignored, or the triggers are missing.
        DbtCloudError: dbt Cloud did not answer.
    """
    params = {
        "finished_at__range": json.dumps([since.isoformat(), (since + OPEN_END).isoformat()]),
        "order_by": "finished_at",
        "include_related": '["trigger"]',
    }
    found: dict[int, RunFacts] = {}
    own = told = None
    proof, pages = _Proof(since - ROUNDING), 0
    try:
        async for page in channel.pages("runs/", params, wire.RUNS, Priority.DETAILS):
            pages += 1
            if own is None or told is None:
                own = page.received.sent.wall
                told = own + page.received.clock_offset
            proof.take(page)
            _collect(found, page, channel.connection.base_url)
            if page.more and _is_piece(pages, since, proof.last, min(own, told) - OVERLAP):
                return Reading(since=since, through=proof.last, runs=tuple(found.values()), complete=False)
            if page.more and pages >= MAX_PAGES:
                raise ServerFault(f"{page.received.request} has more than {MAX_PAGES} pages of runs that ended at once")
    except Rejected as error:
        raise ServerFault(f"dbt Cloud does not list runs by their end: {error.message}") from None
    assert own is not None and told is not None, "a list has at least one page"  # noqa: S101, PT018
    # One wrong clock must not take a cursor into the future, from where it would pass over every run until then.
    through = min(told, max(own, proof.last))
    return Reading(since=since, through=max(through, since), runs=tuple(found.values()))


def _is_piece(pages: int, since: datetime, last: datetime, settled: datetime) -> bool:
    """Whether what was read is dealt with before more is read.

    Args:
        settled: before this time, hardly any run is listed later.
    """
    if last - BEFORE <= since:
        return False  # the next reading would begin with the same again
    enough = ENOUGH_PAGES if last > since + 2 * OVERLAP else MANY_PAGES
    return pages >= MAX_PAGES or (pages >= enough and last <= settled)


def _collect(found: dict[int, RunFacts], page: Page[wire.Run], base_url: str) -> None:
    for run in page.items:
        try:
            found[run.id] = run.facts(base_url)
        except ServerFault as error:
            log.warning("A run is left out of the mirrors: %s", error.message)


async def read_begun(channel: Channel, after: int | None) -> Begun:
    """The runs whose id is greater; the newest hundred if no id is given.

    Raises:
        ServerFault: the filter was ignored.
        DbtCloudError: dbt Cloud did not answer.
    """
    params = {"include_related": '["trigger"]', "order_by": "-id"}
    if after is None:
        page = await channel.page(
            "runs/", {**params, "limit": str(PAGE_SIZE), "offset": "0"}, wire.RUNS, Priority.DETAILS
        )
        pages = [page]
    else:
        asked = {**params, "order_by": "id", "id__gt": str(after)}
        pages = []
        async for page in channel.pages("runs/", asked, wire.RUNS, Priority.DETAILS):
            pages.append(page)
            if len(pages) >= ENOUGH_PAGES:
                break  # the next reading goes on from here
        if any(run.id <= after for page in pages for run in page.items):
            raise ServerFault(f"{pages[0].received.request} ignored id__gt, so nothing can be concluded from it")
    found: dict[int, RunFacts] = {}
    for page in pages:
        _collect(found, page, channel.connection.base_url)
    first = pages[0].received
    return Begun(runs=tuple(found.values()), at=first.sent.wall + first.clock_offset)


async def _all(takes: Mapping[Follower, Awaitable[None]]) -> None:
    """Lets the mirrors deal with what was read. A fault of ours with one of them does not end the others."""
    faults = await asyncio.gather(*takes.values(), return_exceptions=True)
    for follower, fault in zip(takes, faults, strict=True):
        if isinstance(fault, Exception):
            named = {"mirror": str(follower)}
            log.error("A DbtRunMirror failed with an unexpected error.", exc_info=fault, extra=named)


class Ledger:
    """One connection's readings for its mirrors. `run()` is its task; everything else is called on the same loop.

    Args:
        contain: around each reading; lets nothing out but DbtCloudError.
        late: called with the number of runs that were listed too late.
    """

    def __init__(
        self,
        source: Source,
        *,
        clock: Clock = system_clock,
        contain: Callable[[str], AbstractContextManager[None]] = lambda _what: contextlib.nullcontext(),
        late: Callable[[int], object] = lambda _runs: None,
        read_seconds: float = READ_SECONDS,
        started_seconds: float = STARTED_SECONDS,
        late_seconds: float = LATE_SECONDS,
    ) -> None:
        self._source = source
        self._clock = clock
        self._contain = contain
        self._late = late
        self._read_seconds = read_seconds
        self._started_seconds = started_seconds
        self._late_seconds = late_seconds
        self._followers: dict[str, Follower] = {}
        self._anybody = asyncio.Event()
        self._look = asyncio.Event()
        self._look_started = asyncio.Event()
        self._frontier: datetime | None = None
        self._seen: dict[int, datetime] = {}
        self._looked_late = False
        self._begun: dict[int, datetime] = {}
        self._failures = 0

    def __len__(self) -> int:
        return len(self._followers)

    def add(self, uid: str, follower: Follower) -> None:
        """Serves this mirror from now on."""
        self._followers[uid] = follower
        self._anybody.set()
        self._look.set()

    def remove(self, uid: str) -> None:
        """Serves it no longer; unknown ones are no error."""
        self._followers.pop(uid, None)
        if not self._followers:
            self._anybody.clear()

    @property
    def lists(self) -> int:
        """The lists that `hurry` reads."""
        return 2 if self._wants_started else 1

    def awaits(self, run_id: int, *, ended: bool) -> bool:
        """Whether a mirror waits for what finishes, or starts, and this run was not read yet."""
        if ended:
            return bool(self._followers) and run_id not in self._seen
        return self._wants_started and run_id not in self._begun

    def hurry(self) -> None:
        """Reads at once what has finished, and what has started if a mirror shows it."""
        self._look.set()
        self._look_started.set()

    async def run(self) -> None:
        """Reads until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_finished())
            group.create_task(self._watch_started())
            group.create_task(self._watch_late())

    # ---- what finished

    async def _watch_finished(self) -> None:
        while True:
            await self._anybody.wait()
            self._look.clear()
            await self.read()
            pause = self._read_seconds
            if self._failures:
                await asyncio.sleep(backoff(self._failures, pause, LONGEST_PAUSE))
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()

    async def read(self) -> None:
        """One reading for all mirrors that have caught up, and one for those that are behind."""
        cursors = {uid: follower.cursor for uid, follower in self._followers.items()}
        wanted = {uid: cursor for uid, cursor in cursors.items() if cursor is not None}
        for lane in lanes(wanted, self._frontier):
            try:
                with self._contain("reading of finished runs"):
                    reading = await self._source.ended(lane.since)
            except DbtCloudError as error:
                self._failures += 1
                for follower in tuple(self._followers.values()):
                    follower.troubled(error)
                return
            self._failures = 0
            if reading.complete and (self._frontier is None or reading.through > self._frontier):
                self._frontier = reading.through
            self._seen |= {run.run_id: run.finished_at for run in reading.runs if run.finished_at is not None}
            if self._frontier is not None:
                oldest = self._frontier - LATE_REACH - 2 * OVERLAP
                self._seen = {run_id: ended for run_id, ended in self._seen.items() if ended >= oldest}
            # Those that are left: a mirror may have been deleted while the list was read.
            for follower in self._present(lane.members):
                follower.answering()
            await _all({each: each.take_finished(reading) for each in self._present(lane.members)})

    def _present(self, uids: Iterable[str]) -> list[Follower]:
        return [self._followers[uid] for uid in uids if uid in self._followers]

    # ---- what was listed late

    async def _watch_late(self) -> None:
        while True:
            await self._anybody.wait()
            await asyncio.sleep(self._late_seconds if self._looked_late else self._read_seconds)
            try:
                with self._contain("look for late runs"):
                    await self.read_late()
            except DbtCloudError as error:
                log.info("Late runs could not be looked for: %s", error.message)

    async def read_late(self) -> None:
        """Looks for runs of the last two hours that no reading has had. The first look also has older ones."""
        if self._frontier is None:
            return
        # By dbt Cloud's clock: the frontier was read from a reply.
        before, since = self._frontier - OVERLAP, self._frontier - LATE_REACH
        while True:
            reading = await self._source.ended(since)
            # What is newer than the overlap is left to the next reading.
            settled = tuple(run for run in reading.runs if run.finished_at is not None and run.finished_at < before)
            late = [run for run in settled if run.run_id not in self._seen]
            if late and self._looked_late:
                self._late(len(late))
            # Those that were read, too: perhaps only for a mirror that is behind.
            await _all({each: each.take_late(settled) for each in self._present(tuple(self._followers))})
            self._seen |= {run.run_id: run.finished_at for run in late if run.finished_at is not None}
            # A long list comes in pieces: each goes on where the last one ended.
            if reading.complete or reading.through >= before:
                break
            since = reading.through
        # Only after a whole look: what the first one finds was there before, and is not late.
        self._looked_late = True

    # ---- what started

    async def _watch_started(self) -> None:
        while True:
            await self._anybody.wait()
            self._look_started.clear()
            if self._wants_started:
                try:
                    with self._contain("reading of started runs"):
                        await self.read_started()
                except DbtCloudError as error:
                    log.info("Runs that have started could not be read: %s", error.message)
                    await asyncio.sleep(self._started_seconds)
                    continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._started_seconds):
                    await self._look_started.wait()

    async def read_started(self) -> None:
        """Reads what started since the last time. Ids grow, but a greater one may be listed before a smaller one."""
        begun = await self._source.begun(min(self._begun) - 1 if self._begun else None)
        fresh = tuple(run for run in begun.runs if run.run_id not in self._begun)
        wanting = [follower for follower in self._followers.values() if follower.wants_started]
        await _all({each: each.take_started(fresh) for each in wanting})
        self._begun |= {run.run_id: run.created_at or begun.at for run in fresh}
        newest = max(self._begun, default=None)
        self._begun = {
            run_id: created
            for run_id, created in self._begun.items()
            if created >= begun.at - OVERLAP or run_id == newest
        }

    @property
    def _wants_started(self) -> bool:
        return any(follower.wants_started for follower in self._followers.values())
