"""Searches for runs by a mark. What waits for one job when a list begins is answered by that list, read once.

A question that finds nothing lets a run start, so only a list that began after the question was asked answers it, and
only once it is read back to a run that is older than the question's `since`, or to its end.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Final, NamedTuple, Self

from watcher.clock import Clock
from watcher.dbtcloud import wire
from watcher.dbtcloud.budget import Priority
from watcher.dbtcloud.channel import Channel, Page
from watcher.dbtcloud.errors import DbtCloudError, ServerFault, Unreachable
from watcher.dbtcloud.search import prove_newest_first
from watcher.lifecycle.facts import RunFacts
from watcher.lifecycle.marker import mark_of

MAX_PAGES: Final = 100
"""Pages of a job's runs searched: 10,000 runs since the start that is looked for."""
MAX_FOUND: Final = 100
"""Runs kept for one question, the oldest: dbt Cloud usually has one, and rarely a twin."""
PAUSE_SECONDS: Final = 1.0
"""From the beginning of one list of a job to that of the next: questions that come meanwhile share the next one."""
AT_ONCE: Final = 4
"""Lists of one job under way: one that reads far back must not hold up questions about recent runs for long."""


class Answer(NamedTuple):
    """What a complete list says."""

    at: float
    """Monotonic seconds at which the list began."""
    found: tuple[RunFacts, ...]
    """Oldest first."""


class _Job(NamedTuple):
    """What can share a list."""

    job_id: int
    triggers: bool
    """Whether the list must include the triggers: without them there is no cause, and no marker is seen."""


class Question:
    """Which runs a job has that carry a marker or resume a run. Asked while its block lasts, and answered once."""

    __slots__ = ("_answer", "_home", "_look_ups", "_runs", "job", "marker", "retried", "since")

    def __init__(self, look_ups: LookUps, job: _Job, marker: str, retried: int | None, since: datetime) -> None:
        self.job = job
        self.marker = marker
        self.retried = retried
        self.since = since
        self._look_ups = look_ups
        self._home: dict[Question, None] | None = None
        """Where it is open: among those that wait for a list, or in a list that is being read."""
        self._runs: dict[int, wire.Run] = {}
        self._answer: asyncio.Future[Answer] | None = None

    def __enter__(self) -> Self:
        self._look_ups.put(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.move(None)
        self._look_ups.tend(self.job)

    async def answer(self) -> Answer:
        """What a list says that began after the block was entered: there may have been one already.

        Raises:
            DbtCloudError: it proves nothing, or dbt Cloud did not answer.
        """
        answer = self._future()
        if not answer.done():
            self._look_ups.tend(self.job)
        return await answer

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the answer now."""
        return self._answer is not None and not self._answer.done()

    def move(self, home: dict[Question, None] | None) -> None:
        """Is open there from now on, or nowhere."""
        if self._home is not None:
            self._home.pop(self, None)
        self._home = home
        if home is not None:
            home[self] = None

    def note(self, run: wire.Run) -> None:
        """The list has this run, which is one of those asked for. Runs come newest first, and the oldest are kept."""
        self._runs[run.id] = run
        if len(self._runs) > MAX_FOUND:
            del self._runs[next(iter(self._runs))]

    def start_over(self, waiting: dict[Question, None]) -> None:
        """The list proves nothing: another one shall."""
        self._runs = {}
        self.move(waiting)

    def conclude(self, at: float, base_url: str) -> None:
        """The list, which began then, is read far enough."""
        try:
            found = tuple(self._runs[run_id].facts(base_url) for run_id in sorted(self._runs))
        except DbtCloudError as error:
            self.fail(error)
        else:
            self._settle().set_result(Answer(at, found))

    def fail(self, error: Exception) -> None:
        """There is no answer."""
        answer = self._settle()
        answer.set_exception(error)
        answer.exception()  # asyncio would log it if no one asked for it

    def _settle(self) -> asyncio.Future[Answer]:
        self.move(None)
        self._runs = {}
        return self._future()

    def _future(self) -> asyncio.Future[Answer]:
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        return self._answer


@dataclass(slots=True)
class _Line:
    """What there is of one job."""

    waiting: dict[Question, None] = field(default_factory=dict)
    reading: int = 0
    pause: asyncio.TimerHandle | None = None


class LookUps:
    """The questions of one connection."""

    def __init__(self, channel: Channel, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._lines: dict[_Job, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def about(self, job_id: int, since: datetime, *, marker: str = "", retried: int | None = None) -> Question:
        """The question for the job's runs that carry the marker or resume the run `retried`.

        Args:
            since: dbt Cloud's clock; older runs do not matter.
            marker: as `watcher.lifecycle.marker` makes it.
        """
        return Question(self, _Job(job_id, bool(marker)), marker, retried, since)

    async def close(self) -> None:
        """Ends what is being read."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def put(self, question: Question) -> None:
        """The question is asked now."""
        question.move(self._lines.setdefault(question.job, _Line()).waiting)

    def tend(self, job: _Job) -> None:
        """Begins a list if somebody waits for one, unless another has begun a moment ago."""
        line = self._lines.get(job)
        # `_rested` and the end of a list come back here, so nobody who waits is forgotten.
        if line is None or line.pause is not None or line.reading >= AT_ONCE:
            return
        if any(question.awaited for question in line.waiting):
            line.pause = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._rested, job, line)
            line.reading += 1
            task = asyncio.create_task(self._read(job, line), name=f"look up in job {job.job_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif not (line.waiting or line.reading):
            del self._lines[job]

    def _rested(self, job: _Job, line: _Line) -> None:
        line.pause = None
        self.tend(job)

    async def _read(self, job: _Job, line: _Line) -> None:
        params = {"job_definition_id": str(job.job_id), "order_by": "-id"}
        if job.triggers:
            params["include_related"] = '["trigger"]'
        # Before the first request. A start that is sent after this may be missing in the list, so its question waits
        # for the next one.
        reading = _Reading(job, tuple(line.waiting), self._clock().mono)
        pages, reached = 0, math.inf
        try:
            async for page in self._channel.pages("runs/", params, wire.RUNS, Priority.SUBMIT):
                pages += 1
                reached = prove_newest_first(page, reached)
                reading.take(page, self._channel.connection.base_url)
                if not reading.open:
                    return
                if page.more and pages >= MAX_PAGES:
                    oldest = min(question.since for question in reading.open)
                    words = f"{page.received.request} has too many pages to search back to {oldest:%F %T}"
                    reading.give_up(ServerFault(words), line.waiting)
                    return
        except asyncio.CancelledError:
            reading.give_up(
                Unreachable("The search ended because its connection was closed", not_sent=True), line.waiting
            )
            raise
        except Exception as error:  # noqa: BLE001 - the caller that waits contains it
            reading.give_up(error, line.waiting)
        finally:
            line.reading -= 1
            self.tend(job)


class _Reading:
    """A list that is being read, and what it is to answer."""

    def __init__(self, job: _Job, questions: Sequence[Question], began: float) -> None:
        self._job = job
        self._began = began
        self.open: dict[Question, None] = {}
        self._by_marker = defaultdict[str, list[Question]](list)
        self._by_retried = defaultdict[int, list[Question]](list)
        for question in questions:
            question.move(self.open)
            # By what they ask for: with thousands of questions, each run is looked up and not compared with all.
            if question.marker:
                self._by_marker[question.marker].append(question)
            if question.retried is not None:
                self._by_retried[question.retried].append(question)

    def take(self, page: Page[wire.Run], base_url: str) -> None:
        """Notes what the page has, and answers the questions for which that is all."""
        runs = [run for run in page.items if run.job == self._job.job_id]
        # Without the trigger there is no cause, and without the cause no marker is seen.
        if self._job.triggers and any(run.trigger is None for run in runs):
            raise ServerFault(f"{page.received.request} left the triggers out, so nothing can be concluded from it")
        for run in runs:
            mark = mark_of(run.cause)
            asked = dict.fromkeys(self._by_marker.get(mark, ()) if mark else ())
            if run.retrying_run_id is not None:
                asked |= dict.fromkeys(self._by_retried.get(run.retrying_run_id, ()))
            for question in asked:
                question.note(run)
        oldest = wire.instant(page.items[-1].created_at) if page.items else None
        for question in tuple(self.open):
            if not page.more or (oldest is not None and oldest < question.since):
                question.conclude(self._began, base_url)

    def give_up(self, error: Exception, waiting: dict[Question, None]) -> None:
        """Reports the error to the callers that wait. The others have not been promised this list."""
        for question in tuple(self.open):
            if question.awaited:
                question.fail(error)
            else:
                question.start_over(waiting)
