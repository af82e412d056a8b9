"""How long the runs of each job take, judged by its earlier runs: what an estimated completion is made of.

Only runs that did the whole job and succeeded count. A failure ends early, a run that resumes another skips what is
done, and one with steps of its own is another job.
"""

from __future__ import annotations

import itertools
import statistics
from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from dbtrun.api import DbtRun, Phase
from watcher.lifecycle.facts import RunFacts, RunState

KEPT: Final = 20
"""Runs of a job that are remembered, the newest ones: a job that has become slower is soon judged by its new pace."""
LEAST: Final = 2
"""Runs from which a job is judged: a single one may be an exception."""
MAX_JOBS: Final = 2_000
"""Jobs that are remembered. The one that has not run for longest is forgotten for another."""


class JobKey(NamedTuple):
    """A job. Accounts and hosts number their jobs on their own."""

    host: str
    account_id: int
    job_id: int


class _Seen(NamedTuple):
    finished_at: datetime
    seconds: float | None
    """None: the run says nothing about the next one."""


class History:
    """The newest runs of each job."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[JobKey, dict[int, _Seen]] = OrderedDict()
        self._typical: dict[JobKey, timedelta | None] = {}
        """What was worked out since the job's last change."""

    def note(self, run: DbtRun) -> None:
        """Takes the run of an object, if it has ended. Repeating it changes nothing."""
        status, key = run.status, job_of(run)
        if key is None or status.run_id is None or status.started_at is None or status.finished_at is None:
            return
        whole = status.phase is Phase.SUCCEEDED and comparable(run)
        self._keep(key, status.run_id, status.started_at, status.finished_at, whole)

    def note_facts(self, host: str, run: RunFacts) -> None:
        """Takes a run that no object follows: somebody else has started it."""
        if run.state is not RunState.SUCCESS or run.started_at is None or run.finished_at is None:
            return
        key = JobKey(host, run.account_id, run.job_id)
        self._keep(key, run.run_id, run.started_at, run.finished_at, run.retrying_run_id is None)

    def typical(self, key: JobKey) -> timedelta | None:
        """How long the job usually takes; None: too little is known."""
        seen = self._jobs.get(key)
        if seen is None:
            return None
        if key not in self._typical:
            self._typical[key] = typical(run.seconds for run in seen.values() if run.seconds is not None)
        return self._typical[key]

    def typical_of(self, run: DbtRun) -> timedelta | None:
        """How long the object's run usually takes; None: too little is known, or it is not like the others."""
        key = job_of(run)
        return self.typical(key) if key is not None and comparable(run) else None

    def _keep(self, key: JobKey, run_id: int, started_at: datetime, finished_at: datetime, whole: bool) -> None:
        seen = self._jobs.setdefault(key, {})
        self._jobs.move_to_end(key)
        # What an object knows of its run comes before the list of what finished, which does not contain the steps.
        # Without the time in the queue, which says nothing of the job.
        seconds = (finished_at - started_at).total_seconds()
        seen.setdefault(run_id, _Seen(finished_at, seconds if whole and seconds >= 0 else None))
        if len(seen) > KEPT:
            del seen[min(seen, key=lambda run_id: seen[run_id].finished_at)]
        self._typical.pop(key, None)
        if len(self._jobs) > MAX_JOBS:
            forgotten, _ = self._jobs.popitem(last=False)
            self._typical.pop(forgotten, None)


class Streaks:
    """How often each job of a namespace has failed since it last succeeded. Cancelled objects say nothing."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[tuple[str, int], dict[str, tuple[datetime, bool]]] = OrderedDict()
        self._failures: dict[tuple[str, int], int] = {}

    def note(self, run: DbtRun) -> None:
        """Takes an object that has ended. Repeating it changes nothing."""
        status, job_id = run.status, job_id_of(run)
        if job_id is None or status.completion_time is None or status.phase is Phase.CANCELLED:
            return
        key = (run.metadata.namespace, job_id)
        ends = self._jobs.setdefault(key, {})
        self._jobs.move_to_end(key)
        ends[run.uid] = (status.completion_time, status.phase is not Phase.SUCCEEDED)
        if len(ends) > KEPT:
            del ends[min(ends, key=lambda uid: ends[uid][0])]
        self._failures[key] = in_a_row(ends.values())
        if len(self._jobs) > MAX_JOBS:
            forgotten, _ = self._jobs.popitem(last=False)
            del self._failures[forgotten]

    def failures(self) -> dict[tuple[str, int], int]:
        """By namespace and job; at most KEPT."""
        return dict(self._failures)


def in_a_row(ends: Iterable[tuple[datetime, bool]]) -> int:
    """How many of the newest ends are failures, one after the other."""
    newest_first = sorted(ends, reverse=True)
    return sum(1 for _ in itertools.takewhile(lambda end: end[1], newest_first))


def job_id_of(run: DbtRun) -> int | None:
    """The job's id, of an object that never got as far as dbt Cloud too."""
    asked = run.spec.job.id if run.spec.job is not None else None
    return run.status.job_id or asked


def typical(seconds: Iterable[float]) -> timedelta | None:
    """The median, which single slow runs do not move; None for too few."""
    known = list(seconds)
    return timedelta(seconds=statistics.median(known)) if len(known) >= LEAST else None


def job_of(run: DbtRun) -> JobKey | None:
    """The job of an object, once dbt Cloud has reported it."""
    status = run.status
    if status.job_id is None or status.account_id is None:
        return None
    return JobKey(status.host or "", status.account_id, status.job_id)


def comparable(run: DbtRun) -> bool:
    """Whether the object's run does what the job's other runs do."""
    attempt = run.status.attempt
    resumed = attempt is not None and attempt.retry_of is not None
    return run.spec.overrides.steps is None and not resumed
