"""What the end of a dbt Cloud run means."""

from __future__ import annotations

from typing import Final, NamedTuple

from dbtrun.api import FailedStep, Phase, Reason, Results, RetryWhen
from dbtrun.api.status import MAX_MESSAGE
from dbtrun.text import clean
from watcher.lifecycle.cause import cause_of
from watcher.lifecycle.facts import RunFacts, RunState

DEADLINES: Final = {
    Reason.QUEUE_DEADLINE_EXCEEDED: "spec.queueDeadlineSeconds",
    Reason.ACTIVE_DEADLINE_EXCEEDED: "spec.activeDeadlineSeconds",
}
STOP_REASONS: Final = DEADLINES.keys() | {Reason.CANCEL_REQUESTED, Reason.DELETED}
"""Why we cancel a run."""
RETRYABLE: Final = {
    (Phase.FAILED, Reason.RUN_FAILED): RetryWhen.FAILED,
    (Phase.CANCELLED, Reason.CANCELLED_IN_DBT_CLOUD): RetryWhen.CANCELLED,
    (Phase.TIMED_OUT, Reason.TIMED_OUT_IN_DBT_CLOUD): RetryWhen.TIMED_OUT,
}


class Outcome(NamedTuple):
    """How an attempt ended."""

    phase: Phase
    reason: Reason
    message: str

    @property
    def retryable(self) -> RetryWhen | None:
        """What `retry.when` must contain for another attempt; None: an end that was asked for is never retried."""
        return RETRYABLE.get((self.phase, self.reason))


def outcome_of(
    run: RunFacts, asked_for: Reason | None, results: Results | None = None, step: FailedStep | None = None
) -> Outcome:
    """The end of a run that is over. `asked_for`: why we were cancelling it, if we were.

    A run that finished before the cancel reached it keeps its true result. dbt Cloud reports its own time-out as
    cancelled (30), and only the message tells them apart.
    """
    name = f"dbt Cloud run {run.run_id}"
    if run.state is RunState.SUCCESS:
        return Outcome(Phase.SUCCEEDED, Reason.RUN_SUCCEEDED, f"{name} succeeded.")
    if run.state is RunState.ERROR:
        return Outcome(
            Phase.FAILED,
            Reason.RUN_FAILED,
            clean(f"{name} failed{_why(cause_of(results, step, run.message))}", MAX_MESSAGE),
        )
    # Observed: "This run timed out after running for 1 day, which exceeded the configured timeout of 86400 seconds."
    if "timed out" in run.message.lower():
        return Outcome(Phase.TIMED_OUT, Reason.TIMED_OUT_IN_DBT_CLOUD, clean(f"{run.message}{_at(step)}", MAX_MESSAGE))
    if asked_for in DEADLINES:
        told = f"{name} passed {DEADLINES[asked_for]} and was cancelled.{_at(step)}"
        return Outcome(Phase.TIMED_OUT, asked_for, clean(told, MAX_MESSAGE))
    if asked_for is not None:
        why = "the object was deleted" if asked_for is Reason.DELETED else "spec.cancel is true"
        return Outcome(Phase.CANCELLED, asked_for, f"{name} was cancelled: {why}.")
    return Outcome(
        Phase.CANCELLED,
        Reason.CANCELLED_IN_DBT_CLOUD,
        clean(f"{name} was cancelled in dbt Cloud{_why(run.message)}", MAX_MESSAGE),
    )


def _why(cause: str) -> str:
    return f": {cause}" if cause else "."


def _at(step: FailedStep | None) -> str:
    """Where a run was when it was cut off."""
    return f" It was at step {step.index}, {step.name}." if step is not None else ""
