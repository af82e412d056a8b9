"""How teams share an account: live runs against the limit, equal waits, free slots, a backlog beside a single run.

Control plane, simulator and watcher are processes on this machine, as users have them. One JSON line a row; the exit
code is 1 if a target is missed.

    python -m tests.bench.bench_fair [--objects 1000] [--namespaces 20] [--slots 25]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from dbtrun.api import API_VERSION, PLURAL
from tests.bench.bench_watcher import row
from tests.controlplane import ControlPlane
from tests.stack import Stack, dbt_run, until
from tests.stack.dbt import most_at_once

NAMESPACE: Final = "bench"
BACKLOG: Final = 300
JAIN_TARGET, IDLE_TARGET, DELAY_TARGET = 0.95, 2.0, 1.0
LIMITED: Final = {"connectionRef": {"name": "limited"}}
PLAIN: Final = {"connectionRef": {"name": "plain"}}
PATIENCE_SECONDS: Final = 1_800.0


async def bench(objects: int, namespaces: int, slots: int) -> bool:
    teams = [f"team-{number:02}" for number in range(namespaces)]
    with tempfile.TemporaryDirectory(prefix="bench-fair-") as folder:
        async with ControlPlane.start(Path(folder)) as plane:
            for namespace in (NAMESPACE, *teams):
                plane.create_namespace_sync(namespace)
            values = {"watchNamespaces": [NAMESPACE, *teams]}
            async with Stack.up(plane, NAMESPACE, Path(folder), values=values) as stack:
                limited = stack.secret("limited", stack.keys() | {"max-concurrent-runs": str(slots)})
                for team in teams:
                    await apply(stack, team, limited, stack.secret("plain", stack.keys()))
                shared = await slots_shared(stack, teams, objects, slots)
                return await backlog(stack, *teams[:2]) and shared


async def slots_shared(stack: Stack, teams: list[str], objects: int, slots: int) -> bool:
    """Every team's objects wait for the same slots."""
    each = objects // len(teams)
    for team in teams:
        await apply(stack, team, *(dbt_run(f"run-{number:04}", "parallel", **LIMITED) for number in range(each)))

    async def over() -> bool:
        ended = [await ended_of(stack, team) for team in teams]
        return sum(ended) == each * len(teams)

    await until(over, PATIENCE_SECONDS, "all runs over", pause=5.0)
    runs = await stack.runs()
    waits = defaultdict[str, list[float]](list)
    for team in teams:
        for item in await listed(stack, team):
            claimed, created = item["status"]["startTime"], item["metadata"]["creationTimestamp"]
            waits[team].append((moment(claimed) - moment(created)).total_seconds())
    means = [statistics.fmean(waits[team]) for team in teams]
    jain = sum(means) ** 2 / (len(means) * sum(mean**2 for mean in means))
    idle = free_slots(runs, slots)
    return all([
        row("most_live_runs", most_at_once(runs), slots, objects=len(runs), namespaces=len(teams)),
        row("jains_index_of_waits", jain, JAIN_TARGET, least=True, means=[round(mean) for mean in means]),
        row("free_slot_to_start_max_s", max(idle), IDLE_TARGET, p50=round(statistics.median(idle), 2)),
    ])  # fmt: skip


async def backlog(stack: Stack, busy: str, quiet: str) -> bool:
    """A single run alone, and behind a backlog of another namespace."""
    alone = await started_after(stack, quiet, "alone")
    await apply(stack, busy, *(dbt_run(f"backlog-{number:03}", "success", **PLAIN) for number in range(BACKLOG)))
    beside = await started_after(stack, quiet, "beside")
    waiting = BACKLOG - sum("runId" in item.get("status", {}) for item in await listed(stack, busy, "backlog-"))
    return row("single_start_delayed_by_s", beside - alone, DELAY_TARGET, alone=round(alone, 2), still_waiting=waiting)


async def started_after(stack: Stack, namespace: str, name: str) -> float:
    """Seconds from the creation of an object to its run."""
    began = asyncio.get_running_loop().time()
    await apply(stack, namespace, dbt_run(name, "success", **PLAIN))

    async def started() -> bool:
        path = f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}/{name}"
        found = await stack.plane.read(path)
        return found is not None and "runId" in found.get("status", {})

    await until(started, 120, f"{name} started", pause=0.05)
    return asyncio.get_running_loop().time() - began


async def apply(stack: Stack, namespace: str, *objects: dict[str, Any]) -> None:
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    await stack.plane.kubectl("-n", namespace, "apply", "-f", "-", input=body)


async def listed(stack: Stack, namespace: str, prefix: str = "run-") -> list[dict[str, Any]]:
    found = await stack.plane.read(f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}")
    return [item for item in (found or {}).get("items", []) if item["metadata"]["name"].startswith(prefix)]


async def ended_of(stack: Stack, namespace: str) -> int:
    return sum("completionTime" in item.get("status", {}) for item in await listed(stack, namespace))


def free_slots(runs: list[dict[str, Any]], slots: int) -> list[float]:
    """Seconds from each end to the start that took the slot: the first starts take slots that were never used."""
    starts = sorted(moment(run["created_at"]) for run in runs)
    ends = sorted(moment(run["finished_at"]) for run in runs if run["finished_at"])
    return [(start - end).total_seconds() for end, start in zip(ends, starts[slots:], strict=False)]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000, help="of all namespaces together")
    parser.add_argument("--namespaces", type=int, default=20)
    parser.add_argument("--slots", type=int, default=25, help="max-concurrent-runs of the connection")
    args = parser.parse_args()
    sys.exit(not asyncio.run(bench(args.objects, args.namespaces, args.slots)))


if __name__ == "__main__":
    main()
