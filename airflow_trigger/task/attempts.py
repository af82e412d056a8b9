"""Which DbtRun belongs to a try of a task. Pure.

A worker may die after it created an object, Airflow may be away when the run ends, a person may clear a task. So a try
does not remember: it looks at the objects that carry its task's labels, and the newest of them decides.

Two annotations make that safe. `waiting-try` names the last try that took the object on, so that the end of an older
one does not cancel it. `consumed` names the try that told Airflow the outcome. Both carry what tells one life of a task
from the next (see `Mark`): Airflow uses a run id again when a DAG run is deleted and created again, and it counts tries
in a way that can come out the same after a person cleared a task. So a crash just after a success is told from a wish
to run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow_trigger.task.identity import Try
from airflow_trigger.task.run import own
from dbtrun.api import Phase, Reason

if TYPE_CHECKING:
    from airflow_trigger.task.run import TaskRun, TaskSpec

NEVER_STARTED: Final = frozenset(
    {
        Reason.INVALID_CONNECTION,
        Reason.JOB_NOT_FOUND,
        Reason.PROJECT_NOT_ALLOWED,
        Reason.FORBIDDEN,
        Reason.SUBMISSION_REJECTED,
    }
)
"""With one of these and without a run id nothing was started: a new object repeats nothing."""


@dataclass(frozen=True, slots=True)
class Create:
    """Make object `number`.

    `resumes` is the failed run to go on from, `follows` a run to follow instead of starting one.
    """

    number: int
    resumes: int | None = None
    follows: int | None = None


@dataclass(frozen=True, slots=True)
class Attach:
    """It is still going on: take it over."""

    run: TaskRun


@dataclass(frozen=True, slots=True)
class Use:
    """It is over, and Airflow has not read the outcome."""

    run: TaskRun


@dataclass(frozen=True, slots=True)
class Await:
    """It is being cancelled: nothing may start beside it."""

    run: TaskRun


@dataclass(frozen=True, slots=True)
class Replace:
    """It is going on for another life of the task, or it is not what this try asks for: end it first."""

    run: TaskRun


Choice = Create | Attach | Use | Await | Replace


def choose(
    runs: Sequence[TaskRun],
    attempt: Try,
    wanted: TaskSpec,
    *,
    from_failure: bool = False,
    leaves: bool = False,
    above: int = 0,
) -> Choice:
    """What the try does, by the newest object of its task.

    Args:
        runs: the objects that carry the task's label. Those whose names the task would not give are not looked at.
        attempt: the try.
        wanted: the spec that the try would create.
        from_failure: a failed run is resumed, not repeated.
        leaves: what goes on for another life of the task is left alone, not ended.
        above: numbers up to this are not free, though no object in `runs` has them.
    """
    named = own(runs, attempt.key)
    ours: list[TaskRun] = []
    for run in named:
        if _is_what(wanted, run, ours, from_failure=from_failure):
            ours.append(run)
    # Airflow counts tries from 1 again when a DAG run is created again, and names must not repeat.
    number = max(attempt.number, above + 1, named[-1].number + 1 if named else 0)
    if not named:
        return Create(number)
    newest = named[-1]
    belongs = bool(ours) and ours[-1] is newest
    resumable = from_failure and belongs and newest.status.phase == Phase.FAILED
    following = Create(number, resumes=newest.run_id if resumable else None)
    if newest.unwanted:
        return following if newest.final else Await(newest)
    # The object of another life, as after a clear: what it did does not count for this one.
    if not belongs or not attempt.mark.follows(newest.mark):
        return following if newest.final or newest.consumed or leaves else Replace(newest)
    return _going_on(newest, following)


def _going_on(newest: TaskRun, following: Create) -> Choice:
    """In the life of the task that the newest object is of."""
    if not newest.final:
        return Attach(newest)
    if newest.status.reason == Reason.LOST_CONTACT and newest.run_id is not None:
        return Create(following.number, follows=newest.run_id)
    if newest.consumed:  # a success whose worker died before it could report it, or a failure that is to be retried
        return Use(newest) if newest.status.phase == Phase.SUCCEEDED else following
    started = newest.run_id is not None or newest.status.reason not in NEVER_STARTED
    return Use(newest) if started else following


def _is_what(wanted: TaskSpec, run: TaskRun, before: Sequence[TaskRun], *, from_failure: bool) -> bool:
    """Whether the object is one that this task would create after those before it.

    Anyone who may create objects can give one any labels, so only what an object runs makes it the task's.
    """
    spec = run.spec
    if (spec.connection_ref, spec.account_id) != (wanted.connection_ref, wanted.account_id):
        return False
    if spec.run_id is not None:
        lost = any(one.run_id == spec.run_id and one.status.reason == Reason.LOST_CONTACT for one in before)
        followed = any(one.spec.run_id == spec.run_id for one in before)
        return spec.job is None and (lost or followed)
    resumes = spec.retry_of is None or from_failure or any(one.run_id == spec.retry_of for one in before)
    return resumes and (spec.job, spec.overrides or None) == (wanted.job, wanted.overrides or None)
