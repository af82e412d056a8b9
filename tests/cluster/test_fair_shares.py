"""Teams that share one dbt Cloud account: a limit of live runs, turns between namespaces, priorities within one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from dbtrun.api import API_VERSION, PLURAL
from tests.controlplane import ControlPlane
from tests.stack import JOBS, Stack, dbt_run, until
from tests.stack.dbt import SCENARIO, most_at_once
from watcher.dbtcloud.starts import STARTS_AT_ONCE

LIMIT: Final = 3
BACKLOG: Final = 80
OURS, THEIRS = 101, 102
"""Projects."""
LIMITED: Final = {"connectionRef": {"name": "limited"}}


@pytest.fixture
async def stack(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    """A watcher that serves two namespaces, whose connections limit the live runs of the account."""
    other = f"{namespace}-b"
    await asyncio.to_thread(plane.create_namespace_sync, other)
    values = {"watchNamespaces": [namespace, other]}
    settings = {"DBTRUN_REQUEST_SECONDS": "15"}
    async with Stack.up(plane, namespace, tmp_path, values=values, settings=settings) as stack:
        secret = stack.secret("limited", stack.keys() | {"max-concurrent-runs": str(LIMIT)})
        await stack.apply(secret)
        await apply_elsewhere(stack, secret)
        yield stack
    await asyncio.to_thread(plane.delete_namespace_sync, other)


async def apply_elsewhere(stack: Stack, *objects: dict[str, Any]) -> None:
    """Applies the objects in the other namespace."""
    await stack.apply(*objects, namespace=f"{stack.namespace}-b")


async def everything(stack: Stack) -> dict[str, dict[str, Any]]:
    """The status of every DbtRun of both namespaces, by name."""
    listed = [
        await stack.plane.read(f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}")
        for namespace in (stack.namespace, f"{stack.namespace}-b")
    ]
    return {item["metadata"]["name"]: item.get("status", {}) for found in listed if found for item in found["items"]}


async def test_a_connection_never_has_more_live_runs_than_it_allows(stack: Stack) -> None:
    """Runs that somebody started in dbt Cloud take all slots, until everything is in the line; one goes on."""
    strangers = [(await stack.ask("POST", "/runs", {"job_id": JOBS["endless"]}))["id"] for _ in range(LIMIT)]
    names = [f"a{number:02}" for number in range(9)]
    await stack.apply(*(dbt_run(name, "parallel", **LIMITED) for name in names))
    await stack.apply(dbt_run("urgent", "parallel", **LIMITED, priority=10))
    await apply_elsewhere(stack, dbt_run("b", "parallel", **LIMITED))

    async def all_wait() -> bool:
        reasons = [status.get("reason") for status in (await everything(stack)).values()]
        return reasons == ["WaitingForSlot"] * (len(names) + 2)

    await until(all_wait, 120, "every object in the line", pause=0.2)
    for run in strangers[1:]:
        await stack.ask("POST", f"/runs/{run}/finish", {"status": 10})

    async def over() -> bool:
        return all(status.get("phase") == "Succeeded" for status in (await everything(stack)).values())

    await until(over, 240, "all of them over", pause=0.5)
    statuses = await everything(stack)
    started = sorted(statuses, key=lambda name: statuses[name]["runId"])
    runs = await stack.runs()
    assert len(runs) == len(names) + 2 + LIMIT
    assert most_at_once(runs) == LIMIT
    assert next(name for name in started if name != "b") == "urgent", f"{started}: before the backlog of its namespace"
    assert started.index("b") < 3, f"{started}: not behind the other namespace's backlog"
    assert [run["id"] for run in runs if not run["finished_at"]] == strangers[:1]


async def test_a_run_of_another_namespace_is_followed_and_neither_cancelled_nor_copied(stack: Stack) -> None:
    await stack.apply(dbt_run("victim", "endless", **LIMITED))
    run_id = (await stack.reaches("victim", "Running"))["runId"]
    intruder = dbt_run("intruder", None, runId=run_id, cancel=True, artifacts=["manifest.json"], **LIMITED)
    reuser = dbt_run("reuser", "endless", reuse="Running", **LIMITED)
    await apply_elsewhere(stack, intruder, reuser)

    async def refused() -> bool:
        statuses = await everything(stack)
        own = statuses.get("reuser", {}).get("runId")
        return own not in (None, run_id) and "another namespace" in statuses.get("intruder", {}).get("message", "")

    await until(refused, 120, "the cancel refused, and a run of its own for the one that would reuse", pause=0.2)
    assert (await stack.status("victim"))["phase"] == "Running"
    await stack.delete("victim")
    await stack.gone("victim")

    async def ended() -> bool:
        return (await everything(stack))["intruder"].get("phase") == "Cancelled"

    await until(ended, 120, "the intruder ended as its run did", pause=0.2)


async def test_a_backlog_of_one_namespace_does_not_hold_up_another(stack: Stack) -> None:
    """Starts that hang hold all places, until the watcher gives them up; the single object has the next turn."""
    await stack.ask("POST", "/faults", {"kinds": ["start"], "path": "jobs/105/", "effect": {"type": "hang"}})
    await stack.apply(*(dbt_run(f"a{number:03}", "parallel") for number in range(BACKLOG)))

    async def claims() -> dict[str, datetime]:
        found = {
            name: status.get("attempts", [{}])[0].get("claimTime") for name, status in (await everything(stack)).items()
        }
        return {name: datetime.fromisoformat(time) for name, time in found.items() if time}

    async def all_places_are_taken() -> bool:
        return len(await claims()) >= STARTS_AT_ONCE

    await until(all_places_are_taken, 120, "all places are taken", pause=0.2)
    single = dbt_run("single", "success", connectionRef={"name": "plain"})
    await apply_elsewhere(stack, stack.secret("plain", stack.keys()), single)

    async def claimed() -> bool:
        return "single" in await claims()

    await until(claimed, 240, "the single object is claimed", pause=0.2)
    times = await claims()
    before = sum(time < times["single"] for time in times.values())
    assert before < BACKLOG / 2, f"{before} of {BACKLOG} were claimed before it"


async def test_a_namespace_starts_resumes_and_follows_nothing_outside_its_projects(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    projects = [{"name": "Analytics", "id": OURS}, {"name": "Finance", "id": THEIRS}]
    finance = [
        {"id": 201, "name": "finance", "project": "Finance", "queue": 0.1, "start": 0.1, "run": None},
        {"id": 202, "name": "broken finance", "project": "Finance", "run": 0.1, "outcomes": ["error"]},
    ]
    jobs = [job | {"project": "Analytics"} for job in SCENARIO["jobs"]] + finance
    scenario = {**SCENARIO, "projects": projects, "jobs": jobs}
    values = {"connection": {"projects": {namespace: [OURS]}}}
    async with Stack.up(plane, namespace, tmp_path, scenario=scenario, values=values) as stack:
        live = (await stack.ask("POST", "/runs", {"job_id": 201}))["id"]
        failed = (await stack.ask("POST", "/runs", {"job_id": 202}))["id"]
        await stack.ask("POST", f"/runs/{failed}/finish", {"status": 20})
        refused = {
            "starts": dbt_run("starts", "endless") | {"spec": {"job": {"id": 201}}},
            "names": dbt_run("names", "endless")
            | {"spec": {"job": {"name": "finance", "project": "Finance", "environment": "Production"}}},
            "resumes": dbt_run("resumes", "endless", retryOf=failed),
            "follows": dbt_run("follows", "endless") | {"spec": {"runId": live, "cancel": True}},
        }
        own = {"spec": {"job": {"id": 201}, "connectionRef": {"name": "own"}}}
        await stack.apply(stack.secret("own", stack.keys()), dbt_run("own", "endless") | own)
        await stack.apply(dbt_run("ours", "endless"), *refused.values())
        for name in refused:
            status = await stack.reaches(name, "Error", reason="ProjectNotAllowed")
            assert f"may not use project {THEIRS} with the default connection" in status["message"]
        await stack.reaches("ours", "Queued", "Running")
        await stack.reaches("own", "Queued", "Running")
        runs = await stack.runs()
        assert sorted(run["job_id"] for run in runs) == [JOBS["endless"], 201, 201, 202]
        assert [run["finished_at"] for run in runs if run["id"] == live] == [None]
