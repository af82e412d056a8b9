"""A tenant names another tenant's account, with a token that dbt Cloud refuses, in hundreds of objects."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Final

import pytest

from tests.controlplane import ControlPlane
from tests.hostile.tenants import SETTLED, Seen, attackers_of, runs_of, sharing, times
from tests.patience import patience
from tests.stack import Stack, dbt_run, until
from watcher.dbtcloud.budget import UNPROVEN

OBJECTS: Final = 200
AT_ONCE: Final = 20
RUNS: Final = 15
PAUSE: Final = 0.4
FLOOR: Final = 0.5
"""Seconds that a start or an end may take longer besides: the steps of two runs may meet."""


@pytest.mark.timeout(1_800)
async def test_a_refused_token_in_hundreds_of_objects_costs_its_account_nothing(
    plane: ControlPlane, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "alone").mkdir()
    async with (
        sharing(plane, "victim", tmp_path / "shared") as stack,
        sharing(plane, "bystander", tmp_path / "alone") as other,
        Seen.watching(stack) as seen,
        Seen.watching(other) as control,
    ):
        began = time.monotonic()
        claiming = asyncio.create_task(claim_the_account(stack))
        beside, alone = await asyncio.gather(
            times(stack, seen, "beside", RUNS, PAUSE), times(other, control, "alone", RUNS, PAUSE)
        )
        await claiming
        await all_refused(stack)
        more = await asyncio.gather(
            times(stack, seen, "later", RUNS, PAUSE), times(other, control, "later", RUNS, PAUSE)
        )
        beside, alone = beside + more[0], alone + more[1]
        told = {
            "start_p95": [round(alone.p95[0], 2), round(beside.p95[0], 2)],
            "end_p95": [round(alone.p95[1], 2), round(beside.p95[1], 2)],
            "refused_requests": (await stack.ask("GET", "/requests"))["statuses"].get("401", 0),
        }
        print(json.dumps(told))
        for theirs, mine in zip(alone.p95, beside.p95, strict=True):
            assert mine <= 2 * theirs + patience(FLOOR), told
        minutes = (time.monotonic() - began) / 60
        small = UNPROVEN[1] + UNPROVEN[0] * minutes
        assert told["refused_requests"] <= small, told


async def claim_the_account(stack: Stack) -> None:
    """A Secret of the attackers' namespace with the victim's host and account, and many objects that use it."""
    namespace = attackers_of(stack.namespace)
    secret = stack.secret("stolen", stack.keys(token="dbtc_refused"))
    await stack.plane.change("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    few = asyncio.Semaphore(AT_ONCE)
    job = {"name": "daily build", "project": "Analytics", "environment": "Production"}

    async def create(number: int) -> None:
        async with few:
            run = dbt_run(f"thief-{number}", None, job=job, connectionRef={"name": "stolen"})
            await stack.plane.change("POST", runs_of(namespace), run)

    await asyncio.gather(*map(create, range(OBJECTS)))


async def all_refused(stack: Stack) -> None:
    async def told() -> bool:
        listed = await stack.plane.read(runs_of(attackers_of(stack.namespace)))
        assert listed is not None
        reasons = [
            condition["reason"]
            for run in listed["items"]
            for condition in run["status"].get("conditions", [])
            if condition["type"] == "Reachable"
        ]
        return reasons.count("Unauthorized") == OBJECTS

    await until(told, SETTLED, "every object says that its token is refused", pause=1.0)
