"""What a task makes of an end: which exception, in which words, and what its log says before.

The words of an exception are ours alone. People test `'timeout' in str(exception).lower()` to tell a wait that ended
from a run that failed, and a failed model may well complain of a timeout: dbt's words go to the log.
"""

from __future__ import annotations

from logging import ERROR, INFO
from typing import TYPE_CHECKING, Any, Final

import msgspec

from airflow_trigger.failures import (
    DbtRunCancelled,
    DbtRunEventException,
    DbtRunException,
    DbtRunFailed,
    DbtRunLostContact,
    DbtRunRefused,
    DbtRunTimedOut,
)
from airflow_trigger.waiting.event import BROKEN, INVALID_ARGUMENT, NO_ACCESS, NOT_ACCEPTED, NOT_FOUND
from dbtrun.api import REASON_DOCS, Phase, Reason
from dbtrun.api.status import FAILED_NODE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_trigger.task.run import TaskResults, TaskRun


REFUSED: Final = frozenset(
    {
        Reason.INVALID_CONNECTION,
        Reason.JOB_NOT_FOUND,
        Reason.PROJECT_NOT_ALLOWED,
        Reason.FORBIDDEN,
        Reason.UNAUTHORIZED,
        Reason.SUBMISSION_REJECTED,
        # Another try would start a second run if the first did start: a person must look.
        Reason.SUBMISSION_UNDECIDED,
        Reason.RUN_NOT_FOUND,
        Reason.STATUS_TAMPERED,
        NOT_ACCEPTED,
        INVALID_ARGUMENT,
    }
)
UNKNOWN: Final = frozenset({Reason.LOST_CONTACT, NO_ACCESS, NOT_FOUND, BROKEN})
STATUSES: Final = frozenset({"success", "error", "cancelled", "timeout"})


def checked(event: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The event that a deferred task resumed with.

    Raises:
        DbtRunEventException: it is lost, or from a trigger that this version does not know.
    """
    if event is None:
        raise DbtRunEventException("Trigger error: event is None")
    if event.get("status") not in STATUSES:
        raise DbtRunEventException(f"Unexpected trigger event status {event.get('status')!r}: {dict(event)!r}")
    return event


def failure(event: Mapping[str, Any], run: TaskRun | None = None) -> DbtRunException | None:
    """What to raise for an event; None for a success. `run` is the object, if it can be read."""
    error = _of_its_kind(event)
    if error is None:
        return None
    error.run_id, error.url, error.reason = event.get("run_id"), event.get("job_run_url"), event.get("reason", "")
    if run is not None:
        error.failures = [msgspec.structs.asdict(failed) for failed in run.status.results.failures]
        error.log_tail = run.status.failed_step.log_tail if run.status.failed_step else ""
    return error


def _of_its_kind(event: Mapping[str, Any]) -> DbtRunException | None:
    status, reason = event["status"], event.get("reason", "")
    if status == "success":
        return None
    # By the reason first: Airflow must not retry these, whichever status the event has.
    if reason in REFUSED:
        return DbtRunRefused(event["message"])
    if status == "timeout":
        return DbtRunTimedOut(event["message"])
    if status == "cancelled" or reason == Reason.DELETED:
        return DbtRunCancelled(f"{_who(event)} has been cancelled{_because(reason)}.")
    if reason in UNKNOWN:
        return DbtRunLostContact(f"It is not known how {_who(event, lower=True)} ended{_because(reason)}.")
    return DbtRunFailed(f"{_who(event)} has failed{_because(reason)}.")


def _who(event: Mapping[str, Any], *, lower: bool = False) -> str:
    if event.get("run_id") is None:
        return f"DbtRun {event.get('namespace')}/{event.get('name')}"
    return f"{'job' if lower else 'Job'} run {event['run_id']}"


def _because(reason: str) -> str:
    return f" ({reason})" if reason and reason != Reason.RUN_FAILED else ""


TO_DO: Final = {
    Reason.JOB_NOT_FOUND: "Correct job_id, or project_name, environment_name and job_name, in the DAG, or give the "
    "token access to the job; then clear the task.",
    Reason.SUBMISSION_REJECTED: "Correct the argument that the message names, in the DAG; then clear the task.",
}
"""What to do in Airflow, where it is another thing than with kubectl."""


def report(run: TaskRun) -> Iterator[tuple[int, str]]:
    """The lines that explain an end in the task's log, each with its level, from the object alone: the cause first."""
    status = run.status
    bad = INFO if status.phase == Phase.SUCCEEDED else ERROR
    yield bad, status.message or f"{status.phase} ({status.reason})"
    if status.phase == Phase.ERROR and status.reason in REASON_DOCS:
        reason = Reason(status.reason)
        yield ERROR, f"What to do: {TO_DO.get(reason) or REASON_DOCS[reason].remedy}"
    yield INFO, f"DbtRun {run.metadata.namespace}/{run.name}: {status.phase} ({status.reason})"
    if status.link:
        yield INFO, f"dbt Cloud run {run.run_id}: {status.link}"
    if status.phase == Phase.SUCCEEDED:
        return
    failed = status.failed_step
    for step in status.steps:
        level = ERROR if failed is not None and step.index == failed.index else INFO
        yield level, f"Step {step.index}: {step.name}: {step.status}"
    yield from _nodes(status.results)
    if failed is not None and failed.log_tail:
        yield INFO, f"The end of the log of step {failed.index}, {failed.name}:"
        yield from ((INFO, line) for line in failed.log_tail.splitlines())


def _nodes(results: TaskResults) -> Iterator[tuple[int, str]]:
    if results.counts:
        yield INFO, f"Nodes: {', '.join(f'{count} {status}' for status, count in sorted(results.counts.items()))}"
    for failed in results.failures:
        yield ERROR, f"{failed.unique_id} ({failed.status}): {failed.message}"
    more = sum(results.counts.get(status, 0) for status in FAILED_NODE) - len(results.failures)
    if more > 0:
        yield ERROR, f"… and {more} more failed nodes."
