"""While dbt Cloud lets every start hang, everything else goes on: polls, cancels, deletions, other accounts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.controlplane import ControlPlane
from tests.stack import Own, Stack, until
from tests.stack.dbt import ACCOUNT
from tests.stack.site import dbt_run
from watcher.dbtcloud.starts import STARTS_AT_ONCE

STARTING: Final = 60
"""More than there are connections."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, "slow-starts")
    async with Stack.up(plane, "slow-starts", tmp_path_factory.mktemp("slow")) as stack:
        for name in ("polled", "cancelled"):
            await stack.apply(dbt_run(name, "endless"))
            await stack.reaches(name, "Running")
        await stack.ask("POST", "/faults", {"kinds": ["start"], "effect": {"type": "hang"}})
        await stack.apply(*(dbt_run(f"starting-{number}", "parallel") for number in range(STARTING)))

        async def hanging() -> bool:
            phases = [item["status"].get("phase") for item in await listed(stack)]
            return phases.count("Submitting") >= STARTS_AT_ONCE

        await until(hanging, 60, "starts hang")
        yield stack


async def listed(stack: Stack) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await stack.json("get", "dr"))["items"]
    return [{"status": {}} | item for item in items]


async def test_runs_are_followed_on(stack: Stack) -> None:
    (polled,) = [run for run in await stack.runs("endless") if run["id"] == (await stack.status("polled"))["runId"]]
    began = time.monotonic()
    await stack.ask("POST", f"/runs/{polled['id']}/finish", {"status": 10})
    await stack.reaches("polled", "Succeeded", seconds=20)
    print(f"an end was seen after {time.monotonic() - began:.1f} s")


async def test_a_run_is_cancelled(stack: Stack) -> None:
    await stack.patch("cancelled", {"cancel": True})
    await stack.reaches("cancelled", "Cancelled", seconds=20)


async def test_an_object_that_waits_for_its_start_is_deleted_at_once(stack: Stack) -> None:
    items = await listed(stack)
    name = next(item["metadata"]["name"] for item in items if item["status"].get("phase") in (None, "Pending"))
    await stack.kubectl("delete", "dr", name, "--timeout=15s")


async def test_few_claims_are_made_that_nobody_can_send(stack: Stack) -> None:
    claimed = [item for item in await listed(stack) if item["status"].get("reason") == "Claimed"]
    assert 0 < len(claimed) <= STARTS_AT_ONCE


async def test_another_account_is_served(stack: Stack, tmp_path: Path) -> None:
    other = Own(stack, "other")
    keys = {"token": stack.token, "account-id": str(ACCOUNT), "host": stack.url.replace("127.0.0.1", "localhost")}
    await stack.ask("DELETE", "/faults")
    await stack.ask("POST", "/faults", {"kinds": ["start"], "path": "jobs/105/", "effect": {"type": "hang"}})
    await other.apply_with([stack.secret("other", keys)], "success", connectionRef={"name": "other"})
    await other.reaches("Succeeded", seconds=30)


async def test_no_object_waits_any_longer_once_starts_are_answered(stack: Stack) -> None:
    await stack.ask("DELETE", "/faults")

    async def under_way() -> bool:
        phases = [item["status"].get("phase") for item in await listed(stack)]
        return phases.count("Pending") == 0

    await until(under_way, 90, "no object waits any longer")
    causes = [run["cause"] for run in await stack.runs("parallel")]
    assert len(causes) == len(set(causes))
