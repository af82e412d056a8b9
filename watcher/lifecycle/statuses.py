"""Statuses made of statuses: conditions stamped, attempts replaced, bounds kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from dbtrun.api import Attempt, Condition, ConditionStatus, ConditionType, Phase, Reason, Status, Step
from dbtrun.api.status import MAX_MESSAGE, MAX_STATUS, MAX_STEP_NAME, MAX_STEPS
from dbtrun.text import clean
from watcher.lifecycle.facts import RunFacts, StepFacts, Trouble

STEP_OVER: Final = 10
STEP_SUCCESS: Final = 10

NO_RUN: Final[dict[str, Any]] = {
    "run_id": None,
    "url": None,
    "queued_at": None,
    "started_at": None,
    "finished_at": None,
    "estimated_completion_time": None,
    "progress": None,
    "steps": (),
    "failed_step": None,
    "results": None,
}
"""What a status says of a run before there is one, or before the next one."""


def seconds(moment: datetime) -> datetime:
    """The moment without its fraction: Kubernetes shows whole seconds."""
    return moment.replace(microsecond=0)


def with_attempt(status: Status, attempt: Attempt) -> tuple[Attempt, ...]:
    """The attempts with this one in its place, or at the end."""
    others = [a for a in status.attempts if a.number != attempt.number]
    return tuple(sorted([*others, attempt], key=lambda a: a.number))


def run_fields(run: RunFacts) -> dict[str, Any]:
    """What a status repeats of the run's identity and times."""
    return {
        "run_id": run.run_id,
        "job_id": run.job_id,
        "project_id": run.project_id,
        "environment_id": run.environment_id,
        "account_id": run.account_id,
        "url": run.url,
        **run_times(run),
    }


def run_times(run: RunFacts) -> dict[str, datetime | None]:
    """dbt Cloud's times of the run, under the names that a status and an attempt share."""
    times = {"queued_at": run.created_at, "started_at": run.started_at, "finished_at": run.finished_at}
    return {name: time and seconds(time) for name, time in times.items()}


def shown_steps(steps: tuple[StepFacts, ...]) -> dict[str, Any]:
    """The steps as a status shows them, bounded, with their progress as "3/5"."""
    done = sum(step.state >= STEP_OVER for step in steps)
    shown = tuple(
        Step(
            index=step.index,
            name=clean(step.name, MAX_STEP_NAME),
            status=clean(step.status, 40),
            started_at=step.started_at and seconds(step.started_at),
            finished_at=step.finished_at and seconds(step.finished_at),
        )
        for step in steps[:MAX_STEPS]
    )
    return {"steps": shown, "progress": f"{done}/{len(steps)}" if steps else None}


def stamped(status: Status, generation: int, now: datetime, trouble: Trouble | None, answered: bool) -> Status:
    """The status with its generation and conditions as they must be.

    Stamped again for every generation, of finished objects too: `kubectl wait` ignores conditions of an older one.
    """
    conditions = []
    for new in _conditions(status, trouble, answered):
        old = status.condition(new.type)
        same = old is not None and old.status is new.status
        conditions.append(
            Condition(
                type=new.type,
                status=new.status,
                reason=new.reason,
                # The wording of one and the same fault varies; rewriting it would rewrite every object of an account.
                message=old.message if old and same and old.reason is new.reason and new.sticky else new.message,
                # As Kubernetes' API conventions have it: the time of the last change of the condition's status, not of
                # its words.
                last_transition_time=old.last_transition_time if old and same else seconds(now),
                observed_generation=generation,
            )
        )
    return replace(status, observed_generation=generation, conditions=tuple(conditions))


def stands(status: Status, generation: int) -> bool:
    """Whether a final status says in its conditions, for this generation, what it says itself.

    The wording does not count: a release with other words does not rewrite every finished object.
    """
    wanted = [(c.type, c.status, c.reason, generation) for c in _conditions(status, None, False)]
    told = [(c.type, c.status, c.reason, c.observed_generation) for c in status.conditions]
    return status.observed_generation == generation and told == wanted


def bounded(status: Status) -> Status:
    """The status within MAX_STATUS bytes: what is best seen elsewhere is dropped first, and the present state never."""
    for shorten in (_without_steps, _without_log, _without_failures, _with_brief_attempts):
        if len(msgspec.json.encode(status)) <= MAX_STATUS:
            return status
        status = shorten(status)
    return status


def _without_steps(status: Status) -> Status:
    return replace(status, steps=())


def _without_log(status: Status) -> Status:
    return replace(status, failed_step=status.failed_step and replace(status.failed_step, log_tail=""))


def _without_failures(status: Status) -> Status:
    return replace(status, results=status.results and replace(status.results, failures=()))


def _with_brief_attempts(status: Status) -> Status:
    return replace(status, attempts=tuple(replace(a, message=clean(a.message, 100)) for a in status.attempts))


class _Wanted:
    """A condition before it has its times."""

    __slots__ = ("message", "reason", "status", "sticky", "type")

    def __init__(
        self, kind: ConditionType, status: bool | None, reason: Reason, message: str, sticky: bool = False
    ) -> None:
        self.type, self.reason, self.message, self.sticky = kind, reason, message, sticky
        self.status = _TRI_STATE[status]


def sticky(trouble: Trouble) -> bool:
    """Whether the first words for a trouble stay. Ours for a connection do not vary, and say what to mend next."""
    return trouble.reason not in (Reason.INVALID_CONNECTION, Reason.OTHER_ACCOUNT)


_TRI_STATE: Final = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}


def _conditions(status: Status, trouble: Trouble | None, answered: bool) -> list[_Wanted]:
    phase, reason = status.phase or Phase.PENDING, status.reason or Reason.ACCEPTED
    succeeded = phase is Phase.SUCCEEDED if phase.final else None
    before = status.condition(ConditionType.REACHABLE)
    if trouble is not None:
        words = clean(trouble.message, MAX_MESSAGE)
        reachable = _Wanted(ConditionType.REACHABLE, False, trouble.reason, words, sticky=sticky(trouble))
    elif answered:
        reachable = _Wanted(ConditionType.REACHABLE, True, Reason.ANSWERING, "dbt Cloud answers.")
    elif before is None:
        reachable = _Wanted(ConditionType.REACHABLE, None, Reason.ACCEPTED, "dbt Cloud was not asked yet.")
    else:
        old = {ConditionStatus.TRUE: True, ConditionStatus.FALSE: False, ConditionStatus.UNKNOWN: None}[before.status]
        reachable = _Wanted(ConditionType.REACHABLE, old, before.reason, before.message)
    return [
        _Wanted(ConditionType.SUCCEEDED, succeeded, reason, status.message),
        _Wanted(ConditionType.FINISHED, phase.final, reason, status.message),
        reachable,
        _Wanted(ConditionType.RECONCILING, not phase.final, reason, status.message),
        _Wanted(ConditionType.STALLED, succeeded is False, reason, status.message),
    ]
