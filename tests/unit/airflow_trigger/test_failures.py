"""What a task says when it ends badly."""

from __future__ import annotations

import json
import pickle
from logging import ERROR, INFO
from typing import Any

import msgspec
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_trigger.failures import (
    DbtRunCancelled,
    DbtRunEventException,
    DbtRunException,
    DbtRunFailed,
    DbtRunLostContact,
    DbtRunRefused,
    DbtRunTimedOut,
)
from airflow_trigger.task.outcome import checked, failure, report
from airflow_trigger.task.run import TaskRun
from airflow_trigger.waiting.event import Subject, ended
from dbtrun.api import Reason


def over(phase: str, reason: str, message: str = "", **status: Any) -> TaskRun:
    body = {
        "metadata": {"name": "build-1", "namespace": "team", "uid": "u", "resourceVersion": "1"},
        "spec": {},
        "status": {"phase": phase, "reason": reason, "message": message, "runId": 5, **status},
    }
    return msgspec.convert(body, TaskRun)


def raised(run: TaskRun) -> DbtRunException | None:
    return failure(ended(Subject("team", run.name), run), run)


@pytest.mark.parametrize(
    ("phase", "reason", "kind"),
    [
        ("Failed", "RunFailed", DbtRunFailed),
        ("Cancelled", "CancelledInDbtCloud", DbtRunCancelled),
        ("Cancelled", "CancelRequested", DbtRunCancelled),
        ("TimedOut", "ActiveDeadlineExceeded", DbtRunTimedOut),
        ("TimedOut", "TimedOutInDbtCloud", DbtRunTimedOut),
        ("Error", "LostContact", DbtRunLostContact),
        ("Error", "InvalidConnection", DbtRunRefused),
        ("Error", "JobNotFound", DbtRunRefused),
        ("Error", "Forbidden", DbtRunRefused),
        ("Error", "SubmissionUndecided", DbtRunRefused),
    ],
)
def test_each_end_has_its_exception(phase: str, reason: str, kind: type[Exception]) -> None:
    assert type(raised(over(phase, reason))) is kind


def test_a_success_raises_nothing() -> None:
    assert raised(over("Succeeded", "RunSucceeded")) is None


@pytest.mark.parametrize("reason", list(Reason))
def test_every_error_is_caught_by_the_base_class(reason: Reason) -> None:
    assert isinstance(raised(over("Error", reason)), DbtRunException)


def test_what_trying_again_cannot_help_is_not_tried_again() -> None:
    assert isinstance(raised(over("Error", "InvalidConnection")), AirflowFailException)
    assert not isinstance(raised(over("Error", "LostContact")), AirflowFailException)


@pytest.mark.parametrize(
    ("phase", "reason", "told"),
    [
        ("TimedOut", "ActiveDeadlineExceeded", True),
        ("TimedOut", "QueueDeadlineExceeded", True),
        ("Failed", "RunFailed", False),
        ("Cancelled", "CancelledInDbtCloud", False),
        ("Error", "LostContact", False),
    ],
)
def test_the_documented_callback_tells_a_timeout_from_a_failure(phase: str, reason: str, told: bool) -> None:
    """Even when dbt's own message speaks of one."""
    run = over(phase, reason, "canceling statement due to statement timeout", results={"counts": {"error": 1}})
    assert ("timeout" in str(raised(run)).lower()) is told


FAILED = over(
    "Failed",
    "RunFailed",
    "dbt Cloud run 5 failed: model.shop.orders (and 2 more): no such column",
    url="https://dbt/5",
    steps=[
        {"index": 1, "name": "dbt deps", "status": "Success"},
        {"index": 2, "name": "dbt build", "status": "Error"},
    ],
    results={
        "counts": {"success": 7, "error": 2, "fail": 1},
        "failures": [{"uniqueId": "model.shop.orders", "status": "error", "message": "no such column"}],
    },
    failedStep={"index": 2, "name": "dbt build", "logTail": "20:41  Database Error\n  no such column"},
)


def test_the_log_names_the_cause_first_then_the_rest() -> None:
    assert list(report(FAILED)) == [
        (ERROR, "dbt Cloud run 5 failed: model.shop.orders (and 2 more): no such column"),
        (INFO, "DbtRun team/build-1: Failed (RunFailed)"),
        (INFO, "dbt Cloud run 5: https://dbt/5"),
        (INFO, "Step 1: dbt deps: Success"),
        (ERROR, "Step 2: dbt build: Error"),
        (INFO, "Nodes: 2 error, 1 fail, 7 success"),
        (ERROR, "model.shop.orders (error): no such column"),
        (ERROR, "… and 2 more failed nodes."),
        (INFO, "The end of the log of step 2, dbt build:"),
        (INFO, "20:41  Database Error"),
        (INFO, "  no such column"),
    ]


def test_an_exception_tells_a_callback_what_failed() -> None:
    error = raised(FAILED)
    assert error is not None
    told = {
        "run_id": 5,
        "url": "https://dbt/5",
        "reason": "RunFailed",
        "failures": [{"unique_id": "model.shop.orders", "status": "error", "message": "no such column"}],
        "log_tail": "20:41  Database Error\n  no such column",
    }
    assert vars(error) == told
    assert vars(pickle.loads(pickle.dumps(error))) == told  # noqa: S301 - what was just made
    assert json.loads(json.dumps(told)) == told


def test_an_exception_without_an_object_tells_what_the_event_does() -> None:
    error = failure(ended(Subject("team", "build-1"), FAILED))
    assert error is not None
    assert (error.run_id, error.reason, error.failures, error.log_tail) == (5, "RunFailed", (), "")


@pytest.mark.parametrize(
    ("reason", "told"),
    [("InvalidConnection", "What to do: Correct the Secret"), ("JobNotFound", "What to do: Correct job_id")],
)
def test_the_log_of_our_own_errors_says_what_to_do(reason: str, told: str) -> None:
    assert any(line.startswith(told) for _, line in report(over("Error", reason)))


def test_the_log_of_a_success_is_short() -> None:
    run = over(
        "Succeeded",
        "RunSucceeded",
        url="https://cloud.getdbt.com/1",
        steps=[{"index": 1, "name": "dbt run", "status": "Success"}],
    )
    assert len(list(report(run))) == 3


@pytest.mark.parametrize("event", [None, {}, {"status": "done"}])
def test_an_event_that_is_lost_or_strange_is_not_a_success(event: dict[str, Any] | None) -> None:
    with pytest.raises(DbtRunEventException):
        checked(event)


def test_a_reason_that_this_version_does_not_know_is_a_failure_all_the_same() -> None:
    assert type(raised(over("Failed", "SomethingNew"))) is DbtRunFailed
    assert list(report(over("Error", "SomethingNew")))
