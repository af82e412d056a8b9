"""How a task ends badly: which exception, in which words, and what its log says before.

The words of an exception are ours alone. People test `'timeout' in str(exception).lower()` to tell a wait that ended
from a run that failed, and a failed model may well complain of a timeout: dbt's words go to the log.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout

from airflow_trigger.event import BROKEN, INVALID_ARGUMENT, NO_ACCESS, NOT_ACCEPTED, NOT_FOUND
from watcher.api import REASON_DOCS, Phase, Reason
from watcher.api.status import FAILED_NODE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_trigger.taskruns import TaskRun


class DbtRunException(AirflowException):
    """A dbt Cloud run did not end well, or it is not known how it ended. The base of all below."""


class DbtRunFailed(DbtRunException):
    """dbt Cloud says that the run failed."""


class DbtRunCancelled(DbtRunException):
    """It was cancelled, here or in dbt Cloud, or its DbtRun was deleted."""


class DbtRunTimedOut(DbtRunException):
    """A deadline passed. The message contains 'timeout' and says whether the run may go on."""


class DbtRunLostContact(DbtRunException):
    """It is not known how the run ended, or whether it did. A next try looks again and follows it."""


class DbtRunRefused(DbtRunException, AirflowFailException):
    """Trying again cannot help: somebody must change a setting, a permission or an argument."""


class InvalidArgument(DbtRunRefused, ValueError):
    """An argument cannot be used."""


class DbtRunEventException(DbtRunException):
    """A deferred task resumed without an event that it understands."""


class DbtRunSensorTimeout(DbtRunTimedOut, AirflowSensorTimeout):
    """The sensor's `timeout` passed."""


REFUSED: Final = frozenset(
    {
        Reason.INVALID_CONNECTION,
        Reason.JOB_NOT_FOUND,
        Reason.PROJECT_NOT_ALLOWED,
        Reason.FORBIDDEN,
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


def failure(event: Mapping[str, Any]) -> DbtRunException | None:
    """What to raise for an event; None for a success."""
    status, reason = event["status"], event.get("reason", "")
    if status == "success":
        return None
    if reason in REFUSED:
        return DbtRunRefused(event["message"])
    if status == "timeout":
        return DbtRunTimedOut(event["message"])
    if status == "cancelled" or reason == Reason.DELETED:
        return DbtRunCancelled(f"{_who(event)} has been cancelled{_because(reason)}.")
    if reason in UNKNOWN:
        return DbtRunLostContact(f"What became of {_who(event, lower=True)} is not known{_because(reason)}.")
    return DbtRunFailed(f"{_who(event)} has failed{_because(reason)}.")


def _who(event: Mapping[str, Any], *, lower: bool = False) -> str:
    if event.get("run_id") is None:
        return f"DbtRun {event.get('namespace')}/{event.get('name')}"
    return f"{'job' if lower else 'Job'} run {event['run_id']}"


def _because(reason: str) -> str:
    return f" ({reason})" if reason and reason != Reason.RUN_FAILED else ""


def report(run: TaskRun) -> Iterator[str]:
    """The lines that explain an end in the task's log, from the object alone."""
    status = run.status
    yield f"DbtRun {run.metadata.namespace}/{run.name}: {status.phase} ({status.reason}). {status.message}"
    if status.link:
        yield f"dbt Cloud run {run.run_id}: {status.link}"
    if status.phase == Phase.SUCCEEDED:
        return
    if status.reason in REASON_DOCS and status.phase == Phase.ERROR:
        yield f"What to do: {REASON_DOCS[Reason(status.reason)].remedy}"
    yield from (f"Step {step.index}: {step.name}: {step.status}" for step in status.steps)
    yield from _nodes(run)


def _nodes(run: TaskRun) -> Iterator[str]:
    results = run.status.results
    for failed in results.failures:
        yield f"{failed.status}: {failed.unique_id}: {failed.message}"
    more = sum(results.counts.get(status, 0) for status in FAILED_NODE) - len(results.failures)
    if more > 0:
        yield f"… and {more} more failed nodes."


NO_CALLS: Final = "nothing here calls dbt Cloud"
WITHOUT_EFFECT: Final = {
    "hook_params": f"{NO_CALLS}. The watcher retries and limits its requests; its time-outs are settings of the chart.",
    "openlineage_inject_parent_job_info": "the run's cause carries the watcher's marker. Read the DbtRun's labels "
    "airflow.dbtrun.dev/dag-id, run-id and task-id instead.",
    "durable": "every try looks for the run of the one before. A run is started anew when the task is cleared.",
    "dbt_cloud_conn_id": f"{NO_CALLS}: the DbtRuns of the namespace are read.",
    "account_id": f"{NO_CALLS}: the DbtRuns of the namespace are read.",
    "order_by": "the list is always newest first.",
    "include_related": "a row has what the status of the DbtRun has.",
    "step": "a file is kept as the last step of the run left it.",
}
"""Arguments of the provider that have no place here, each with what takes it."""


def warn_without_effect(**given: object) -> None:
    """A warning for each argument that was given and has no place here."""
    for argument, value in given.items():
        if value:
            warnings.warn(f"{argument} has no effect: {WITHOUT_EFFECT[argument]}", FutureWarning, stacklevel=3)
