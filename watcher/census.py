"""The objects in numbers, for the metrics: how many there are, how long they have waited, which jobs are late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from dbtrun.api import ConditionStatus, ConditionType, DbtRun, Phase, Reason
from watcher.clock import Clock
from watcher.lifecycle.history import History, Streaks, comparable, job_of
from watcher.telemetry.metrics import Census, Job, Place

K = TypeVar("K")


class Mirror(Protocol):
    """Where the objects are known."""

    def __iter__(self) -> Iterator[DbtRun]: ...

    @property
    def resting_in(self) -> Mapping[Place, int]:
        """How many objects rest, by namespace, phase and reason."""


@dataclass(slots=True)
class Counting:
    """Counts the objects of a watcher, each time from scratch, except since when they are in their state."""

    mirror: Mirror
    history: History
    streaks: Streaks
    clock: Clock
    acting: Callable[[], bool]
    """A standby reports nothing: the figures of all replicas would be added up."""
    has_slot: Callable[[DbtRun], bool]
    """Whether the object occupies a run slot of a connection that limits them."""
    _since: dict[str, tuple[Phase, Reason | None, float]] = field(default_factory=dict, init=False)

    def __call__(self) -> Census:
        """The objects as they are now."""
        if not self.acting():
            self._since.clear()
            return Census()
        runs = list(self.mirror)
        return Census(
            objects=Counter(map(_place, runs)) + Counter(self.mirror.resting_in),
            oldest=_longest(self._waits(runs)),
            unreachable=Counter(_unreachable(runs)),
            slots_used=Counter(run.metadata.namespace for run in runs if self.has_slot(run)),
            running=_longest(self._running(runs)),
            expected=dict(self._expected(runs)),
            failures=self.streaks.failures(),
        )

    def _waits(self, runs: Iterable[DbtRun]) -> Iterator[tuple[Place, float]]:
        now, before, self._since = self.clock().mono, self._since, {}
        for run in runs:
            phase, reason = run.status.phase or Phase.PENDING, run.status.reason
            if run.status.final:
                continue
            seen = before.get(run.uid)
            if seen is None or seen[:2] != (phase, reason):
                entered = _entered(run) if seen is None else None
                seen = (phase, reason, now - self._age(entered) if entered else now)
            self._since[run.uid] = seen
            yield _place(run), now - seen[2]

    def _running(self, runs: Iterable[DbtRun]) -> Iterator[tuple[Job, float]]:
        for run in runs:
            status = run.status
            if status.phase is Phase.RUNNING and status.job_id is not None and status.started_at is not None:
                yield (run.metadata.namespace, status.job_id), self._age(status.started_at)

    def _expected(self, runs: Iterable[DbtRun]) -> Iterator[tuple[Job, float]]:
        for namespace, key in {(run.metadata.namespace, job_of(run)) for run in runs if comparable(run)}:
            usual = self.history.typical(key) if key is not None else None
            if key is not None and usual is not None:
                yield (namespace, key.job_id), usual.total_seconds()

    def _age(self, moment: datetime) -> float:
        return max(0.0, (self.clock().wall - moment).total_seconds())


def _place(run: DbtRun) -> Place:
    status = run.status
    return run.metadata.namespace, status.phase or Phase.PENDING, status.reason or ""


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


def _unreachable(runs: Iterable[DbtRun]) -> Iterator[tuple[str, str]]:
    for run in runs:
        told = run.status.condition(ConditionType.REACHABLE)
        if told is not None and told.status is ConditionStatus.FALSE and not run.status.final:
            yield run.metadata.namespace, told.reason


def _longest(pairs: Iterable[tuple[K, float]]) -> dict[K, float]:
    most: dict[K, float] = {}
    for key, seconds in pairs:
        most[key] = max(seconds, most.get(key, 0.0))
    return most
