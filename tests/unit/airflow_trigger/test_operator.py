"""The operator over all lives of a task: every crash, every kill, every end."""

from __future__ import annotations

import asyncio
import copy
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from unittest.mock import AsyncMock, patch

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
from airflow.providers.dbt.cloud.operators.dbt import DbtCloudRunJobOperator
from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

from airflow_trigger.failures import (
    DbtRunCancelled,
    DbtRunEventException,
    DbtRunFailed,
    DbtRunLostContact,
    DbtRunRefused,
    DbtRunTimedOut,
)
from airflow_trigger.operator import DbtRunOperator
from airflow_trigger.shared.access import Access, resolve
from airflow_trigger.task.killed import Cause
from airflow_trigger.trigger import DbtRunTrigger, PauseTrigger
from airflow_trigger.waiting.event import Payload
from dbtrun.kube.errors import Forbidden, QuotaExceeded, Rejected, Unreachable
from tests.unit.airflow_trigger.tasks import NAMESPACE, URL, FakeTaskRuns, Task

SUPERVISED = {"traceback": None, "error": "Trigger timeout"}


@pytest.fixture
def runs() -> FakeTaskRuns:
    return FakeTaskRuns()


def new(runs: FakeTaskRuns, **arguments: Any) -> DbtRunOperator:
    """An operator as a new process makes it."""

    class Operator(DbtRunOperator):
        connect = staticmethod(runs.connect)

    given: dict[str, Any] = {"task_id": "build", "job_id": 7, "namespace": NAMESPACE, "deferrable": True}
    return Operator(**given | arguments)


def deferred(operator: DbtRunOperator, task: Task) -> TaskDeferred:
    operator.pre_execute(task.context)
    with pytest.raises(TaskDeferred) as info:
        operator.execute(task.context)
    return info.value


def payload(name: str, status: str = "success", **changes: Any) -> dict[str, Any]:
    event = Payload(
        status=cast("Any", status),
        run_id=70_001,
        message="It is over.",
        job_run_url=URL.format(70_001),
        reason="",
        namespace=NAMESPACE,
        name=name,
    )
    return {**event, **changes}


def resumed(runs: FakeTaskRuns, task: Task, event: dict[str, Any] | None = None, **arguments: Any) -> Any:
    """What a new process makes of an event."""
    operator = new(runs, **arguments)
    operator.pre_execute(task.context)
    told = payload(runs.names[-1]) if event is None else event
    return operator.resume_execution("execute_complete", {"event": told}, task.context)


def through(runs: FakeTaskRuns, task: Task, **arguments: Any) -> Any:
    """A whole try whose run succeeds."""
    name = deferred(new(runs, **arguments), task).trigger.name
    runs.ends(name)
    return resumed(runs, task, payload(name), **arguments)


# ── the ordinary way ──


def test_a_run_is_created_and_waited_for_in_the_triggerer(runs: FakeTaskRuns) -> None:
    task = Task()
    told = deferred(new(runs, timeout=7200, check_interval=300), task)
    assert runs.spec(runs.only)["job"] == {"id": 7}
    assert runs.spec(runs.only)["pollIntervalSeconds"] == 300
    assert task.xcoms == {"job_run_url": URL.format(70_001), "job_run_id": 70_001, "dbtrun_name": runs.only}
    assert told.method_name == "execute_complete"
    assert isinstance(told.trigger, DbtRunTrigger)
    assert (told.trigger.name, told.trigger.namespace) == (runs.only, NAMESPACE)


def test_the_trigger_can_be_stored_and_holds_no_more_than_names(runs: FakeTaskRuns) -> None:
    trigger = deferred(new(runs, config_file="/kube/config", cluster_context="prod"), Task()).trigger
    _, stored = trigger.serialize()
    assert json.loads(json.dumps(stored)) == stored
    assert (stored["config_file"], stored["cluster_context"]) == ("/kube/config", "prod")
    assert stored["cancel_for"] == {
        "dag_id": "nightly",
        "run_id": "scheduled__2026-01-01T00:00:00+00:00",
        "task_id": "build",
        "map_index": -1,
        "try_number": 1,
        "mark": stored["cancel_for"]["mark"],
    }
    assert stored["cancel_for"]["mark"].startswith("1/3/0/0/2026-01-01T00:00:00.000000+00:00/")


def test_the_task_returns_the_run_id(runs: FakeTaskRuns) -> None:
    assert through(runs, Task()) == 70_001


def test_a_run_that_is_over_at_once_is_not_deferred(runs: FakeTaskRuns) -> None:
    task = Task()
    runs.asleep = True
    runs.before = lambda verb: runs.ends(runs.only, runId=9) if verb == "get" else None
    operator = new(runs)
    operator.pre_execute(task.context)
    assert operator.execute(task.context) == 9


def test_a_run_that_failed_at_once_fails_the_task_without_a_deferral(runs: FakeTaskRuns) -> None:
    runs.asleep = True
    runs.before = lambda verb: runs.ends(runs.only, "Failed", "RunFailed", runId=9) if verb == "get" else None
    with pytest.raises(DbtRunFailed, match="Job run 9 has failed"):
        new(runs).execute(Task().context)


@pytest.mark.parametrize("phase", ["Queued", "Running", "Cancelling"])
def test_a_run_that_is_not_over_is_waited_for_whatever_its_phase(runs: FakeTaskRuns, phase: str) -> None:
    runs.asleep = True
    runs.before = lambda verb: runs.says(runs.only, phase=phase, runId=9) if verb == "get" else None
    assert deferred(new(runs), Task()).trigger.run_id == 9


def test_without_waiting_the_run_id_is_returned_as_soon_as_there_is_one(runs: FakeTaskRuns) -> None:
    runs.asleep = True
    runs.before = lambda verb: runs.starts(runs.only) if verb == "get" else None
    assert new(runs, wait_for_termination=False).execute(Task().context) == 70_001


@pytest.mark.parametrize("deferrable", [True, False])
def test_without_waiting_a_start_that_takes_too_long_is_a_timeout(runs: FakeTaskRuns, deferrable: bool) -> None:
    runs.asleep = True
    with pytest.raises(DbtRunTimedOut, match=r"has started no dbt Cloud run after 0 seconds .*no watcher has seen it"):
        new(runs, wait_for_termination=False, timeout=0, deferrable=deferrable).execute(Task().context)


def test_without_waiting_a_worker_is_held_for_some_minutes_at_most(runs: FakeTaskRuns) -> None:
    patience = {kind: new(runs, wait_for_termination=False, deferrable=kind)._start_patience for kind in (True, False)}
    assert patience == {True: 30.0, False: 300.0}


def test_without_waiting_a_start_that_takes_long_is_waited_for_in_the_triggerer(
    runs: FakeTaskRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_trigger.operator.SUBMISSION_SECONDS", 0.0)
    runs.asleep = True
    task = Task()
    waits = deferred(new(runs, wait_for_termination=False), task)
    assert waits.trigger.until_started
    runs.starts(runs.only)
    told = payload(runs.only, reason="Started")
    operator = new(runs, wait_for_termination=False)
    assert operator.resume_execution(waits.method_name, {"event": told}, task.context) == 70_001
    assert task.xcoms["job_run_id"] == 70_001


def test_without_waiting_a_start_that_never_comes_is_the_triggers_timeout(runs: FakeTaskRuns) -> None:
    runs.asleep = True
    task = Task()
    told = payload("gone", "timeout", run_id=None, reason="WaitTimeout", message="Timeout: …")
    with pytest.raises(DbtRunTimedOut, match="Timeout"):
        new(runs, wait_for_termination=False).resume_execution("execute_after_start", {"event": told}, task.context)


def test_without_waiting_deferrable_has_no_effect_and_no_warning(runs: FakeTaskRuns) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert new(runs, wait_for_termination=False, deferrable=True).execute(Task().context) == 70_001


def test_without_waiting_a_live_run_of_the_job_may_be_used(runs: FakeTaskRuns) -> None:
    assert new(runs, wait_for_termination=False, reuse_existing_run=True).execute(Task().context) == 70_001
    assert runs.spec(runs.only)["reuse"] == "Running"


def waited_for_here(runs: FakeTaskRuns, *end: str, **event: Any) -> Any:
    """A task that is not deferrable, whose run ends so, or whose trigger says so."""

    class Here(DbtRunOperator):
        connect = staticmethod(runs.connect)

        @staticmethod
        async def awaited(trigger: DbtRunTrigger) -> dict[str, Any]:
            if end:
                runs.ends(trigger.plan().name, *end)
            return payload(trigger.plan().name, **event)

    return Here(task_id="build", job_id=7, namespace=NAMESPACE, deferrable=False).execute(Task().context)


def test_a_task_that_is_not_deferrable_waits_by_the_same_trigger(runs: FakeTaskRuns) -> None:
    assert waited_for_here(runs, "Succeeded", "RunSucceeded") == 70_001


@pytest.mark.parametrize(
    ("end", "kind", "sentence"),
    [
        (("Failed", "RunFailed"), DbtRunFailed, "Job run 70001 has failed"),
        (("Cancelled", "CancelledInDbtCloud"), DbtRunCancelled, "Job run 70001 has been cancelled"),
        (("TimedOut", "ActiveDeadlineExceeded"), DbtRunTimedOut, "Timeout: job run 70001 was ended"),
    ],
)
def test_a_task_that_is_not_deferrable_fails_as_its_run_does(
    runs: FakeTaskRuns, end: tuple[str, str], kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence):
        waited_for_here(runs, *end)


def test_a_task_that_is_not_deferrable_waits_no_longer_than_its_timeout(runs: FakeTaskRuns) -> None:
    told = {"status": "timeout", "reason": "WaitTimeout", "message": "Timeout: …"}
    with pytest.raises(DbtRunTimedOut, match="Timeout"):
        waited_for_here(runs, **told)
    assert not runs.cancelled


def test_the_run_id_comes_late_and_the_xcoms_with_the_end(runs: FakeTaskRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_trigger.operator.SUBMISSION_SECONDS", 0.0)
    runs.asleep = True
    task = Task()
    deferred(new(runs), task)
    assert "job_run_id" not in task.xcoms
    runs.starts(runs.only)
    runs.ends(runs.only)
    assert resumed(runs, task) == 70_001
    assert task.xcoms["job_run_url"] == URL.format(70_001)


# ── crashes ──


def test_a_worker_killed_after_the_create_leaves_a_run_that_the_retry_takes_over(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    again = deferred(new(runs), task.next_try())
    assert len(runs.objects) == 1
    assert again.trigger.name == runs.only


def test_the_answer_to_a_create_may_be_lost(runs: FakeTaskRuns) -> None:
    runs.failing_after = [Unreachable("reset")]
    deferred(new(runs), Task())
    assert len(runs.objects) == 1


def test_an_api_server_that_is_away_for_a_while_is_waited_for(runs: FakeTaskRuns) -> None:
    runs.failing = [Unreachable("no route"), Unreachable("no route")]
    deferred(new(runs), Task())


def test_an_end_that_airflow_missed_is_used(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    runs.ends(runs.only)
    assert new(runs).execute(task.next_try().context) == 70_001
    assert len(runs.objects) == 1


def test_a_crash_before_the_outcome_is_told_loses_nothing(runs: FakeTaskRuns) -> None:
    class Broken(Task):
        def xcom_push(self, key: str, value: Any) -> None:
            raise RuntimeError("the worker dies here")

    task = Task()
    deferred(new(runs), task)
    runs.ends(runs.only, "Failed", "RunFailed")
    with pytest.raises(RuntimeError):
        resumed(runs, Broken(start_date=task.start_date))
    with pytest.raises(DbtRunFailed):
        new(runs).execute(task.next_try().context)


def test_a_crash_after_a_success_was_told_does_not_run_it_again(runs: FakeTaskRuns) -> None:
    task = Task()
    through(runs, task)
    assert new(runs).execute(task.next_try().context) == 70_001
    assert len(runs.objects) == 1


# ── new runs ──


def test_a_retry_after_a_failure_is_a_new_run(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    runs.ends(runs.only, "Failed", "RunFailed")
    with pytest.raises(DbtRunFailed, match="Job run 70001 has failed"):
        resumed(runs, task)
    deferred(new(runs), task.next_try())
    assert len(runs.objects) == 2


def test_a_cleared_task_is_a_new_run(runs: FakeTaskRuns) -> None:
    task = Task()
    through(runs, task)
    deferred(new(runs), task.cleared())
    assert len(runs.objects) == 2


@pytest.mark.parametrize("retries", [0, 1, 2, 3])
def test_a_task_cleared_after_its_retries_were_lowered_is_a_new_run(runs: FakeTaskRuns, retries: int) -> None:
    task = Task(retries=2, max_tries=2)
    through(runs, task, retries=2)
    deferred(new(runs, retries=retries), task.cleared(retries))
    assert len(runs.objects) == 2


def test_a_task_cleared_while_it_waits_ends_its_run_and_starts_a_new_one(runs: FakeTaskRuns) -> None:
    task = Task()
    first = deferred(new(runs), task).trigger.name
    waits = deferred(new(runs), task.cleared())
    assert waits.trigger.name == first
    assert runs.cancelled == [first]
    assert len(runs.objects) == 1
    runs.ends(first, "Cancelled", "CancelRequested")
    again = deferred(new(runs), task.cleared())
    assert len(runs.objects) == 2
    assert again.trigger.name != first


def test_a_task_cleared_while_it_waits_leaves_its_run_when_told_so_and_starts_a_new_one(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs, cancel_on_kill=False), task)
    deferred(new(runs, cancel_on_kill=False), task.cleared())
    assert len(runs.objects) == 2
    assert not runs.cancelled


@pytest.mark.parametrize("wait", [True, False])
def test_a_dag_run_that_is_created_again_under_its_id_runs_again(runs: FakeTaskRuns, wait: bool) -> None:
    task = Task()
    if wait:
        through(runs, task)
        deferred(new(runs), task.created_again())
    else:
        new(runs, wait_for_termination=False).execute(task.context)
        new(runs, wait_for_termination=False).execute(task.created_again().context)
    assert len(runs.objects) == 2


def test_the_end_of_a_dag_run_that_was_deleted_does_not_cancel_the_run_of_the_one_created_again(
    runs: FakeTaskRuns,
) -> None:
    task = Task(try_number=3)
    through(runs, task)
    again = task.created_again()
    deferred(new(runs), again)
    killed(new(runs), task)
    assert not runs.cancelled
    killed(new(runs), again)
    assert runs.cancelled == [runs.names[-1]]


def test_an_object_that_somebody_made_to_look_like_the_tasks_is_not_its_outcome(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    forged = copy.deepcopy(runs.objects.pop(runs.only))
    forged["spec"] = {"runId": 1}
    forged["metadata"]["annotations"].clear()
    runs.put(forged)
    runs.ends(runs.only)
    deferred(new(runs), task)
    assert len(runs.objects) == 2
    assert runs.spec(runs.names[-1])["job"] == {"id": 7}


def test_an_object_that_took_the_tasks_name_keeps_nobody_from_starting(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    runs.objects[runs.only]["metadata"]["labels"].clear()
    deferred(new(runs), task)
    assert len(runs.objects) == 2


def test_a_task_whose_job_was_changed_in_the_dag_ends_the_run_of_the_former_job_first(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    deferred(new(runs, job_id=8), task.next_try())
    assert runs.cancelled == [runs.only]
    runs.ends(runs.only, "Cancelled", "CancelRequested")
    deferred(new(runs, job_id=8), task.next_try())
    assert runs.spec(runs.names[-1])["job"] == {"id": 8}


# ── a ResourceQuota ──

USED_UP = "a ResourceQuota of the namespace is used up: exceeded quota: few, requested: count/dbtruns.dbtrun.dev=1"


def full(runs: FakeTaskRuns, times: int = 1_000) -> None:
    left = iter(range(times))
    runs.before = lambda verb: (
        runs.failing.append(QuotaExceeded(USED_UP, 10.0)) if verb == "create" and next(left, None) is not None else None
    )


def test_a_quota_that_is_used_up_is_waited_for_without_a_worker(
    runs: FakeTaskRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    full(runs, times=1)
    task = Task()
    pause = deferred(new(runs), task)
    assert isinstance(pause.trigger, PauseTrigger)
    assert "exceeded quota: few" in capsys.readouterr().out
    with pytest.raises(TaskDeferred):
        new(runs).resume_execution(pause.method_name, {"event": {"status": "success"}}, task.context)
    assert len(runs.objects) == 1


def test_a_worker_waits_for_room_when_it_may_not_defer(runs: FakeTaskRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_trigger.operator.QUOTA_PAUSE_SECONDS", 0.01)
    full(runs, times=2)
    assert new(runs, deferrable=False, wait_for_termination=False).execute(Task().context) == 70_001


def test_a_quota_that_stays_used_up_is_named_when_the_time_is_over(runs: FakeTaskRuns) -> None:
    full(runs)
    task = Task(start_date=datetime.now(tz=UTC) - timedelta(minutes=2))
    with pytest.raises(DbtRunTimedOut, match=r"Timeout: no DbtRun could be created for 120 seconds.*quota: few"):
        new(runs, timeout=60).execute(task.context)


def test_nothing_starts_while_the_run_before_is_being_cancelled(runs: FakeTaskRuns) -> None:
    task = Task()
    first = deferred(new(runs), task).trigger.name
    killed(new(runs), task)
    waits = deferred(new(runs), task.cleared())
    assert waits.trigger.name == first
    assert waits.trigger.cancel_for is None
    assert len(runs.objects) == 1
    runs.ends(first, "Cancelled", "CancelRequested")
    operator = new(runs)
    with pytest.raises(TaskDeferred):
        operator.resume_execution(waits.method_name, {"event": payload(first, "cancelled")}, task.cleared().context)
    assert len(runs.objects) == 2


def test_a_run_before_that_never_ends_lets_the_try_fail(runs: FakeTaskRuns) -> None:
    event = payload("first", "timeout", reason="WaitTimeout")
    with pytest.raises(DbtRunLostContact, match="Could not wait for the end"):
        new(runs).resume_execution("execute_after_cancel", {"event": event}, Task().context)
    assert not runs.objects


def test_retry_from_failure_resumes_the_failed_run_of_the_try_before(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs, retry_from_failure=True), task)
    assert "retryOf" not in runs.spec(runs.only)
    runs.ends(runs.only, "Failed", "RunFailed")
    with pytest.raises(DbtRunFailed):
        resumed(runs, task)
    deferred(new(runs, retry_from_failure=True), task.next_try())
    assert runs.spec(runs.names[-1])["retryOf"] == 70_001


def test_mapped_tasks_have_objects_of_their_own(runs: FakeTaskRuns) -> None:
    for index in range(3):
        deferred(new(runs), Task(map_index=index))
    assert len(runs.objects) == 3


# ── bad ends ──


def test_a_failed_run_explains_itself_in_the_log(runs: FakeTaskRuns, capsys: pytest.CaptureFixture[str]) -> None:
    task = Task()
    deferred(new(runs), task)
    failures = {"failures": [{"uniqueId": "model.shop.orders", "status": "error", "message": "no such column"}]}
    runs.ends(runs.only, "Failed", "RunFailed", message="dbt says no", results={"counts": {"error": 1}, **failures})
    with pytest.raises(DbtRunFailed) as raised:
        resumed(runs, task)
    log = capsys.readouterr().out
    assert "dbt says no" in log
    assert "Failed (RunFailed)" in log
    assert "model.shop.orders (error): no such column" in log
    assert (raised.value.run_id, raised.value.failures[0]["unique_id"]) == (70_001, "model.shop.orders")
    event = task.xcoms["event"]
    assert (event["status"], event["run_id"], event["job_run_url"]) == ("error", 70_001, URL.format(70_001))
    assert event["message"] == "Job run 70001 has failed (1 failed node). dbt says no"


def test_the_object_is_believed_more_than_the_event(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    runs.ends(runs.only)
    assert resumed(runs, task, payload(runs.only, "error", reason="NoAccess")) == 70_001


def test_without_the_object_the_event_is_believed(runs: FakeTaskRuns) -> None:
    task = Task()
    assert resumed(runs, task, payload("gone")) == 70_001
    assert task.xcoms["job_run_id"] == 70_001
    with pytest.raises(DbtRunFailed):
        resumed(runs, task, payload("gone", "error", reason="RunFailed"))


def test_a_wait_that_ends_leaves_the_run_to_the_next_try(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    with pytest.raises(DbtRunTimedOut):
        resumed(runs, task, payload(runs.only, "timeout", reason="WaitTimeout", message="Timeout: …"))
    assert not runs.cancelled
    deferred(new(runs), task.next_try())
    assert len(runs.objects) == 1


def test_a_deleted_object_is_a_cancelled_run(runs: FakeTaskRuns) -> None:
    with pytest.raises(DbtRunCancelled):
        resumed(runs, Task(), payload("gone", "error", reason="Deleted"))


@pytest.mark.parametrize(
    ("event", "sentence"),
    [(None, "event is None"), ({"status": "ended", "run_id": 5, "message": "m"}, "Unexpected trigger event status")],
)
def test_a_lost_or_unknown_event_is_not_a_success(
    runs: FakeTaskRuns, event: dict[str, Any] | None, sentence: str
) -> None:
    with pytest.raises(DbtRunEventException, match=sentence):
        new(runs).resume_execution("execute_complete", {"event": event}, Task().context)


def provider_event(status: int) -> dict[str, Any]:
    """What a task gets that was deferred by the provider's operator, before its DAG named this one."""

    async def fire() -> dict[str, Any]:
        trigger = DbtCloudRunJobTrigger("dbt_cloud_default", 70_001, time.time() + 60, 1.0, 5)
        with patch.object(DbtCloudHook, "get_job_status", AsyncMock(return_value=status)):
            async for event in trigger.run():
                return cast("dict[str, Any]", event.payload)
        raise AssertionError("no event")

    return asyncio.run(fire())


def test_a_task_that_the_provider_deferred_resumes_with_the_run_id(runs: FakeTaskRuns) -> None:
    task = Task()
    assert resumed(runs, task, provider_event(10)) == 70_001
    assert task.xcoms["job_run_id"] == 70_001
    assert not runs.objects


@pytest.mark.parametrize(("status", "kind"), [(20, DbtRunFailed), (30, DbtRunCancelled)])
def test_a_task_that_the_provider_deferred_fails_as_its_run_did(
    runs: FakeTaskRuns, status: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="70001"):
        resumed(runs, Task(), provider_event(status))
    assert not runs.objects


def test_the_providers_operator_resumes_with_an_event_of_this_trigger() -> None:
    operator = DbtCloudRunJobOperator(task_id="build", job_id=7)
    assert operator.execute_complete(cast("Any", {}), payload("nightly-build-1")) == 70_001


def test_a_timeout_before_there_was_a_run_is_a_timeout_all_the_same(runs: FakeTaskRuns) -> None:
    with pytest.raises(DbtRunTimedOut, match="Timeout"):
        resumed(runs, Task(), payload("gone", "timeout", run_id=None, reason="WaitTimeout", message="Timeout: …"))
    assert not runs.cancelled


def test_an_object_that_kubernetes_does_not_take_fails_at_once(runs: FakeTaskRuns) -> None:
    runs.before = lambda verb: runs.failing.append(Rejected("spec.job needs …")) if verb == "create" else None
    with pytest.raises(DbtRunRefused, match=r"spec\.job needs") as info:
        new(runs).execute(Task().context)
    assert isinstance(info.value, AirflowFailException)


def test_a_missing_permission_is_said_and_may_be_tried_again(runs: FakeTaskRuns) -> None:
    runs.failing = [Forbidden("Kubernetes refuses it: dbtruns is forbidden")]
    with pytest.raises(DbtRunLostContact, match="dbtruns is forbidden"):
        new(runs).execute(Task().context)


def test_an_outcome_that_cannot_be_marked_is_told_all_the_same(
    runs: FakeTaskRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task()
    deferred(new(runs), task)
    runs.ends(runs.only)
    runs.before = lambda verb: runs.failing.append(Forbidden("no patch")) if verb == "patch" else None
    assert resumed(runs, task) == 70_001
    assert "could not be marked as used" in capsys.readouterr().out


# ── the object's time ──


def test_an_end_is_kept_until_it_was_told_and_a_day_longer(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    assert runs.spec(runs.only)["ttlSecondsAfterFinished"] == 604_800
    runs.ends(runs.only)
    resumed(runs, task)
    assert runs.spec(runs.only)["ttlSecondsAfterFinished"] == 86_400


def test_an_object_may_be_kept_for_ever(runs: FakeTaskRuns) -> None:
    through(runs, Task(), ttl=None)
    assert "ttlSecondsAfterFinished" not in runs.spec(runs.only)


def test_a_run_that_may_not_be_cancelled_does_not_end_by_execution_timeout(runs: FakeTaskRuns) -> None:
    deferred(new(runs, execution_timeout=timedelta(hours=1), cancel_on_kill=False), Task())
    assert runs.spec(runs.only)["activeDeadlineSeconds"] > 3_600


def test_every_run_has_an_end_even_if_nobody_can_cancel_it(runs: FakeTaskRuns) -> None:
    deferred(new(runs, execution_timeout=timedelta(hours=2)), Task())
    assert runs.spec(runs.only)["activeDeadlineSeconds"] == 7_200


# ── killing ──


def killed(operator: DbtRunOperator, task: Task, cause: Cause = Cause.ENDED) -> None:
    """As Airflow 2 ends a task by execution_timeout: a new process that executed nothing."""
    say(operator, lambda: cause)
    operator.pre_execute(task.context)
    operator.on_kill()


def say(operator: DbtRunOperator, why: Callable[[], Cause]) -> None:
    """What Airflow says when it is asked why the process is ended."""
    cast("Any", operator).why_killed = lambda task: why()


def test_a_killed_task_cancels_its_run_even_from_a_new_process(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    killed(new(runs), task)
    assert runs.cancelled == [runs.only]


def test_a_killed_task_leaves_its_run_when_told_so(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs, cancel_on_kill=False), task)
    killed(new(runs, cancel_on_kill=False), task)
    assert not runs.cancelled


def test_the_end_of_an_old_try_does_not_cancel_the_run_of_a_newer_one(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    deferred(new(runs), task.next_try())
    killed(new(runs), task)
    assert not runs.cancelled


@dataclass
class Vanished(Task):
    """Its DAG run was deleted while it started: there is no row that an XCom could belong to."""

    def xcom_push(self, key: str, value: Any) -> None:
        raise RuntimeError("no such task instance")


def test_a_last_try_that_cannot_tell_of_its_run_cancels_it(runs: FakeTaskRuns) -> None:
    task = Vanished(try_number=3, max_tries=2)
    with pytest.raises(RuntimeError, match="no such task"):
        new(runs).execute(task.context)
    assert runs.cancelled == [runs.only]


@pytest.mark.parametrize(
    ("tries", "arguments"), [((2, 2), {}), ((3, 2), {"cancel_on_kill": False})], ids=["a-retry-follows", "told-so"]
)
def test_a_try_that_cannot_tell_of_its_run_leaves_it(
    runs: FakeTaskRuns, tries: tuple[int, int], arguments: dict[str, Any]
) -> None:
    task = Vanished(try_number=tries[0], max_tries=tries[1])
    with pytest.raises(RuntimeError, match="no such task"):
        new(runs, **arguments).execute(task.context)
    assert not runs.cancelled


@pytest.mark.parametrize("cause", [Cause.LOST, Cause.GIVEN_UP])
def test_a_process_that_ends_while_a_try_follows_leaves_its_run_to_that_try(runs: FakeTaskRuns, cause: Cause) -> None:
    task = Task()
    deferred(new(runs), task)
    killed(new(runs), task, cause)
    assert not runs.cancelled
    assert deferred(new(runs), task.next_try()).trigger.name == runs.only


def test_a_process_of_the_last_try_that_ends_cancels_its_run(runs: FakeTaskRuns) -> None:
    task = Task(try_number=3, max_tries=2)
    deferred(new(runs), task)
    killed(new(runs), task, Cause.LOST)
    assert runs.cancelled == [runs.only]


def test_a_process_that_only_ends_goes_on_until_then(runs: FakeTaskRuns) -> None:
    """Airflow 3 returns from the signal, and a grace period may be long."""
    operator = new(runs)
    killed(operator, Task(), Cause.LOST)
    assert deferred(operator, Task()).trigger.name == runs.only
    assert not runs.cancelled


@pytest.mark.parametrize("cause", Cause)
def test_a_task_told_to_leave_its_run_alone_does_whatever_ends_it(runs: FakeTaskRuns, cause: Cause) -> None:
    task = Task(try_number=3, max_tries=2)
    deferred(new(runs, cancel_on_kill=False), task)
    killed(new(runs, cancel_on_kill=False), task, cause)
    assert not runs.cancelled


@dataclass
class Interrupted(Task):
    """Its process is ended while it tells Airflow something."""

    kill: Callable[[], None] = lambda: None
    told: bool = False
    """Whether Airflow has answered."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.kill()
        self.told = True


@pytest.mark.parametrize(("cause", "cancelled"), [(Cause.ENDED, 1), (Cause.LOST, 0)])
def test_a_kill_while_airflow_is_talked_to_is_looked_at_afterwards(
    runs: FakeTaskRuns, cause: Cause, cancelled: int
) -> None:
    operator, task = new(runs), Interrupted()

    def why() -> Cause:
        assert task.told
        return cause

    say(operator, why)
    operator.pre_execute(task.context)
    task.kill = operator.on_kill
    with pytest.raises(DbtRunCancelled if cancelled else TaskDeferred):
        operator.execute(task.context)
    assert len(runs.cancelled) == cancelled


def test_a_second_signal_while_airflow_is_asked_asks_again_afterwards(runs: FakeTaskRuns) -> None:
    task, answers = Task(), [Cause.LOST, Cause.ENDED]
    deferred(new(runs), task)
    operator = new(runs)

    def why() -> Cause:
        told = answers.pop(0)
        if answers:
            operator.on_kill()
            assert not runs.cancelled
        return told

    say(operator, why)
    operator.pre_execute(task.context)
    operator.on_kill()
    assert not answers
    assert runs.cancelled == [runs.only]


def test_another_task_is_not_cancelled(runs: FakeTaskRuns) -> None:
    deferred(new(runs), Task(map_index=0))
    killed(new(runs), Task(map_index=1))
    assert not runs.cancelled


def test_a_run_that_is_over_is_not_cancelled(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    runs.ends(runs.only)
    killed(new(runs), task)
    assert not runs.cancelled


def test_a_kill_while_the_object_is_being_created_cancels_it(runs: FakeTaskRuns) -> None:
    operator = new(runs)
    operator.pre_execute(Task().context)
    runs.before = lambda verb: setattr(operator, "_killed", True) if verb == "create" else None
    with pytest.raises(DbtRunCancelled):
        operator.execute(Task().context)
    assert runs.cancelled == [runs.only]


def test_a_kill_before_the_create_starts_nothing(runs: FakeTaskRuns) -> None:
    operator = new(runs)
    killed(operator, Task())
    with pytest.raises(DbtRunCancelled):
        operator.execute(Task().context)
    assert not runs.objects


def test_a_kill_never_raises(runs: FakeTaskRuns, capsys: pytest.CaptureFixture[str]) -> None:
    runs.failing = [Forbidden("forbidden")]
    killed(new(runs), Task())
    assert "its active deadline ends it" in capsys.readouterr().out


def test_an_api_server_that_never_answers_does_not_hold_up_a_kill(
    runs: FakeTaskRuns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task()
    deferred(new(runs), task)
    monkeypatch.setattr("airflow_trigger.operator.KILL_SECONDS", 0.05)
    monkeypatch.setattr(runs, "list", lambda *_: asyncio.sleep(20, result=[]))
    killed(new(runs), task)
    assert "The run could not be cancelled" in capsys.readouterr().out


def test_a_kill_before_anything_began_is_no_trouble(runs: FakeTaskRuns) -> None:
    new(runs).on_kill()
    assert not runs.calls


def test_a_kill_while_the_way_to_kubernetes_is_looked_up_starts_nothing(
    runs: FakeTaskRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = new(runs)

    def interrupted(*args: Any, **kwargs: Any) -> Access:
        operator.on_kill()
        return resolve(*args, **kwargs)

    monkeypatch.setattr("airflow_trigger.shared.access.resolve", interrupted)
    operator.pre_execute(Task().context)
    with pytest.raises(DbtRunCancelled):
        operator.execute(Task().context)
    assert not runs.objects


def test_a_kill_asks_for_the_end_and_does_not_wait_for_it(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    runs.calls.clear()
    killed(new(runs), task)
    assert runs.calls == ["list", "patch"]
    assert runs.objects[runs.only]["status"]["phase"] == "Running"


def test_a_write_in_between_does_not_stop_a_cancel(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    runs.before = _writing_before_patches(runs, 2)
    killed(new(runs), task)
    assert runs.cancelled == [runs.only]


def _writing_before_patches(runs: FakeTaskRuns, times: int) -> Any:
    left = iter(range(times))

    def write(verb: str) -> None:
        if verb == "patch" and next(left, None) is not None:
            runs.says(runs.only, progress="1/3")

    return write


# ── time-outs ──


def stopped(runs: FakeTaskRuns, task: Task, **arguments: Any) -> Any:
    operator = new(runs, **arguments)
    operator.pre_execute(task.context)
    return operator.resume_execution("__fail__", dict(SUPERVISED), task.context)


def test_execution_timeout_cancels_the_run(runs: FakeTaskRuns) -> None:
    task = Task(start_date=datetime.now(tz=UTC) - timedelta(hours=2))
    deferred(new(runs), task)
    with pytest.raises(DbtRunTimedOut, match=r"Timeout: job run 70001 passed execution_timeout .*cancelled"):
        stopped(runs, task, execution_timeout=timedelta(hours=1))
    assert runs.cancelled == [runs.only]


def test_execution_timeout_leaves_a_run_that_shall_not_be_cancelled(runs: FakeTaskRuns) -> None:
    task = Task(start_date=datetime.now(tz=UTC) - timedelta(hours=2))
    deferred(new(runs), task)
    with pytest.raises(DbtRunTimedOut, match=r"job run 70001 passed .* it continues"):
        stopped(runs, task, execution_timeout=timedelta(hours=1), cancel_on_kill=False)
    assert not runs.cancelled


def test_a_time_out_stays_one_when_the_run_cannot_be_cancelled(runs: FakeTaskRuns) -> None:
    task = Task(start_date=datetime.now(tz=UTC) - timedelta(hours=2))
    deferred(new(runs), task)
    runs.before = lambda verb: runs.failing.append(Forbidden("no patch")) if verb == "patch" else None
    with pytest.raises(DbtRunTimedOut, match=r"job run 70001 passed .* it could not be cancelled"):
        stopped(runs, task, execution_timeout=timedelta(hours=1))


@pytest.mark.parametrize("hours", [1, 3])
def test_a_time_out_stays_one_when_the_object_cannot_be_read(runs: FakeTaskRuns, hours: int) -> None:
    task = Task(start_date=datetime.now(tz=UTC) - timedelta(hours=2))
    deferred(new(runs), task)
    runs.before = lambda verb: runs.failing.append(Forbidden("forbidden"))
    with pytest.raises(DbtRunTimedOut, match="Timeout: the run of this task"):
        stopped(runs, task, execution_timeout=timedelta(hours=hours))


def test_the_end_of_the_wait_alone_cancels_nothing(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs, timeout=60), task)
    with pytest.raises(DbtRunTimedOut, match=r"Timeout.*after 60 seconds"):
        stopped(runs, task, timeout=60, execution_timeout=timedelta(hours=1))
    assert not runs.cancelled


def test_a_run_that_ended_just_before_the_timeout_did_end(runs: FakeTaskRuns) -> None:
    task = Task(start_date=datetime.now(tz=UTC) - timedelta(hours=2))
    deferred(new(runs), task)
    runs.ends(runs.only)
    assert stopped(runs, task, execution_timeout=timedelta(hours=1)) == 70_001


def test_of_a_tasks_objects_the_newest_may_have_ended_just_before_the_timeout(runs: FakeTaskRuns) -> None:
    task = Task()
    first = deferred(new(runs), task).trigger.name
    runs.ends(first, "Failed", "RunFailed")
    with pytest.raises(DbtRunFailed):
        resumed(runs, task, payload(first, "error"))
    deferred(new(runs), task.next_try())
    runs.ends(runs.names[-1])
    assert stopped(runs, task.next_try()) == 70_002


def test_the_run_of_an_earlier_try_is_nobodys_outcome(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    killed(new(runs), task)
    deferred(new(runs), task.next_try())
    runs.ends(runs.only, "Cancelled", "CancelRequested")
    with pytest.raises(DbtRunTimedOut):
        stopped(runs, task.next_try())


def test_a_trigger_that_broke_cancels_nothing(runs: FakeTaskRuns) -> None:
    task = Task()
    deferred(new(runs), task)
    with pytest.raises(Exception, match="Trigger failure"):
        new(runs).resume_execution("__fail__", {"traceback": None, "error": "Trigger failure"}, task.context)
    assert not runs.cancelled


@pytest.mark.parametrize(
    ("timeout", "limit", "expected"),
    [(600, None, 660), (600, timedelta(seconds=100), 100), (600, timedelta(hours=9), 660)],
)
def test_a_deferral_lasts_no_longer_than_the_task_may(
    runs: FakeTaskRuns, timeout: int, limit: timedelta | None, expected: int
) -> None:
    told = deferred(new(runs, timeout=timeout, execution_timeout=limit), Task())
    assert told.timeout is not None
    assert told.timeout.total_seconds() == pytest.approx(expected, abs=5)


# ── the provider's arguments ──


def test_every_argument_of_the_provider_is_an_attribute_of_that_name(runs: FakeTaskRuns) -> None:
    given: dict[str, Any] = {
        "dbt_cloud_conn_id": "dbt_cloud_finance",
        "account_id": 2,
        "timeout": 3,
        "check_interval": 1,
        "wait_for_termination": False,
        "steps_override": ["dbt run"],
        "schema_override": "other",
        "additional_run_config": {"threads_override": 8},
        "retry_from_failure": True,
    }
    operator = new(runs, **given)
    assert {name: getattr(operator, name) for name in given} == given


@pytest.mark.parametrize("wait", [True, False])
def test_the_providers_arguments_reach_the_object(runs: FakeTaskRuns, wait: bool) -> None:
    operator = new(
        runs,
        wait_for_termination=wait,
        account_id=2,
        trigger_reason="month's end",
        steps_override=["dbt run"],
        schema_override="other",
        additional_run_config={"threads_override": 8},
    )
    if wait:
        deferred(operator, Task())
    else:
        operator.execute(Task().context)
    spec = runs.spec(runs.only)
    assert (spec["accountId"], spec["cause"]) == (2, "month's end")
    assert spec["overrides"] == {"steps": ("dbt run",), "schema": "other", "threads": 8}


def test_a_job_may_be_named(runs: FakeTaskRuns) -> None:
    names = {"project_name": "Shop", "environment_name": "Production", "job_name": "nightly"}
    deferred(new(runs, job_id=None, **names), Task())
    assert runs.spec(runs.only)["job"] == {"project": "Shop", "environment": "Production", "name": "nightly"}


@pytest.mark.parametrize(
    "names", [(None, "Production", "nightly"), ("Shop", "", "nightly"), ("Shop", "Production", None), ("", "", "")]
)
def test_a_job_that_is_half_named_starts_nothing(runs: FakeTaskRuns, names: tuple[str | None, ...]) -> None:
    arguments = dict(zip(("project_name", "environment_name", "job_name"), names, strict=True))
    with pytest.raises(ValueError, match="Either job_id or project_name, environment_name, and job_name must be"):
        new(runs, job_id=None, **arguments).execute(Task().context)
    assert not runs.objects


@pytest.mark.parametrize("argument", ["timeout", "check_interval", "queue_deadline", "active_deadline", "ttl"])
def test_a_duration_that_is_none_starts_nothing_and_is_not_tried_again(runs: FakeTaskRuns, argument: str) -> None:
    with pytest.raises(AirflowFailException, match=f"{argument} must be seconds or a timedelta"):
        new(runs, **{argument: "soon"}).execute(Task().context)
    assert not runs.objects


def test_durations_may_be_timedeltas(runs: FakeTaskRuns) -> None:
    told = deferred(new(runs, timeout=timedelta(hours=1), check_interval=timedelta(minutes=5)), Task())
    assert told.trigger.poll_interval == 300
    assert told.timeout is not None
    assert told.timeout.total_seconds() == 3_660


@pytest.mark.parametrize(
    ("argument", "value", "replaced_by"),
    [
        ("hook_params", {"retry_limit": 3}, "The watcher retries"),
        ("openlineage_inject_parent_job_info", True, "airflow.dbtrun.dev/dag-id"),
        ("durable", False, "every try looks for the run of the previous try"),
    ],
)
def test_an_argument_without_a_place_says_what_replaces_it(
    runs: FakeTaskRuns, argument: str, value: object, replaced_by: str
) -> None:
    with pytest.warns(FutureWarning, match=f"{argument} has no effect.*{replaced_by}"):
        new(runs, **{argument: value})


def test_an_operator_without_such_arguments_warns_of_nothing(runs: FakeTaskRuns) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        new(runs)


def test_the_reason_is_the_providers_by_default(runs: FakeTaskRuns) -> None:
    deferred(new(runs), Task())
    assert runs.spec(runs.only)["cause"] == "Triggered via Apache Airflow by task 'build' in the nightly DAG."
