"""Polls the runs of one connection, at a cost that does not depend on how many objects wait for them.

Two loops. The batch reads a hundred runs by id with one request when one of them is due. The feed reads what finished
on the account since it last looked: ends are seen within seconds, and runs that do not end cost nothing. Not being
listed proves nothing: a run that a list does not name is requested alone before it counts as gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Final, Protocol

from watcher.clock import Clock, system_clock
from watcher.dbtcloud.batch import Batch
from watcher.dbtcloud.channel import PAGE_SIZE
from watcher.dbtcloud.contact import LONGEST_WAIT, Contact
from watcher.dbtcloud.errors import DbtCloudError, RateLimited, ServerFault, Unauthorized, UnknownStatus, Unreachable
from watcher.dbtcloud.listener import Listener
from watcher.dbtcloud.schedule import Followed, Schedule
from watcher.lifecycle.facts import Observation, RunFacts

GATHER_SECONDS: Final = 1.0
"""From following a run to its first poll, so that runs that come together are polled together. Where they keep coming,
one poll per look at what finished serves them."""
BATCH_GAP: Final = 0.25
"""Seconds between two batches: 10,000 runs after a restart take 25 seconds instead of a burst."""
BATCHES_AT_ONCE: Final = 4
"""Batches under way: a slow dbt Cloud must not make them late."""
FEED_SECONDS: Final = 5.0
"""Between two looks at what finished."""
FEED_OVERLAP: Final = timedelta(seconds=15)
"""How late a finished run may appear in the feed; one that is later is seen by its batch."""
PROBE_SECONDS: Final = 60.0
"""Between two looks at what finished while the batches are cheaper than the feed."""
FALLBACK_SECONDS: Final = 3_600.0
"""How long a filter that dbt Cloud ignored is not used again."""
WHOLE_CONNECTION: Final = (RateLimited, Unauthorized, Unreachable)
"""Errors that concern every run, even if they were met while asking for one."""

log = logging.getLogger(__name__)


class Source(Protocol):
    """The part of the client that the poller uses."""

    async def runs(self, ids: Sequence[int]) -> Batch: ...
    async def run(self, run_id: int, *, steps: bool = False) -> Observation: ...
    async def live_runs(self) -> Batch: ...
    async def finished_since(self, instant: datetime, max_pages: int) -> Batch: ...


class Poller:
    """Polls the runs of one connection. `run()` is its task; everything else is called on the same loop.

    Args:
        users: the objects that use the connection.
        name: the connection's, for the log: no secret.
        feed_seconds: between two looks at what finished.
        contain: around each poll; lets nothing out but DbtCloudError.
        heard_at: monotonic seconds at which the source last heard something, of a list's single pages too.
        elsewhere: called with each finished run that nobody follows here; may repeat itself.
        jitter: a number from 0 to 1, for backoff.
    """

    def __init__(
        self,
        source: Source,
        listener: Listener,
        users: Callable[[], Collection[str]],
        *,
        name: str = "",
        feed_seconds: float = FEED_SECONDS,
        clock: Clock = system_clock,
        contain: Callable[[str], AbstractContextManager[None]] = lambda _what: contextlib.nullcontext(),
        heard_at: Callable[[], float] = lambda: -math.inf,
        elsewhere: Callable[[RunFacts], object] = lambda _run: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._listener = listener
        self._users = users
        self._name = name
        self._contain = contain
        self._clock = clock
        self._schedule = Schedule()
        self._contact = Contact(jitter)
        self._slots = asyncio.Semaphore(BATCHES_AT_ONCE)
        self._wake = asyncio.Event()
        self._anybody = asyncio.Event()
        self._offset: timedelta | None = None
        self._watermark: datetime | None = None
        self._feed_is_dear = False
        """As the last look found it. It stays so until the next one, however many runs are followed by then."""
        self._feed_seconds = feed_seconds
        self._feed_wait = feed_seconds
        self._refused: dict[str, float] = {}
        self._polled_at = -math.inf
        self._heard_at = heard_at
        self._elsewhere = elsewhere
        self._under_way = 0
        self._moved_at = -math.inf
        """When a poll last began or ended."""
        self._feed_due = math.inf
        """When the feed is looked at next; in the past while it is being looked at."""

    # ---- what others call

    def follow(self, uid: str, run_id: int, interval: float, *, due: float | None = None) -> bool:
        """Polls the run for the uid, and no other; False: it does so already.

        Args:
            interval: seconds between two polls at most; ends come by the feed, sooner.
            due: monotonic seconds of the first poll; None: soon.
        """
        now = self._now()
        soon = max(now + GATHER_SECONDS, self._polled_at + self._feed_seconds)
        if not self._schedule.follow(uid, run_id, interval, soon if due is None else max(due, now)):
            return False
        self._anybody.set()
        self._wake.set()
        return True

    def unfollow(self, uid: str) -> bool:
        """Polls nothing for the uid any more; False: it did not."""
        followed = self._schedule.unfollow(uid)
        if not self._schedule:
            self._anybody.clear()
        return followed

    def hurry(self, uid: str) -> None:
        """Polls the uid's run as soon as the budget and backoff allow."""
        run = self._schedule.of(uid)
        if run is not None:
            self.look_at([run.run_id])

    def awaited(self, run_ids: Iterable[int]) -> list[int]:
        """Those of these runs that are followed and have not ended."""
        runs = map(self._schedule.get, run_ids)
        return [run.run_id for run in runs if run is not None and not run.over]

    def look_at(self, run_ids: Iterable[int]) -> None:
        """Polls these runs as soon as the budget and backoff allow."""
        for run in filter(None, map(self._schedule.get, run_ids)):
            self._schedule.hasten(run, self._now())
            self._wake.set()

    @property
    def following(self) -> int:
        """Runs that are polled."""
        return len(self._schedule)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Filters that dbt Cloud ignores, of `pk__in`, `status__in`, `finished_at__range`."""
        return tuple(sorted(name for name in self._refused if self._refuses(name)))

    def silent(self) -> float:
        """Seconds for which something was due or under way and nothing happened: for health."""
        now = self._now()
        heard = self._heard_at()
        due = -math.inf if self._under_way else self._next_at()
        batches = 0.0 if due is None else now - max(due, self._moved_at, heard)
        feed = now - max(self._feed_due, heard) if self._schedule else 0.0
        return max(0.0, batches, feed)

    async def run(self) -> None:
        """Polls until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_due(group))
            group.create_task(self._watch_finished())

    # ---- batches

    async def _watch_due(self, group: asyncio.TaskGroup) -> None:
        while True:
            while (at := self._next_at()) is None or at > self._now():
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if at is None else at - self._now()):
                        await self._wake.wait()
            await self._slots.acquire()
            self._polled_at = self._moved_at = self._now()
            self._under_way += 1
            taken = self._schedule.take(self._polled_at, PAGE_SIZE)
            poll = group.create_task(self._poll(taken))
            if self._contact.troubled or self._refuses("pk__in"):
                await poll  # one try is enough to see whether it answers; one listing serves all
            await asyncio.sleep(BATCH_GAP)

    def _next_at(self) -> float | None:
        due = self._schedule.next_due()
        return None if due is None else max(due, self._contact.retry_at)

    async def _poll(self, taken: Sequence[Followed]) -> None:
        asked_at = self._now()
        try:
            with self._contain("poll"):
                await self._poll_batch([run.run_id for run in taken if run.intervals])
        except DbtCloudError as error:
            self._note_failure(error)
        finally:
            self._slots.release()
            self._under_way -= 1
            now = self._moved_at = self._now()
            for run in taken:
                # From when it was asked, not answered: a slow dbt Cloud does not stretch the interval.
                due = self._contact.retry_at or max(asked_at + self._interval(run), now + BATCH_GAP)
                self._schedule.give_back(run, due, now)
            self._wake.set()

    async def _poll_batch(self, ids: Sequence[int]) -> None:
        """Reads these runs by id; where that is not possible, in the list of all live runs, or else each alone."""
        if not ids:
            return
        if not self._refuses("pk__in"):
            try:
                batch = await self._source.runs(ids)
            except ServerFault:
                # At first it is taken for a failure of dbt Cloud as a whole. Next time, one run shows whether it is.
                if not self._contact.troubled:
                    raise
                self._report_run(ids[0], await self._source.run(ids[0]))
                batch = Batch(supported=False)  # it is this list alone that fails
            self._report(batch)
            if batch.supported:
                await self._confirm(batch.missing, answered=True)
                return
            self._refuse("pk__in")
            ids = [run_id for run_id in ids if run_id not in batch.observations]
        answered = not self._refuses("status__in")
        if answered:
            listing = await self._source.live_runs()
            self._report(listing, postpone=True)
            if not listing.supported:
                self._refuse("status__in")
            ids = [run_id for run_id in ids if run_id not in listing.observations]
        await self._confirm(ids, answered=answered)

    async def _confirm(self, ids: Sequence[int], *, answered: bool) -> None:
        """Asks for each run alone: not being listed is no end.

        Args:
            answered: dbt Cloud has just answered, so that a fault is the run's own.
        """
        for run_id in ids:
            try:
                observation = await self._source.run(run_id)
            except WHOLE_CONNECTION:
                raise
            except DbtCloudError as error:
                if isinstance(error, ServerFault) and not (answered or isinstance(error, UnknownStatus)):
                    raise
                self._report_unreadable(run_id, error)
            else:
                answered = True
                self._note_answer()
                self._report_run(run_id, observation)

    def _interval(self, run: Followed) -> float:
        """Seconds to the next poll: while the feed is the more expensive one, the batches take over its part."""
        if not run.intervals:
            return 0.0
        return min(run.interval, self._feed_seconds) if self._feed_is_dear else run.interval

    # ---- the feed

    async def _watch_finished(self) -> None:
        while True:
            self._feed_due = math.inf
            await self._anybody.wait()
            self._feed_due = self._now() + self._feed_wait
            await asyncio.sleep(self._feed_wait)
            wanted = self._schedule and not self._contact.troubled and not self._refuses("finished_at__range")
            if not wanted or self._offset is None:
                continue
            try:
                with self._contain("look at what finished"):
                    await self._read_finished(self._clock().wall + self._offset)
            except DbtCloudError as error:
                # A failing feed is a reason to poll: the batch shows whether only the feed fails.
                self._feed_wait = min(LONGEST_WAIT, 2 * self._feed_wait)
                if isinstance(error, RateLimited):
                    self._note_failure(error)
                elif (run := next(iter(self._schedule), None)) is not None:
                    self._schedule.hasten(run, self._now())
                    self._wake.set()

    async def _read_finished(self, until: datetime) -> None:
        """Reads what finished up to `until`, by dbt Cloud's clock, and takes the cheaper of feed and batches."""
        reach = timedelta(seconds=self._feed_seconds if self._feed_is_dear else PROBE_SECONDS)
        since = max(self._watermark or until, until - reach) - FEED_OVERLAP
        batch = await self._source.finished_since(since, self._batches + 1)
        self._watermark = until
        self._note_answer()
        for run_id, observation in batch.observations.items():
            run = self._schedule.get(run_id)
            if run is not None and not run.over:
                self._report_run(run_id, observation)
            elif run is None and observation.run is not None:
                self._elsewhere(observation.run)
        if not batch.supported:
            self._refuse("finished_at__range")
        # Where others finish more runs than we follow, the batches are cheaper.
        was_dear = self._feed_is_dear
        self._feed_is_dear = batch.supported and batch.pages + (not batch.complete) > self._batches
        self._feed_wait = PROBE_SECONDS if self._feed_is_dear else self._feed_seconds
        if self._feed_is_dear and not was_dear:
            for run in self._schedule:
                self._schedule.hasten(run, self._now() + self._feed_seconds)
            self._wake.set()

    @property
    def _batches(self) -> int:
        """Requests that poll everything once."""
        return max(1, -(-len(self._schedule) // PAGE_SIZE))

    # ---- reporting

    def _report(self, batch: Batch, *, postpone: bool = False) -> None:
        self._note_answer()
        for run_id, observation in batch.observations.items():
            self._report_run(run_id, observation)
            run = self._schedule.get(run_id) if postpone else None
            # One that is being asked for gets its next time from `give_back`.
            if run is not None and not run.asked:
                self._schedule.put(run, self._now() + self._interval(run))
        for run_id, error in batch.unreadable.items():
            self._report_unreadable(run_id, error)

    def _report_run(self, run_id: int, observation: Observation) -> None:
        run = self._schedule.get(run_id)
        # Two requests for one run may overtake each other. What was true earlier is not reported later.
        if run is None or observation.at.mono < run.told_at:
            return
        self._offset = observation.clock_offset
        run.told_at = observation.at.mono
        run.over = observation.run is not None and observation.run.state.over
        run.unreadable_since = None
        for uid in tuple(run.intervals):
            self._listener.observed(uid, run_id, observation)

    def _report_unreadable(self, run_id: int, error: DbtCloudError) -> None:
        run = self._schedule.get(run_id)
        if run is None:
            return
        now = self._clock()
        run.unreadable_since = run.unreadable_since or now
        for uid in tuple(run.intervals):
            self._listener.troubled((uid,), error.trouble(now, since=run.unreadable_since))

    def _note_failure(self, error: DbtCloudError) -> None:
        trouble = self._contact.failed(error, self._clock())
        if trouble is not None:
            self._listener.troubled(self._users(), trouble)

    def _note_answer(self) -> None:
        if self._contact.answered():
            self._listener.answering(self._users())
            self._wake.set()

    # ---- filters that are not to be trusted

    def _refuses(self, name: str) -> bool:
        return self._refused.get(name, 0.0) > self._now()

    def _refuse(self, name: str) -> None:
        if name not in self._refused:
            log.warning(
                "dbt Cloud ignores the filter %s on %s: falling back to more expensive polling", name, self._name
            )
        self._refused[name] = self._now() + FALLBACK_SECONDS

    def _now(self) -> float:
        return self._clock().mono
