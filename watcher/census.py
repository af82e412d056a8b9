"""The objects in numbers, for the metrics: how many there are, how long they have waited, which jobs are late.

Kept up to date with each change: a scrape that looked at 10,000 objects would hold up everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeVar

from dbtrun.api import ConditionStatus, ConditionType, DbtRun, Phase, Reason
from watcher.clock import Clock
from watcher.lifecycle.history import History, JobKey, Streaks, comparable, job_of
from watcher.telemetry.metrics import Census, Job, Place

K = TypeVar("K")
M = TypeVar("M")


class _Counted(NamedTuple):
    """What an object is counted under."""

    place: Place
    entered: float
    """Monotonic seconds since when it has been in its phase, for its reason."""
    unreachable: tuple[str, str] | None
    running: Job | None
    started_at: datetime | None
    job: tuple[str, JobKey] | None
    """The namespace and the job whose usual duration its run is compared with."""


@dataclass(slots=True)
class Counting:
    """Counts the objects of a watcher that do not rest; `note` and `forget` get each change."""

    resting_in: Callable[[], Mapping[Place, int]]
    """How many objects rest, by namespace, phase and reason."""
    history: History
    streaks: Streaks
    clock: Clock
    acting: Callable[[], bool]
    """A standby reports nothing: the figures of all replicas would be added up."""
    limited: Callable[[], Iterable[tuple[str, bool]]]
    """The objects whose connection limits concurrent runs, and whether each holds a slot beside its live run."""
    _counted: dict[str, _Counted] = field(default_factory=dict, init=False)
    _places: dict[Place, dict[str, float]] = field(default_factory=dict, init=False)
    _running: dict[Job, dict[str, datetime]] = field(default_factory=dict, init=False)
    _unreachable: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)
    _jobs: Counter[tuple[str, JobKey]] = field(default_factory=Counter, init=False)

    def note(self, run: DbtRun) -> None:
        """The object is new, or has changed."""
        uid, before = run.uid, self._counted.get(run.uid)
        namespace, status, key = run.metadata.namespace, run.status, job_of(run)
        phase = status.phase or Phase.PENDING
        place = namespace, phase, status.reason or ""
        running = phase is Phase.RUNNING and status.job_id is not None and status.started_at is not None
        now = _Counted(
            place,
            before.entered if before is not None and before.place == place else self._entered(run, known=before),
            _unreachable(run),
            (namespace, status.job_id) if running and status.job_id is not None else None,
            status.started_at if running else None,
            (namespace, key) if key is not None and comparable(run) else None,
        )
        if now == before:
            return
        self.forget(uid)
        self._counted[uid] = now
        self._places.setdefault(now.place, {})[uid] = now.entered
        if now.running is not None and now.started_at is not None:
            self._running.setdefault(now.running, {})[uid] = now.started_at
        if now.unreachable is not None:
            self._unreachable[now.unreachable] += 1
        if now.job is not None:
            self._jobs[now.job] += 1

    def forget(self, uid: str) -> None:
        """The object is gone or rests; unknown ones are no error."""
        before = self._counted.pop(uid, None)
        if before is None:
            return
        _leave(self._places, before.place, uid)
        if before.running is not None:
            _leave(self._running, before.running, uid)
        if before.unreachable is not None:
            _take(self._unreachable, before.unreachable)
        if before.job is not None:
            _take(self._jobs, before.job)

    def __call__(self) -> Census:
        """The objects as they are now."""
        if not self.acting():
            return Census()
        now = self.clock()
        usual = (((namespace, key.job_id), self.history.typical(key)) for namespace, key in self._jobs)
        return Census(
            objects=Counter({place: len(members) for place, members in self._places.items()})
            + Counter(self.resting_in()),
            oldest={
                place: now.mono - min(members.values())
                for place, members in self._places.items()
                if not Phase(place[1]).final
            },
            unreachable=dict(self._unreachable),
            slots_used=Counter(
                counted.place[0]
                for uid, holds in self.limited()
                if (counted := self._counted.get(uid)) is not None and (holds or Phase(counted.place[1]).live)
            ),
            running={job: self._age(min(members.values())) for job, members in self._running.items()},
            expected={job: duration.total_seconds() for job, duration in usual if duration is not None},
            failures=self.streaks.failures(),
        )

    def _entered(self, run: DbtRun, known: _Counted | None) -> float:
        """Since when an object that is new, or has changed its phase or reason, is in it."""
        # A change that this process sees happens now. The times in the status are by dbt Cloud's clock, and only a
        # watcher that has just started needs them.
        moment = _entered(run) if known is None else None
        return self.clock().mono - (self._age(moment) if moment is not None else 0.0)

    def _age(self, moment: datetime) -> float:
        return max(0.0, (self.clock().wall - moment).total_seconds())


def _leave(groups: dict[K, dict[str, M]], group: K, uid: str) -> None:
    members = groups[group]
    del members[uid]
    # An empty group has no oldest member, which would fail the whole scrape.
    if not members:
        del groups[group]


def _take(counts: Counter[K], key: K) -> None:
    counts[key] -= 1
    # A Counter keeps zeros, one for each job that ever ran.
    if not counts[key]:
        del counts[key]


def _entered(run: DbtRun) -> datetime | None:
    """Since when an object has been in its phase, as far as its status says."""
    status, attempt = run.status, run.status.attempt
    match status.phase:
        case None:
            return run.metadata.creation_timestamp
        case Phase.PENDING:
            return run.metadata.creation_timestamp if status.reason is Reason.ACCEPTED else None
        case Phase.SUBMITTING:
            return attempt.claim_time if attempt is not None else None
        case Phase.QUEUED:
            return status.queued_at
        case Phase.RUNNING:
            return status.started_at
    return None


def _unreachable(run: DbtRun) -> tuple[str, str] | None:
    told = run.status.condition(ConditionType.REACHABLE)
    unreachable = told is not None and told.status is ConditionStatus.FALSE and not run.status.final
    return (run.metadata.namespace, told.reason) if told is not None and unreachable else None
