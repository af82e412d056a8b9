"""A trigger that Airflow stops: when it cancels the run, and when it must not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from airflow_trigger.attempts import TaskKey, Try
from airflow_trigger.cluster import ClusterConfig, NotPermitted
from airflow_trigger.killed import still_deferred
from airflow_trigger.trigger import DbtRunTrigger
from airflow_trigger.waits import Wait
from tests.stack import until
from tests.unit.airflow_trigger.tasks import NAMESPACE, FakeTaskRuns

TASK = Try(TaskKey("nightly", "r", "build"), 1, 0).as_dict()
WAITING = "airflow.dbtrun.dev/waiting-try"


@pytest.fixture
def runs() -> FakeTaskRuns:
    runs = FakeTaskRuns()
    runs.put({"metadata": {"name": "build-1", "labels": {}, "annotations": {WAITING: "1"}}, "spec": {"job": {"id": 7}}})
    return runs


def trigger(runs: FakeTaskRuns, *, deferred: bool = False, **arguments: Any) -> DbtRunTrigger:
    """`deferred`: what Airflow says of the task."""

    class Trigger(DbtRunTrigger):
        @staticmethod
        async def still_deferred(task: Mapping[str, Any]) -> bool:
            assert task == TASK
            return deferred

        def task_runs(self, wait: Wait) -> Any:
            return runs.connect(ClusterConfig(), wait.namespace)

    given: dict[str, Any] = {"name": "build-1", "namespace": NAMESPACE, "cancel_for": TASK}
    return Trigger(**given | arguments)


async def test_a_task_that_was_ended_by_hand_cancels_its_run(runs: FakeTaskRuns) -> None:
    await trigger(runs).on_kill()
    assert runs.cancelled == ["build-1"]


async def test_a_trigger_that_moves_to_another_triggerer_cancels_nothing(runs: FakeTaskRuns) -> None:
    await trigger(runs, deferred=True).on_kill()
    assert not runs.cancelled


async def test_a_trigger_that_was_not_told_to_cancels_nothing(runs: FakeTaskRuns) -> None:
    await trigger(runs, cancel_for=None).on_kill()
    assert not runs.cancelled


async def test_a_wait_that_is_over_cancels_nothing(runs: FakeTaskRuns) -> None:
    await trigger(runs, end_time=time.time() - 1).on_kill()
    assert not runs.cancelled


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
        async def still_deferred(task: Mapping[str, Any]) -> bool:
            await answered.wait()
            return False

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
    runs.failing = [NotPermitted("forbidden")]
    await trigger(runs).on_kill()
    assert not runs.cancelled


async def test_an_object_that_is_gone_is_no_trouble(runs: FakeTaskRuns) -> None:
    runs.delete("build-1")
    await trigger(runs).on_kill()


async def test_a_doubt_cancels_nothing() -> None:
    assert await still_deferred(TASK)


def test_a_trigger_stored_before_this_argument_cancels_nothing() -> None:
    _, stored = DbtRunTrigger(name="build-1", namespace=NAMESPACE).serialize()
    assert "cancel_for" not in stored


def test_what_it_cancels_for_survives_the_database() -> None:
    _, stored = DbtRunTrigger(name="build-1", namespace=NAMESPACE, cancel_for=TASK).serialize()
    assert DbtRunTrigger(**stored).cancel_for == TASK
