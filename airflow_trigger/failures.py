"""How a task ends badly: which exception, in which words, and what its log says before.

The words of an exception are ours alone. People test `'timeout' in str(exception).lower()` to tell a wait that ended
from a run that failed, and a failed model may well complain of a timeout: dbt's words go to the log.
"""

from __future__ import annotations

import warnings
from logging import ERROR, INFO
from typing import TYPE_CHECKING, Any, Final

import msgspec
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout

from airflow_trigger.event import BROKEN, INVALID_ARGUMENT, NO_ACCESS, NOT_ACCEPTED, NOT_FOUND
from dbtrun.api import REASON_DOCS, Phase, Reason
from dbtrun.api.status import FAILED_NODE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_trigger.taskruns import TaskRun


class DbtRunException(AirflowException):
    """A dbt Cloud run did not end well, or it is not known how it ended. The base of all below.

    The attributes are for callbacks: `context["exception"].failures` has the failed models. They hold JSON primitives.
    """

    run_id: int | None = None
    """The dbt Cloud run, if one is known."""
    url: str | None = None
    """Its address."""
    reason: str = ""
    """As in the status of the DbtRun, or one of the trigger's own."""
    failures: Sequence[Mapping[str, str]] = ()
    """The first failed nodes: `unique_id`, `status` and `message`."""
    log_tail: str = ""
    """The end of the failed step's log."""


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
    if status.phase != Phase.SUCCEEDED:
        yield from _steps(run)
        yield from _nodes(run)
        yield from _log(run)


def _steps(run: TaskRun) -> Iterator[tuple[int, str]]:
    failed = run.status.failed_step
    for step in run.status.steps:
        level = ERROR if failed is not None and step.index == failed.index else INFO
        yield level, f"Step {step.index}: {step.name}: {step.status}"


def _nodes(run: TaskRun) -> Iterator[tuple[int, str]]:
    results = run.status.results
    if results.counts:
        yield INFO, f"Nodes: {', '.join(f'{count} {status}' for status, count in sorted(results.counts.items()))}"
    for failed in results.failures:
        yield ERROR, f"{failed.unique_id} ({failed.status}): {failed.message}"
    more = sum(results.counts.get(status, 0) for status in FAILED_NODE) - len(results.failures)
    if more > 0:
        yield ERROR, f"… and {more} more failed nodes."


def _log(run: TaskRun) -> Iterator[tuple[int, str]]:
    failed = run.status.failed_step
    if failed is None or not failed.log_tail:
        return
    yield INFO, f"The end of the log of step {failed.index}, {failed.name}:"
    yield from ((INFO, line) for line in failed.log_tail.splitlines())


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
