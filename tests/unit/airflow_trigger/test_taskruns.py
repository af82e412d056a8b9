"""The DbtRuns of a task, as an API server answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from airflow_trigger.task.run import TaskRun
from airflow_trigger.task.runs import QUIET_SECONDS, submitted, task_runs
from dbtrun.kube.cluster import Cluster
from dbtrun.kube.errors import Unreachable, Unreadable
from dbtrun.kube.runs import DbtRuns
from tests.unit.airflow_trigger.tasks import FakeTaskRuns

if TYPE_CHECKING:
    from collections.abc import Mapping


def dbtrun(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": {}}


class Pages:
    """An API server that gives a list page by page."""

    def __init__(self, *pages: bytes) -> None:
        self._pages = pages
        self.queries: list[dict[str, str]] = []

    async def request(self, method: str, path: str, *, query: Mapping[str, str] | None = None, **_: object) -> bytes:
        self.queries.append(dict(query or {}))
        return self._pages[len(self.queries) - 1]


def page(*names: str, more: str = "") -> bytes:
    return json.dumps({"items": [dbtrun(name) for name in names], "metadata": {"continue": more}}).encode()


def runs(server: Pages) -> DbtRuns[TaskRun]:
    return task_runs(cast("Cluster", server), "team")


async def test_a_list_of_several_pages_is_whole() -> None:
    server = Pages(page("a", "b", more="after-b"), page("c"))
    assert [run.name for run in await runs(server).list("app=x")] == ["a", "b", "c"]
    assert [query.get("continue") for query in server.queries] == [None, "after-b"]
    assert {query["labelSelector"] for query in server.queries} == {"app=x"}


async def test_an_answer_that_is_no_json_may_come_from_something_in_between() -> None:
    with pytest.raises(Unreachable, match="not one of a Kubernetes API"):
        await runs(Pages(b"<html>")).list()


async def test_an_object_of_another_shape_is_said_to_be_unreadable() -> None:
    with pytest.raises(Unreadable, match="is the chart's CRD of another version"):
        await runs(Pages(b'{"apiVersion": "dbtrun.dev/v9", "kind": "DbtRun", "metadata": {"name": 5}}')).get("a")


async def test_each_write_asks_for_strict_validation() -> None:
    """Else an older CRD would drop a field that it does not know, and a run would start without it."""
    answer = json.dumps(dbtrun("a")).encode()
    server = Pages(answer, answer)
    await runs(server).create(dbtrun("a"))
    await runs(server).patch("a", {"spec": {"cancel": True}})
    assert server.queries == [{"fieldValidation": "Strict"}] * 2


@pytest.mark.looptime
async def test_a_start_that_does_not_come_is_told_and_one_that_does_is_not() -> None:
    cluster, told = FakeTaskRuns(), list[str]()
    cluster.asleep = True
    cluster.put({"metadata": {"name": "slow", "labels": {}}, "spec": {"job": {"id": 1}}})
    cluster.says("slow", phase="Pending", reason="Unauthorized")

    def waits(run: TaskRun) -> None:
        told.append(run.status.reason)

    await submitted(cluster, await cluster.get("slow"), 3 * QUIET_SECONDS, waits)
    assert set(told) == {"Unauthorized"}
    told.clear()
    cluster.starts("slow")
    await submitted(cluster, await cluster.get("slow"), 3 * QUIET_SECONDS, waits)
    assert told == []
