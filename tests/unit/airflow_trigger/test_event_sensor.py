"""The sensor for the next run of a job."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import Context, TaskDeferred

from airflow_trigger.event_sensor import POSITION, DbtRunEventSensor, DbtRunNextTrigger
from airflow_trigger.failures import DbtRunLostContact, DbtRunSensorTimeout, InvalidArgument
from airflow_trigger.reacting import ticker as ticker_module
from tests.unit.airflow_trigger.reacting.test_position import NOON, ended
from tests.unit.airflow_trigger.test_event_trigger import Namespace

pytestmark = [pytest.mark.looptime]


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Namespace:
    made = Namespace()
    monkeypatch.setattr(ticker_module, "listen", made.listen)
    return made


class Instance:
    """The task instance: its XComs, also those of earlier DAG runs."""

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str, include_prior_dates: bool) -> Any:
        assert include_prior_dates
        return self.xcoms.get(key)


class DagRun:
    start_date = NOON


def context(instance: Instance) -> Context:
    return cast("Context", {"ti": instance, "dag_run": DagRun()})


def deferred(instance: Instance, **arguments: Any) -> DbtRunNextTrigger:
    given: dict[str, Any] = {"task_id": "next", "namespace": "data", "timeout": 600}
    sensor = DbtRunEventSensor(**given | arguments)
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(context(instance))
    path, stored = caught.value.trigger.serialize()
    assert path == "airflow_trigger.event_sensor.DbtRunNextTrigger"
    assert caught.value.timeout == timedelta(seconds=660)
    return DbtRunNextTrigger(**json.loads(json.dumps(stored)))


async def outcome(trigger: DbtRunNextTrigger) -> dict[str, Any]:
    (event,) = [event async for event in trigger.run()]
    return json.loads(json.dumps(event.payload))  # type: ignore[no-any-return]


async def taken(instance: Instance, **arguments: Any) -> int:
    """The run that one DAG run takes."""
    trigger = deferred(instance, **arguments)
    sensor = DbtRunEventSensor(task_id="next", namespace="data")
    told = sensor.execute_complete(context(instance), await outcome(trigger))
    return int(told["run_id"])


async def test_each_dag_run_takes_the_next_run_and_none_between_two_is_lost(namespace: Namespace) -> None:
    instance = Instance()
    namespace.runs = [ended(1, -60)]
    waiting = asyncio.create_task(taken(instance))
    await asyncio.sleep(5)
    namespace.end(ended(2, 10))
    assert await waiting == 2
    # While no DAG run is there; two of them in one second.
    namespace.end(ended(4, 30), ended(5, 30), ended(3, 20))
    assert sorted([await taken(instance), await taken(instance), await taken(instance)]) == [3, 4, 5]


async def test_of_several_runs_the_one_that_ended_first_is_taken_first(namespace: Namespace) -> None:
    instance = Instance()
    namespace.runs = [ended(3, 30), ended(1, 10), ended(2, 20)]
    assert [await taken(instance), await taken(instance), await taken(instance)] == [1, 2, 3]


async def test_only_runs_that_match_are_taken(namespace: Namespace) -> None:
    namespace.runs = [ended(1, 5, jobId=7), ended(2, 10, jobId=8)]
    assert await taken(Instance(), job_id="8") == 2


async def test_an_instant_is_taken_instead_of_the_memory(namespace: Namespace) -> None:
    instance = Instance()
    namespace.runs = [ended(1, 5), ended(2, 10)]
    assert await taken(instance, since="2026-11-26T12:00:08+00:00") == 2


async def test_an_instant_without_a_time_zone_is_in_utc(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(time.tzset)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        namespace.runs = [ended(1, 5), ended(2, 10)]
        assert await taken(Instance(), since="2026-11-26T12:00:08") == 2


async def test_no_run_in_time_is_the_sensors_timeout(namespace: Namespace) -> None:
    trigger = DbtRunNextTrigger(position={"floor": 0, "through": 0, "told": {}}, namespace="data", end_time=0.0)
    assert await outcome(trigger) == {"status": "timeout"}
    with pytest.raises(DbtRunSensorTimeout):
        DbtRunEventSensor(task_id="next").execute_complete(context(Instance()), {"status": "timeout"})


async def test_what_a_trigger_cannot_use_is_its_event(namespace: Namespace) -> None:
    told = await outcome(DbtRunNextTrigger(position={}, namespace="data"))
    assert told["status"] == "error"
    with pytest.raises(DbtRunLostContact, match="not a position"):
        DbtRunEventSensor(task_id="next").execute_complete(context(Instance()), told)


@pytest.mark.parametrize("odd", [{"job_id": "x"}, {"phases": ["Queued"]}, {"since": "yesterday"}])
def test_arguments_that_cannot_be_used_fail_the_task_at_once(odd: dict[str, Any]) -> None:
    sensor = DbtRunEventSensor(**{"task_id": "next", "namespace": "data"} | odd)
    with pytest.raises(InvalidArgument):
        sensor.execute(context(Instance()))


def test_the_memory_is_an_xcom_of_the_task() -> None:
    instance = Instance()
    event = {"status": "success", "run": {"namespace": "d", "name": "n", "phase": "Succeeded", "message": ""}}
    DbtRunEventSensor(task_id="next").execute_complete(context(instance), event | {"position": {"floor": 1}})
    assert instance.xcoms == {POSITION: {"floor": 1}}
