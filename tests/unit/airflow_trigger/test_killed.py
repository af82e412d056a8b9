"""A worker's process and a trigger that Airflow stops: when that cancels the run, and when it must not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from airflow.utils.state import TaskInstanceState

from airflow_trigger.task import killed
from airflow_trigger.task.identity import TaskKey, Try
from airflow_trigger.task.killed import COMMS, Cause, Standing, cause_of, ends_the_run, standing_of, why_killed
from airflow_trigger.trigger import DbtRunTrigger
from airflow_trigger.waiting.waits import Wait
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.errors import Forbidden
from tests.stack import until
from tests.unit.airflow_trigger.tasks import NAMESPACE, FakeTaskRuns

TASK = Try(TaskKey("nightly", "r", "build"), 1, 0).as_dict()
WAITING = "airflow.dbtrun.dev/waiting-try"


@pytest.fixture
def runs() -> FakeTaskRuns:
    runs = FakeTaskRuns()
    runs.put({"metadata": {"name": "build-1", "labels": {}, "annotations": {WAITING: "1"}}, "spec": {"job": {"id": 7}}})
    return runs


def trigger(runs: FakeTaskRuns, *, standing: Standing = Standing.ENDED, **arguments: Any) -> DbtRunTrigger:
    """`standing`: what Airflow says of the task."""

    class Trigger(DbtRunTrigger):
        @staticmethod
        async def standing_of(task: Mapping[str, Any]) -> Standing:
            assert task == arguments.get("cancel_for", TASK)
            return standing

        def task_runs(self, wait: Wait) -> Any:
            return runs.connect(ClusterConfig(), wait.namespace)

    given: dict[str, Any] = {"name": "build-1", "namespace": NAMESPACE, "cancel_for": TASK}
    return Trigger(**given | arguments)


async def test_a_task_that_was_ended_by_hand_cancels_its_run(runs: FakeTaskRuns) -> None:
    await trigger(runs).on_kill()
    assert runs.cancelled == ["build-1"]


async def test_a_trigger_that_moves_to_another_triggerer_cancels_nothing(runs: FakeTaskRuns) -> None:
    await trigger(runs, standing=Standing.WAITS).on_kill()
    assert not runs.cancelled


async def test_a_trigger_that_was_not_told_to_cancels_nothing(runs: FakeTaskRuns) -> None:
    await trigger(runs, cancel_for=None).on_kill()
    assert not runs.cancelled


async def test_a_wait_that_is_over_cancels_nothing(runs: FakeTaskRuns) -> None:
    await trigger(runs, end_time=time.time() - 1).on_kill()
    assert not runs.cancelled


async def test_the_same_number_in_a_later_life_of_the_task_keeps_its_run(runs: FakeTaskRuns) -> None:
    await runs.patch("build-1", {"metadata": {"annotations": {WAITING: "1/0/0/1/2026-01-02/new"}}})
    await trigger(runs, cancel_for=TASK | {"mark": "1/0/0/0/2026-01-01/old"}).on_kill()
    assert not runs.cancelled
    await trigger(runs, cancel_for=TASK | {"mark": "1/0/0/1/2026-01-02/new"}).on_kill()
    assert runs.cancelled == ["build-1"]


async def test_a_newer_try_that_took_the_run_over_keeps_it(runs: FakeTaskRuns) -> None:
    await runs.patch("build-1", {"metadata": {"annotations": {WAITING: "2"}}})
    await trigger(runs).on_kill()
    assert not runs.cancelled


async def test_a_newer_try_that_takes_the_run_over_meanwhile_keeps_it(runs: FakeTaskRuns) -> None:
    def take_over(verb: str) -> None:
        if verb == "patch":
            runs.objects["build-1"]["metadata"] |= {"annotations": {WAITING: "2"}, "resourceVersion": "999"}
            runs.before = lambda verb: None

    runs.before = take_over
    await trigger(runs).on_kill()
    assert not runs.cancelled


async def test_an_answer_that_comes_after_airflow_gave_up_still_cancels(runs: FakeTaskRuns) -> None:
    answered = asyncio.Event()

    class Slow(DbtRunTrigger):
        @staticmethod
        async def standing_of(task: Mapping[str, Any]) -> Standing:
            await answered.wait()
            return Standing.ENDED

        def task_runs(self, wait: Wait) -> Any:
            return runs.connect(ClusterConfig(), wait.namespace)

    async def cancelled() -> bool:
        return runs.cancelled == ["build-1"]

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Slow(name="build-1", namespace=NAMESPACE, cancel_for=TASK).on_kill(), 0.01)
    assert not runs.cancelled
    answered.set()
    await until(cancelled, 5)


async def test_an_api_server_that_refuses_is_no_trouble_for_the_triggerer(runs: FakeTaskRuns) -> None:
    runs.failing = [Forbidden("forbidden")]
    await trigger(runs).on_kill()
    assert not runs.cancelled


async def test_an_object_that_is_gone_is_no_trouble(runs: FakeTaskRuns) -> None:
    runs.delete("build-1")
    await trigger(runs).on_kill()


async def test_a_doubt_cancels_nothing() -> None:
    assert await standing_of(TASK) is Standing.WAITS


@pytest.mark.parametrize(
    ("state", "standing"),
    [("deferred", Standing.WAITS), ("failed", Standing.ENDED), (None, Standing.ENDED), ("success", Standing.ENDED),
     ("scheduled", Standing.GOES_ON), ("queued", Standing.GOES_ON), ("running", Standing.GOES_ON),
     ("up_for_retry", Standing.GOES_ON), ("of a later release", Standing.GOES_ON)],
)  # fmt: skip
async def test_what_became_of_a_task(monkeypatch: pytest.MonkeyPatch, state: str | None, standing: Standing) -> None:
    monkeypatch.setattr(killed, "_state", lambda _task: state)
    assert await standing_of(TASK) is standing


@pytest.mark.parametrize(
    ("standing", "run_id", "until_started", "cancelled"),
    [
        # Its twin has told the start: the task goes on, and wants the run.
        (Standing.GOES_ON, 5, True, []),
        # Nobody can have told a start: the task was cleared.
        (Standing.GOES_ON, None, True, ["build-1"]),
        (Standing.ENDED, 5, True, ["build-1"]),
        # Only the run's end would have resumed it.
        (Standing.GOES_ON, 5, False, ["build-1"]),
    ],
)
async def test_a_triggerer_that_was_frozen_does_not_cancel_a_run_of_which_another_told_the_start(
    runs: FakeTaskRuns, standing: Standing, run_id: int | None, until_started: bool, cancelled: list[str]
) -> None:
    runs.objects["build-1"]["status"] = {"phase": "Running", "runId": run_id} if run_id else {"phase": "Pending"}
    await trigger(runs, standing=standing, until_started=until_started).on_kill()
    assert runs.cancelled == cancelled


def test_a_trigger_stored_before_this_argument_cancels_nothing() -> None:
    _, stored = DbtRunTrigger(name="build-1", namespace=NAMESPACE).serialize()
    assert "cancel_for" not in stored


def test_what_it_cancels_for_survives_the_database() -> None:
    _, stored = DbtRunTrigger(name="build-1", namespace=NAMESPACE, cancel_for=TASK).serialize()
    assert DbtRunTrigger(**stored).cancel_for == TASK


# ── a worker's process ──

STATES: dict[Cause, set[str | None]] = {
    Cause.LOST: {"running"},
    Cause.GIVEN_UP: {"up_for_retry", "scheduled", "queued", "deferred", "up_for_reschedule", "awaiting_input"},
    Cause.ENDED: {None, "restarting", "removed", "success", "failed", "skipped", "upstream_failed"},
}
RETRIED, LAST = False, True
ENDS = {
    (Cause.ENDED, RETRIED): True,
    (Cause.ENDED, LAST): True,
    (Cause.LIMIT, RETRIED): True,
    (Cause.LIMIT, LAST): True,
    (Cause.LOST, RETRIED): False,
    (Cause.LOST, LAST): True,
    (Cause.GIVEN_UP, RETRIED): False,
    (Cause.GIVEN_UP, LAST): False,
    (Cause.UNKNOWN, RETRIED): False,
    (Cause.UNKNOWN, LAST): True,
}


@pytest.mark.parametrize(
    ("cause", "state"), [(cause, state) for cause in STATES for state in sorted(STATES[cause], key=str)]
)
def test_the_state_of_a_task_says_why_its_process_ends(cause: Cause, state: str | None) -> None:
    assert cause_of(state) == cause


def test_every_state_that_airflow_has_is_known() -> None:
    assert set(TaskInstanceState) | {None} <= {state for states in STATES.values() for state in states}
    assert cause_of("of a later release") == Cause.UNKNOWN


@pytest.mark.parametrize(("cause", "is_last"), [(cause, is_last) for cause in Cause for is_last in (RETRIED, LAST)])
def test_a_run_ends_unless_the_next_try_wants_it(cause: Cause, is_last: bool) -> None:
    assert ends_the_run(cause, is_last=is_last) == ENDS[cause, is_last]


Answers = Callable[[Callable[[Mapping[str, Any]], str | None]], None]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What Airflow does when it is asked for the state of the task."""
    return lambda state: monkeypatch.setattr(killed, "_state", state)


def failing(error: BaseException) -> Callable[[object], str | None]:
    def fail(task: object) -> str | None:
        raise error

    return fail


def test_airflow_is_asked_for_the_state_of_the_task(answers: Answers) -> None:
    answers(lambda task: {"build": "failed"}[task["task_id"]])
    assert why_killed(TASK) == Cause.ENDED


@pytest.mark.parametrize("error", [EOFError(), BrokenPipeError(), ConnectionResetError()])
def test_a_supervisor_that_is_gone_was_killed_with_its_task(answers: Answers, error: Exception) -> None:
    answers(failing(error))
    assert why_killed(TASK) == Cause.LOST


def test_an_airflow_that_cannot_answer_does_not_say_why(answers: Answers) -> None:
    answers(failing(RuntimeError("API_SERVER_ERROR")))
    assert why_killed(TASK) == Cause.UNKNOWN


def test_a_lock_that_the_interrupted_code_holds_is_not_waited_for_longer_than_bearable(answers: Answers) -> None:
    held, began = threading.Lock(), time.monotonic()

    def locked(task: Mapping[str, Any]) -> str | None:
        with held:
            return "running"

    answers(locked)
    with held:
        assert why_killed(TASK, seconds=0.05) == Cause.UNKNOWN
    assert time.monotonic() - began < killed.ASK_SECONDS


def test_a_time_out_of_the_task_needs_no_question(answers: Answers) -> None:
    answers(lambda task: "running")
    try:
        failing(AirflowTaskTimeout())(TASK)
    except AirflowTaskTimeout:
        assert why_killed(TASK) == Cause.LIMIT
    assert why_killed(TASK) == Cause.LOST


def send(interrupted: Callable[[], Cause]) -> Cause:
    return interrupted()


def test_a_signal_amid_a_question_of_airflows_own_asks_no_other(answers: Answers) -> None:
    """Airflow 3.1 would give each of two threads the answer for the other."""
    asked: list[object] = []

    def state(task: Mapping[str, Any]) -> str | None:
        asked.append(task)
        return "running"

    answers(state)
    in_comms = FunctionType(send.__code__, {"__name__": COMMS})
    assert in_comms(lambda: why_killed(TASK)) == Cause.UNKNOWN
    assert not asked
    assert send(lambda: why_killed(TASK)) == Cause.LOST
