"""What must be true when everything has come to rest: read from the objects, and from what dbt Cloud really did."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dbtrun.api import FINALIZER, DbtRun, Phase
from watcher.lifecycle.facts import RunState

MARK: Final = re.compile(r"dbtrun:\S+")
END_OF: Final = {Phase.SUCCEEDED: RunState.SUCCESS, Phase.FAILED: RunState.ERROR}
"""Phases that only dbt Cloud can give; any other end belongs to a run that was cancelled, or to none."""


class Seen(NamedTuple):
    """An object as it was last, and whether it is gone."""

    run: DbtRun
    gone: bool


@dataclass(slots=True)
class Verdict:
    """Every broken promise, each in a sentence; all empty is what must be."""

    duplicates: list[str] = field(default_factory=list)
    """Two dbt Cloud runs for one attempt."""
    lost: list[str] = field(default_factory=list)
    """A run that its object does not know, or an object that never came to its end."""
    untruthful: list[str] = field(default_factory=list)
    """An object that says something else than dbt Cloud."""
    left_alive: list[str] = field(default_factory=list)
    """A run that goes on although its object has ended, was cancelled or deleted."""

    @property
    def broken(self) -> list[str]:
        return [*self.duplicates, *self.lost, *self.untruthful, *self.left_alive]

    def add(self, other: Verdict) -> None:
        """Takes another's sentences too."""
        self.duplicates += other.duplicates
        self.lost += other.lost
        self.untruthful += other.untruthful
        self.left_alive += other.left_alive


def started_in_both(here: Iterable[Mapping[str, Any]], there: Iterable[Mapping[str, Any]]) -> list[str]:
    """The attempts that have a run in two accounts."""
    marks, others = (
        {run["cause"].partition(" ")[0] for run in runs if MARK.match(run["cause"])} for runs in (here, there)
    )
    return [f"{name} was started in two accounts" for name in sorted(marks & others)]


def judge(objects: Iterable[Seen], runs: Iterable[Mapping[str, Any]]) -> Verdict:
    """Holds the objects against the runs, as the simulator's control surface tells them."""
    seen, by_id = list(objects), {run["id"]: run for run in runs}
    verdict = Verdict(duplicates=_duplicates(by_id.values()))
    for one in seen:
        verdict.lost += _lost(one, by_id)
        verdict.untruthful += _untruthful(one, by_id)
        verdict.left_alive += _left_alive(one, by_id)
    return verdict


def identity(run: Mapping[str, Any]) -> str | None:
    """Which attempt a run was started for; None: somebody else's."""
    if run["retrying_run_id"] is not None:
        return f"the retry of {run['retrying_run_id']}"
    mark = MARK.match(run["cause"])
    return mark[0] if mark else None


def _duplicates(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    counted = Counter(filter(None, map(identity, runs)))
    return [f"{name} was started {count} times" for name, count in counted.items() if count > 1]


def _ours(run: DbtRun, runs: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """The runs that were started for the object."""
    started = {run_id for run_id, told in runs.items() if (identity(told) or "").startswith(f"dbtrun:{run.uid}/")}
    resumed = started | ({run.spec.retry_of} - {None})
    retries = {run_id for run_id, told in runs.items() if told["retrying_run_id"] in resumed}
    while not retries <= started:
        started |= retries
        retries = {run_id for run_id, told in runs.items() if told["retrying_run_id"] in started}
    return started


def _lost(one: Seen, runs: Mapping[int, Mapping[str, Any]]) -> list[str]:
    run = one.run
    phase = run.status.phase or Phase.PENDING
    if not one.gone and not phase.final:
        return [f"{run} is still {phase}: {run.status.message}"]
    if not one.gone and FINALIZER in run.metadata.finalizers:
        return [f"{run} has ended and is still held"]
    known = {attempt.run_id for attempt in run.status.attempts}
    # An object that was let go in the middle of a start with deletionPolicy Orphan need not know its run.
    orphaned = one.gone and not run.cancels_on_deletion
    return [] if orphaned else [f"{run} does not know run {run_id}" for run_id in _ours(run, runs) - known]


def _untruthful(one: Seen, runs: Mapping[int, Mapping[str, Any]]) -> list[str]:
    run, status = one.run, one.run.status
    if status.phase is None or not status.phase.final:
        return []
    told = None if status.run_id is None else runs[status.run_id]["status"]
    right: tuple[int | None, ...] = (None, RunState.CANCELLED)
    if status.phase in END_OF:
        right = (END_OF[status.phase],)
    wrong = [] if told in right else [f"{run} says {status.phase} ({status.reason}), dbt Cloud says {told}"]
    untold = status.phase in END_OF and run.spec.artifacts and not status.artifacts
    return wrong + ([f"{run} does not say where its artifacts are"] if untold else [])


def _left_alive(one: Seen, runs: Mapping[int, Mapping[str, Any]]) -> list[str]:
    run = one.run
    if one.gone and not run.cancels_on_deletion:
        return []
    adopted = {run.status.run_id} - {None} if run.spec.cancel or run.cancels_on_deletion else set()
    mine = {run_id for run_id in _ours(run, runs) | adopted if run_id is not None}
    return [f"run {run_id} of {run} goes on" for run_id in mine if not RunState(runs[run_id]["status"]).over]
