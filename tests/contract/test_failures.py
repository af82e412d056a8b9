"""Runs that fail in other steps than a build: what their logs and files say, and what a client makes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dbtrun.api.status import MAX_LOG_TAIL
from tests.causes import CAUSES, jobs
from tests.contract.conftest import simulated
from watcher.dbtcloud import wire
from watcher.dbtcloud.merge import Merge, files_of
from watcher.lifecycle.cause import told_step
from watcher.lifecycle.outcome import outcome_of
from watcher.simulator.testing import ManualTime

FIRST = 501
SCHEMA = {
    "run_results.json": {
        "unique_id", "status", "message", "failures", "execution_time", "thread_id", "timing", "adapter_response",
        "compiled", "compiled_code", "relation_name",
    },
    "sources.json": {
        "unique_id", "status", "max_loaded_at", "snapshotted_at", "max_loaded_at_time_ago_in_s", "criteria",
        "adapter_response", "timing", "thread_id", "execution_time",
    },
}  # fmt: skip
"""The fields that dbt's schemas require (run-results v6, sources v3)."""


@pytest.mark.parametrize("name", CAUSES)
async def test_the_cause_is_in_what_a_client_reads(name: str, time: ManualTime) -> None:
    cloud = simulated(time, jobs=jobs(FIRST))
    run = await cloud.start(FIRST + list(CAUSES).index(name))
    time.move(60)
    body = await cloud.run(run["id"], "run_steps")
    facts = wire.ONE_RUN.decode(wire_bytes(body)).data.facts("http://simulator", steps=True)
    merge = Merge()
    for file in files_of(facts.steps or ()):
        path = f"runs/{run['id']}/artifacts/{file.path}"
        reply = await cloud.client.get(path, params={"step": file.step} if file.step else {})
        if reply.status_code == 200:
            assert all(set(result) == SCHEMA[file.path] for result in reply.json()["results"])
            assert merge.add(wire.REPORT.decode(reply.content))
    outcome = outcome_of(facts, None, merge.results(), told_step(facts))
    assert outcome.phase == CAUSES[name].phase
    assert CAUSES[name].words in outcome.message


@pytest.mark.parametrize(("name", "index"), [("clone", 1), ("profile", 2), ("deps", 3), ("parse", 4)])
async def test_a_run_that_fails_before_any_node_ends_there_and_leaves_no_files(
    name: str, index: int, time: ManualTime
) -> None:
    cloud = simulated(time, jobs=jobs(FIRST))
    run = await cloud.start(FIRST + list(CAUSES).index(name))
    time.move(60)
    steps = (await cloud.run(run["id"], "run_steps"))["run_steps"]
    assert [step["status"] for step in steps] == [10] * (index - 1) + [20] + [30] * (4 - index)
    assert CAUSES[name].words in steps[index - 1]["logs"]
    assert await cloud.data("GET", f"runs/{run['id']}/artifacts/") == []
    assert (await cloud.run(run["id"]))["retry_not_supported_reason"] == "RETRY_NO_RUN_RESULTS"


async def test_each_step_has_its_own_nodes(time: ManualTime) -> None:
    results: list[list[dict[str, Any]]] = [[{"node": "seed.shop.a"}], [{"node": "model.shop.b", "status": "error"}]]
    script = {
        "steps": ["dbt seed", "dbt run", "dbt test"],
        "failing_step": 2,
        "generate_docs": True,
        "results": results,
    }
    cloud = simulated(time, jobs=[{"name": "two", "id": FIRST, "outcomes": ["error", "success"], "run": 1, **script}])
    run = await cloud.start(FIRST)
    time.move(60)
    path = f"runs/{run['id']}/artifacts/run_results.json"
    told = [(await cloud.client.get(path, params={"step": step})).json()["results"] for step in (4, 5)]
    assert [[(node["unique_id"], node["status"]) for node in nodes] for nodes in told] == [
        [("seed.shop.a", "success")],
        [("model.shop.b", "error")],
    ]
    again = await cloud.start(FIRST)
    time.move(60)
    docs = await cloud.client.get(f"runs/{again['id']}/artifacts/run_results.json")
    assert docs.json()["args"]["which"] == "generate"


async def test_a_log_can_be_given(time: ManualTime) -> None:
    cloud = simulated(time, jobs=[{"name": "own", "id": FIRST, "outcomes": ["error"], "log": "own words\n" * 9_000}])
    run = await cloud.start(FIRST)
    time.move(60)
    steps = wire.ONE_RUN.decode(wire_bytes(await cloud.run(run["id"], "run_steps"))).data.facts("x", steps=True).steps
    assert steps is not None
    assert "own words" in steps[-1].log
    assert len(steps[-1].log) <= MAX_LOG_TAIL


def wire_bytes(run: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"status": {"code": 200}, "data": run})
