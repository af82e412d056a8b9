"""What a task says when it ends badly."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_trigger.event import Subject, ended
from airflow_trigger.failures import (
    DbtRunCancelled,
    DbtRunEventException,
    DbtRunException,
    DbtRunFailed,
    DbtRunLostContact,
    DbtRunRefused,
    DbtRunTimedOut,
    checked,
    failure,
    report,
)
from airflow_trigger.taskruns import TaskRun
from watcher.api import Reason


def over(phase: str, reason: str, message: str = "", **status: Any) -> TaskRun:
    body = {
        "metadata": {"name": "build-1", "namespace": "team", "uid": "u", "resourceVersion": "1"},
        "spec": {},
        "status": {"phase": phase, "reason": reason, "message": message, "runId": 5, **status},
    }
    return msgspec.convert(body, TaskRun)


def raised(run: TaskRun) -> DbtRunException | None:
    return failure(ended(Subject("team", run.name), run))


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


def test_the_log_names_the_end_the_address_the_steps_and_the_failed_nodes() -> None:
    run = over(
        "Failed",
        "RunFailed",
        "dbt Cloud run 5 failed.",
        url="https://dbt/5",
        steps=[
            {"index": 1, "name": "dbt deps", "status": "Success"},
            {"index": 2, "name": "dbt build", "status": "Error"},
        ],
        results={
            "counts": {"success": 7, "error": 2, "fail": 1},
            "failures": [{"uniqueId": "model.shop.orders", "status": "error", "message": "no such column"}],
        },
    )
    assert list(report(run)) == [
        "DbtRun team/build-1: Failed (RunFailed). dbt Cloud run 5 failed.",
        "dbt Cloud run 5: https://dbt/5",
        "Step 1: dbt deps: Success",
        "Step 2: dbt build: Error",
        "error: model.shop.orders: no such column",
        "… and 2 more failed nodes.",
    ]


def test_the_log_of_our_own_errors_says_what_to_do() -> None:
    assert any(line.startswith("What to do: Mend the Secret") for line in report(over("Error", "InvalidConnection")))


def test_the_log_of_a_success_is_short() -> None:
    run = over(
        "Succeeded",
        "RunSucceeded",
        url="https://cloud.getdbt.com/1",
        steps=[{"index": 1, "name": "dbt run", "status": "Success"}],
    )
    assert len(list(report(run))) == 2


@pytest.mark.parametrize("event", [None, {}, {"status": "done"}])
def test_an_event_that_is_lost_or_strange_is_not_a_success(event: dict[str, Any] | None) -> None:
    with pytest.raises(DbtRunEventException):
        checked(event)


def test_a_reason_that_this_version_does_not_know_is_a_failure_all_the_same() -> None:
    assert type(raised(over("Failed", "SomethingNew"))) is DbtRunFailed
    assert list(report(over("Error", "SomethingNew")))
