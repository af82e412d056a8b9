"""Kills of the watcher while every attack goes on: no run of the healthy tenant starts twice, and none is lost.

Five beside all attacks in `make hostile`; in `make test` one, beside half of those of two levels.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.controlplane import ControlPlane
from tests.hostile.attacks import CHOSEN, Level
from tests.hostile.tenants import Seen, assert_traced, attacking, met, runs_of, sharing
from tests.stack import Stack, dbt_run, until
from watcher.lifecycle.marker import marker

KILLS: Final = int(os.environ.get("LIVES", "1"))
LEVELS: Final = tuple(Level) if "LIVES" in os.environ else (Level.HTTP, Level.MEANING)
OF_THEM: Final = [name for name, attack in CHOSEN.items() if attack.level in LEVELS]
PAUSE: Final = 0.4
"""Seconds between two objects of the healthy tenant: a kill meets them at different steps."""
LIFE: Final = 240.0
"""Seconds for the watcher to take over and to meet every attacker, on any machine."""
ENDS: Final = {"success": "Succeeded", "failure": "Failed", "endless": "Cancelled"}
"""What becomes of a run of each job; one that does not end is cancelled."""
STATUSES: Final = {"Succeeded": 10, "Failed": 20, "Cancelled": 30}
"""dbt Cloud's codes."""


@pytest.mark.timeout(1_800)
async def test_a_watcher_that_is_killed_beside_every_attack_starts_nothing_twice_and_loses_nothing(
    plane: ControlPlane, tmp_path: Path
) -> None:
    async with sharing(plane, "killed", tmp_path) as stack, Seen.watching(stack) as seen:
        wanted: dict[str, str] = {}
        async with attacking(stack, *LEVELS):
            before = dict.fromkeys(OF_THEM, 0)
            for life in range(KILLS):
                await every_attacker_is_met(stack, before)
                print(f"life {life}: every attacker was met")
                wanted |= await create(stack, life)
                await stack.watcher.kill()
                before = met(stack, LEVELS)
                stack.watcher.start()
            await every_attacker_is_met(stack, before)
            for name, job in wanted.items():
                if job == "endless":
                    await stack.reaches(name, "Running", seconds=LIFE)
                    await stack.patch(name, {"cancel": True})
            await seen.all_final(wanted, LIFE)
        phases = {name: seen.status[name]["phase"] for name in wanted}
        assert phases == {name: ENDS[job] for name, job in wanted.items()}
        assert stack.watcher.running
        await assert_started_once(stack, seen, wanted)
        assert_traced(stack.watcher.text())


async def create(stack: Stack, life: int) -> dict[str, str]:
    """Some objects of the healthy tenant, one after another: the job of each, by name."""
    created = {f"life-{life}-{job}-{number}": job for number in range(2) for job in ENDS}
    for name, job in created.items():
        await stack.plane.change("POST", runs_of(stack.namespace), dbt_run(name, job))
        await asyncio.sleep(PAUSE)
    return created


async def every_attacker_is_met(stack: Stack, before: dict[str, int]) -> None:
    async def all_met() -> bool:
        counts = met(stack, LEVELS)
        return all(counts[name] > before[name] for name in OF_THEM)

    await until(all_met, LIFE, "the watcher meets every attacker", pause=1.0)


async def assert_started_once(stack: Stack, seen: Seen, wanted: dict[str, str]) -> None:
    """dbt Cloud started one run for each object, it is the one that the status names, and it ended so."""
    starts = Counter(entry["cause"].split(" ")[0] for entry in await stack.journal() if entry["action"] == "start")
    uids = {name: (await stack.get(name))["metadata"]["uid"] for name in wanted}
    assert starts == Counter(marker(uid, 1) for uid in uids.values())
    runs = {run["id"]: run for run in await stack.runs()}
    for name, uid in uids.items():
        status = seen.status[name]
        run = runs[status["runId"]]
        assert run["cause"].startswith(marker(uid, 1))
        assert run["status"] == STATUSES[status["phase"]]
    print(json.dumps({"objects": len(wanted), "kills": KILLS, "attacks": len(OF_THEM)}))
