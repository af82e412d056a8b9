"""The sensor: what it looks at, how it waits, and how it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    PokeReturnValue,
    TaskDeferred,
)
from airflow.sdk.exceptions import AirflowRescheduleException

from airflow_trigger.failures import (
    DbtRunCancelled,
    DbtRunEventException,
    DbtRunException,
    DbtRunFailed,
    DbtRunLostContact,
    InvalidArgument,
)
from airflow_trigger.sensor import DbtRunSensor
from dbtrun.kube.errors import Forbidden, Unreachable
from tests.unit.airflow_trigger.tasks import NAMESPACE, FakeTaskRuns, Task


@pytest.fixture
def runs() -> FakeTaskRuns:
    return FakeTaskRuns()


def new(runs: FakeTaskRuns, **arguments: Any) -> DbtRunSensor:
    class Sensor(DbtRunSensor):
        connect = staticmethod(runs.connect)

    given: dict[str, Any] = {"task_id": "wait", "namespace": NAMESPACE, "deferrable": True}
    return Sensor(**given | arguments)


def poked(sensor: DbtRunSensor) -> PokeReturnValue:
    return sensor.poke(Task().context)


def deferred(sensor: DbtRunSensor) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as info:
        sensor.execute(Task().context)
    return info.value


def event(status: str, reason: str = "", message: str = "It is so.") -> dict[str, Any]:
    return {"event": {"status": status, "reason": reason, "message": message, "run_id": 98_765, "job_run_url": None}}


def put(runs: FakeTaskRuns, name: str = "nightly") -> str:
    runs.put({"metadata": {"name": name}, "spec": {"job": {"id": 7}}})
    return name


def test_a_run_id_is_followed_by_an_object_of_its_own(runs: FakeTaskRuns) -> None:
    told = deferred(new(runs, run_id="98765", account_id="12", poke_interval=180, timeout=14_400))
    assert runs.only == "run-98765"
    assert runs.spec("run-98765") == {
        "runId": 98_765,
        "accountId": 12,
        "pollIntervalSeconds": 180,
        "ttlSecondsAfterFinished": 86_400,
    }
    assert told.trigger.run_id == 98_765


def test_two_sensors_follow_a_run_by_one_object(runs: FakeTaskRuns) -> None:
    deferred(new(runs, run_id=98_765))
    deferred(new(runs, run_id=98_765))
    assert runs.names == ["run-98765"]


def test_an_object_that_another_sensor_creates_meanwhile_is_waited_for(runs: FakeTaskRuns) -> None:
    def be_late(verb: str) -> None:
        if verb == "create":
            runs.put({"metadata": {"name": "run-98765"}, "spec": {"runId": 98_765}})

    runs.before = be_late
    assert deferred(new(runs, run_id=98_765)).trigger.run_id == 98_765
    assert runs.calls == ["get", "create", "get"]


def test_an_object_is_waited_for_by_its_name(runs: FakeTaskRuns) -> None:
    put(runs)
    assert deferred(new(runs, name="nightly")).trigger.name == "nightly"


def test_an_object_that_is_missing_is_said_by_its_name(runs: FakeTaskRuns) -> None:
    with pytest.raises(DbtRunLostContact, match="DbtRun team/nightly does not exist"):
        poked(new(runs, name="nightly"))


def test_a_poke_says_whether_it_is_over(runs: FakeTaskRuns) -> None:
    sensor = new(runs, name=put(runs))
    assert not poked(sensor).is_done
    runs.ends("nightly", runId=98_765)
    assert poked(sensor).is_done
    assert poked(sensor).xcom_value == 98_765


@pytest.mark.parametrize("phase", ["Pending", "Submitting", "Queued", "Running", "Cancelling"])
def test_a_run_that_is_not_over_is_poked_again_whatever_its_phase(runs: FakeTaskRuns, phase: str) -> None:
    sensor = new(runs, name=put(runs))
    runs.says("nightly", phase=phase)
    assert not poked(sensor)


@pytest.mark.parametrize(
    ("phase", "reason", "sentence"),
    [
        ("Failed", "RunFailed", "Job run 5 has failed"),
        ("Cancelled", "CancelledInDbtCloud", "Job run 5 has been cancelled"),
    ],
)
def test_a_poke_of_a_bad_end_says_which_run_and_explains_it_in_the_log(
    runs: FakeTaskRuns, capsys: pytest.CaptureFixture[str], phase: str, reason: str, sentence: str
) -> None:
    sensor = new(runs, name=put(runs))
    runs.ends("nightly", phase, reason, runId=5, message="dbt says no")
    with pytest.raises(DbtRunException, match=sentence):
        poked(sensor)
    log = capsys.readouterr().out
    assert "dbt says no" in log
    assert f"{phase} ({reason})" in log


@pytest.mark.parametrize(
    ("phase", "reason", "kind"),
    [("Failed", "RunFailed", DbtRunFailed), ("Cancelled", "CancelledInDbtCloud", DbtRunCancelled)],
)
def test_a_bad_end_fails_the_sensor(runs: FakeTaskRuns, phase: str, reason: str, kind: type[Exception]) -> None:
    sensor = new(runs, name=put(runs), deferrable=False)
    runs.ends("nightly", phase, reason)
    with pytest.raises(kind):
        sensor.execute(Task().context)


def test_a_run_that_is_over_is_not_deferred(runs: FakeTaskRuns) -> None:
    sensor = new(runs, name=put(runs))
    runs.ends("nightly", runId=98_765)
    assert sensor.execute(Task().context) == 98_765


def test_in_reschedule_mode_the_worker_is_free_between_looks(runs: FakeTaskRuns) -> None:
    class Rescheduled(Task):
        def get_first_reschedule_date(self, context: object) -> None:
            return None

    with pytest.raises(AirflowRescheduleException):
        new(runs, name=put(runs), deferrable=False, mode="reschedule").execute(Rescheduled().context)


def test_an_api_server_that_is_away_is_not_the_end_of_the_wait(
    runs: FakeTaskRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_trigger.sensor.LOOK_SECONDS", 0.0)
    runs.failing = [Unreachable("no route")]
    assert not poked(new(runs, run_id=98_765)).is_done


def test_a_missing_permission_is_said(runs: FakeTaskRuns) -> None:
    runs.failing = [Forbidden("dbtruns is forbidden")]
    with pytest.raises(DbtRunLostContact, match="dbtruns is forbidden"):
        poked(new(runs, run_id=98_765))


def test_a_success_returns_the_run_id_and_says_so_in_the_log(
    runs: FakeTaskRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    told = event("success", message="Job run 98765 has completed successfully.")
    assert new(runs, run_id=1).resume_execution("execute_complete", told, Task().context) == 98_765
    assert "Job run 98765 has completed successfully." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("error", "Job run 98765 has failed"),
        ("cancelled", "Job run 98765 has been cancelled"),
        ("timeout", "It is so"),
    ],
)
def test_any_other_event_fails_the_sensor(runs: FakeTaskRuns, status: str, sentence: str) -> None:
    with pytest.raises(DbtRunException, match=sentence):
        new(runs, run_id=1).resume_execution("execute_complete", event(status), Task().context)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [(None, "event is None"), ({"status": "rescheduling", "message": "m"}, "Unexpected trigger event status")],
)
def test_a_lost_or_unknown_event_is_not_a_success(
    runs: FakeTaskRuns, told: dict[str, Any] | None, sentence: str
) -> None:
    with pytest.raises(DbtRunEventException, match=sentence):
        new(runs, run_id=1).resume_execution("execute_complete", {"event": told}, Task().context)


def test_the_end_of_the_wait_is_airflows_sensor_timeout(runs: FakeTaskRuns) -> None:
    with pytest.raises(AirflowSensorTimeout, match="Timeout"):
        new(runs, run_id=1).resume_execution(
            "execute_complete", event("timeout", "WaitTimeout", "Timeout: …"), Task().context
        )


@pytest.mark.parametrize("told", [event("error", "RunFailed"), event("timeout", "WaitTimeout")])
def test_soft_fail_skips(runs: FakeTaskRuns, told: dict[str, Any]) -> None:
    with pytest.raises(AirflowSkipException):
        new(runs, run_id=1, soft_fail=True).resume_execution("execute_complete", told, Task().context)


def test_soft_fail_skips_also_when_the_run_is_over_at_the_first_look(runs: FakeTaskRuns) -> None:
    sensor = new(runs, name=put(runs), soft_fail=True)
    runs.ends("nightly", "Failed", "RunFailed")
    with pytest.raises(AirflowSkipException):
        sensor.execute(Task().context)


def test_the_wait_ends_with_the_sensors_timeout(runs: FakeTaskRuns) -> None:
    before = datetime.now(tz=UTC).timestamp()
    trigger = deferred(new(runs, run_id=1, timeout=14_400)).trigger
    assert trigger.end_time == pytest.approx(before + 14_400, abs=10)


def test_a_deferral_lasts_no_longer_than_execution_timeout(runs: FakeTaskRuns) -> None:
    told = deferred(new(runs, run_id=1, timeout=600, execution_timeout=timedelta(seconds=100)))
    assert told.timeout is not None
    assert told.timeout.total_seconds() == pytest.approx(100, abs=5)


def test_a_sensor_cancels_nothing_when_it_is_ended(runs: FakeTaskRuns) -> None:
    sensor = new(runs, name=put(runs))
    assert deferred(sensor).trigger.cancel_for is None
    sensor.on_kill()
    assert not runs.cancelled


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "needs run_id, or the name of a DbtRun"),
        ({"run_id": "None"}, "run_id must be a number of at least 1, not 'None'"),
        ({"run_id": 5, "account_id": "mine"}, "account_id must be a number of at least 1, not 'mine'"),
    ],
)
def test_arguments_that_cannot_work_fail_at_once(runs: FakeTaskRuns, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgument, match=sentence):
        poked(new(runs, **arguments))


def test_what_is_given_is_an_attribute_of_that_name(runs: FakeTaskRuns) -> None:
    given: dict[str, Any] = {"dbt_cloud_conn_id": "dbt", "run_id": 5, "timeout": 30, "poke_interval": 15}
    with pytest.warns(FutureWarning, match="hook_params has no effect"):
        sensor = new(runs, hook_params={"retry_limit": 3}, **given)
    assert {name: getattr(sensor, name) for name in given} == given


def test_a_deferrable_sensor_keeps_airflows_poke_interval(runs: FakeTaskRuns) -> None:
    assert new(runs, run_id=1, deferrable=True).poke_interval == 60
