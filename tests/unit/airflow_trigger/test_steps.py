"""The steps of a live run in the log of a task that asks for them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from airflow_trigger.task import steps
from airflow_trigger.task.steps import LOOK_SECONDS, LOOKS_PER_SECOND, StepNews, tell_steps
from dbtrun.api import WATCHED_ANNOTATION
from dbtrun.kube.errors import Forbidden, Unreachable
from tests.unit.airflow_trigger.tasks import FakeTaskRuns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.looptime

CLONE = {"index": 1, "name": "Clone git repository", "status": "Success"}


def step(index: int, status: str = "Running", name: str = "dbt build") -> dict[str, Any]:
    return {"index": index, "name": name, "status": status}


@pytest.fixture
def cluster() -> FakeTaskRuns:
    cluster = FakeTaskRuns()
    cluster.put({"metadata": {"name": "nightly", "labels": {}}, "spec": {"job": {"id": 1}}})
    return cluster


@asynccontextmanager
async def telling(cluster: FakeTaskRuns) -> AsyncIterator[list[str]]:
    said: list[str] = []
    task = asyncio.create_task(tell_steps(cluster, "nightly", said.append))
    await asyncio.sleep(0.1)
    try:
        yield said
        assert not task.done(), "whatever happens, it goes on until it is cancelled"
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_each_change_of_a_step_is_told_once(cluster: FakeTaskRuns) -> None:
    cluster.says("nightly", steps=[CLONE, step(2)])
    async with telling(cluster) as said:
        assert said == ["Step 1: Clone git repository: Success", "Step 2: dbt build: Running"]
        await asyncio.sleep(10 * LOOK_SECONDS)
        assert len(said) == 2
        cluster.says("nightly", steps=[CLONE, step(2, "Success"), step(3, name="dbt test")])
        await asyncio.sleep(LOOK_SECONDS)
        assert said[2:] == ["Step 2: dbt build: Success", "Step 3: dbt test: Running"]


async def test_the_next_attempt_is_told_from_its_beginning(cluster: FakeTaskRuns) -> None:
    news = StepNews()
    cluster.says("nightly", steps=[CLONE])
    assert len(list(news.of(await cluster.get("nightly")))) == 1
    assert len(list(news.of(await cluster.get("nightly")))) == 0
    cluster.says("nightly", runId=80_000)
    assert len(list(news.of(await cluster.get("nightly")))) == 1


async def test_a_steps_name_is_one_line_of_plain_text(cluster: FakeTaskRuns) -> None:
    cluster.says("nightly", steps=[step(1, name="dbt\nbuild\x1b[31m" + "x" * 1_000)])
    (line,) = StepNews().of(await cluster.get("nightly"))
    assert line.startswith("Step 1: dbt build")
    assert line.isprintable()
    assert len(line) < 300


async def test_the_watcher_is_asked_for_fresh_steps_of_a_running_run_alone(cluster: FakeTaskRuns) -> None:
    cluster.says("nightly", phase="Submitting")
    async with telling(cluster):
        await asyncio.sleep(3 * LOOK_SECONDS)
        assert "patch" not in cluster.calls
        cluster.says("nightly", phase="Running")
        await asyncio.sleep(3 * LOOK_SECONDS)
        assert cluster.calls.count("patch") == 1
        assert WATCHED_ANNOTATION in cluster.objects["nightly"]["metadata"]["annotations"]
        cluster.ends("nightly")
        await asyncio.sleep(100 * LOOK_SECONDS)
        assert cluster.calls.count("patch") == 1


async def test_without_the_right_to_patch_what_the_status_has_is_told(cluster: FakeTaskRuns) -> None:
    def refuse(verb: str) -> None:
        if verb == "patch":
            raise Forbidden("not for you")

    cluster.before = refuse
    cluster.says("nightly", steps=[CLONE])
    async with telling(cluster) as said:
        await asyncio.sleep(3 * LOOK_SECONDS)
        cluster.says("nightly", steps=[CLONE, step(2)])
        await asyncio.sleep(LOOK_SECONDS)
        assert len(said) == 2
        assert cluster.calls.count("patch") == 1


async def test_an_api_server_that_is_away_is_asked_again(cluster: FakeTaskRuns) -> None:
    cluster.failing = [Unreachable("away"), Unreachable("away")]
    cluster.says("nightly", steps=[CLONE])
    async with telling(cluster) as said:
        assert said == []
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert len(said) == 1


async def test_many_that_read_along_look_more_seldom(cluster: FakeTaskRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    many = 1_000
    monkeypatch.setattr(steps, "_telling", set(range(many)))
    async with telling(cluster):
        before = cluster.calls.count("get")
        await asyncio.sleep(3 * many / LOOKS_PER_SECOND)
        assert cluster.calls.count("get") - before <= 3


async def test_whoever_stops_reading_no_longer_counts(cluster: FakeTaskRuns) -> None:
    async with telling(cluster):
        assert len(steps._telling) == 1
    assert not steps._telling
