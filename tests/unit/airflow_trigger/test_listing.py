"""Runs listed from their objects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_trigger.failures import DbtRunLostContact, InvalidArgument
from airflow_trigger.listing import DbtRunListOperator
from airflow_trigger.task.identity import TaskKey
from dbtrun.kube.errors import Forbidden
from tests.unit.airflow_trigger.tasks import NAMESPACE, FakeTaskRuns, Task


@pytest.fixture
def runs() -> FakeTaskRuns:
    runs = FakeTaskRuns()
    for day, (dag, phase) in enumerate([("nightly", "Succeeded"), ("nightly", "Failed"), ("hourly", "Running")], 1):
        name = f"{dag}-{day}"
        labels = TaskKey(dag, f"scheduled__{day}", "build").labels(1)
        runs.put({"metadata": {"name": name, "labels": labels}, "spec": {"job": {"id": day}}})
        runs.objects[name]["metadata"]["creationTimestamp"] = f"2026-01-0{day}T00:00:00Z"
        runs.says(name, phase=phase, jobId=day, startedAt=f"2026-01-0{day}T00:00:00Z")
    return runs


def listed(runs: FakeTaskRuns, **arguments: Any) -> Any:
    class Operator(DbtRunListOperator):
        connect = staticmethod(runs.connect)

    return Operator(task_id="list", namespace=NAMESPACE, **arguments).execute(Task().context)


def names(runs: FakeTaskRuns, **arguments: Any) -> list[str]:
    return [row["name"] for row in listed(runs, **arguments)]


def test_all_of_a_namespace_newest_first(runs: FakeTaskRuns) -> None:
    assert names(runs) == ["hourly-3", "nightly-2", "nightly-1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"by_dag": "nightly"}, ["nightly-2", "nightly-1"]),
        ({"by_task": "other"}, []),
        ({"labels": {"app.kubernetes.io/managed-by": "airflow"}, "by_dag": "hourly"}, ["hourly-3"]),
        ({"job_id": "2"}, ["nightly-2"]),
        ({"status_filter": 20}, ["nightly-2"]),
        ({"status_filter": ["Running", 10]}, ["hourly-3", "nightly-1"]),
    ],
)
def test_some_of_them(runs: FakeTaskRuns, arguments: dict[str, Any], expected: list[str]) -> None:
    assert names(runs, **arguments) == expected


def test_the_newest_alone(runs: FakeTaskRuns) -> None:
    assert listed(runs, latest_only=True)["name"] == "hourly-3"
    assert listed(runs, latest_only=True, by_dag="none") is None


def test_the_newest_of_a_status_alone(runs: FakeTaskRuns) -> None:
    assert listed(runs, latest_only=True, status_filter=10)["name"] == "nightly-1"
    assert listed(runs, latest_only=True, status_filter=30) is None


def test_a_filter_that_nothing_passes_gives_an_empty_list(runs: FakeTaskRuns) -> None:
    assert names(runs, status_filter=30) == []
    assert names(runs, status_filter=[]) == []


def test_a_run_that_no_watcher_has_seen_is_pending(runs: FakeTaskRuns) -> None:
    runs.asleep = True
    runs.put({"metadata": {"name": "new", "labels": {}}, "spec": {"job": {"id": 9}}})
    assert names(runs, status_filter="Pending") == ["new"]
    assert "new" not in names(runs, status_filter=[1, 2, 3, 10, 20, 30])


def test_what_is_returned_can_be_an_xcom(runs: FakeTaskRuns) -> None:
    row = listed(runs, latest_only=True)
    assert json.loads(json.dumps(row)) == row
    assert (row["phase"], row["run_id"], row["started_at"]) == ("Running", 70_003, "2026-01-03T00:00:00+00:00")


@pytest.mark.parametrize("status_filter", [99, "Done"])
def test_a_status_that_does_not_exist_is_refused(runs: FakeTaskRuns, status_filter: int | str) -> None:
    with pytest.raises(InvalidArgument, match="status_filter"):
        listed(runs, status_filter=status_filter)


def test_a_missing_permission_is_said(runs: FakeTaskRuns) -> None:
    runs.failing = [Forbidden("dbtruns is forbidden")]
    with pytest.raises(DbtRunLostContact, match="dbtruns is forbidden"):
        listed(runs)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("dbt_cloud_conn_id", "dbt_cloud"),
        ("account_id", 1),
        ("order_by", "-id"),
        ("include_related", ["job"]),
        ("hook_params", {"retry_limit": 3}),
    ],
)
def test_an_argument_of_the_provider_without_a_place_is_taken_with_a_warning(
    runs: FakeTaskRuns, argument: str, value: object
) -> None:
    with pytest.warns(FutureWarning, match=f"{argument} has no effect: "):
        assert names(runs, **{argument: value}) == ["hourly-3", "nightly-2", "nightly-1"]
