"""The metrics of a real watcher: what the reference promises is served, and says what has happened."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.controlplane import ControlPlane
from tests.stack import JOBS, Own, Stack, until
from tests.stack.scrape import scrape

REFERENCE = Path(__file__).parents[2] / "docs/reference.md"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, "metrics")
    async with Stack.up(plane, "metrics", tmp_path_factory.mktemp("metrics")) as stack:
        yield stack


async def shows(stack: Stack, name: str, value: float, **labels: str) -> None:
    async def shown() -> bool:
        return (await scrape(stack.watcher)).value(name, labels) == value

    await until(shown, 60, f"{name}{labels} is {value}")


async def test_the_process_serves_what_the_reference_lists(stack: Stack) -> None:
    own = Own(stack, "first")
    await own.apply("success")
    await own.reaches("Succeeded")
    await shows(stack, "dbtrun_job_finished_total", 1, job_id=str(JOBS["success"]), phase="Succeeded")
    listed = re.findall(r"^\| `(dbtrun_\w+|process_\w+)` \|", REFERENCE.read_text(), re.MULTILINE)
    served = (await scrape(stack.watcher)).names
    assert [name for name in listed if name not in served] == []
    assert [name for name in served if name not in listed] == []


async def test_objects_are_counted_where_they_are(stack: Stack) -> None:
    own = Own(stack, "counted")
    await own.apply("endless")
    await own.reaches("Running")
    job = {"namespace": stack.namespace, "job_id": str(JOBS["endless"])}
    place = {"namespace": stack.namespace, "phase": "Running", "reason": "RunStarted"}
    await shows(stack, "dbtrun_objects_by_phase", 1, **place)
    told = await scrape(stack.watcher)
    assert told.value("dbtrun_leader") == 1
    assert (told.value("dbtrun_job_running_seconds", job) or 0) > 0
    assert (told.value("dbtrun_oldest_in_phase_seconds", place) or 0) > 0
    assert told.value("dbtrun_job_expected_seconds", job) is None, "it has never succeeded"
    await own.finish(20)
    await own.reaches("Failed")
    await shows(stack, "dbtrun_job_failures_in_a_row", 1, **job)
    await shows(stack, "dbtrun_objects_by_phase", 1, **{**place, "phase": "Failed", "reason": "RunFailed"})
    assert (await scrape(stack.watcher)).value("dbtrun_objects_by_phase", place) is None


async def test_requests_are_counted_by_kind_and_budgets_by_account(stack: Stack) -> None:
    own = Own(stack, "requests")
    await own.apply("success")
    await own.reaches("Succeeded")
    told = await scrape(stack.watcher)
    for kind in ("start", "list_runs"):
        outcome = {"kind": kind, "outcome": "success"}
        assert (told.value("dbtrun_dbt_cloud_request_duration_seconds_count", outcome) or 0) >= 1
    for purpose in ("submit", "poll"):
        assert (told.value("dbtrun_dbt_cloud_requests_total", {"purpose": purpose}) or 0) >= 1
    account = {"account": stack.keys()["account-id"], "host": stack.keys()["host"].removeprefix("http://")}
    assert (told.value("dbtrun_account_requests_total", account) or 0) >= 2
    assert told.value("dbtrun_account_requests_per_minute_limit", account) == 1500


def job(run: float | None) -> dict[str, Any]:
    return {"id": 601, "name": "estimated", "queue": 0.1, "start": 0.1, "run": run, "parallel": True}


async def test_the_end_of_a_run_is_estimated_from_the_runs_before(stack: Stack) -> None:
    await stack.ask("PUT", "/jobs/601", job(3.0))
    for number in (1, 2):
        own = Own(stack, f"history-{number}")
        await own.apply(None, job={"id": 601})
        assert "estimatedCompletionTime" not in await own.reaches("Running"), "too little is known"
        await own.reaches("Succeeded")
    await stack.ask("PUT", "/jobs/601", job(None))
    # What has ended is known to the next watcher as well, as far as its objects are still there.
    await stack.watcher.stop()
    stack.watcher.start()
    own = Own(stack, "estimated")
    await own.apply(None, job={"id": 601})

    async def estimated() -> dict[str, Any] | None:
        status = await own.status()
        return status if "estimatedCompletionTime" in status else None

    status = await until(estimated, 60, "an estimate")
    begun, end = (datetime.fromisoformat(status[name]) for name in ("startedAt", "estimatedCompletionTime"))
    assert 2 <= (end - begun).total_seconds() <= 5
    told = await scrape(stack.watcher)
    assert 2 <= (told.value("dbtrun_job_expected_seconds", {"job_id": "601"}) or 0) <= 5
    await own.finish(10)
    assert "estimatedCompletionTime" not in await own.reaches("Succeeded")
