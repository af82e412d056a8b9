"""What it takes to show the runs that others start: a watcher with mirrors, a real API server, a simulated dbt Cloud.

A day's runs end within minutes, and the history limits delete nearly all of their DbtRuns again. One JSON line a row;
the exit code is 1 if a target is missed. `bench_mirror_day` has a day of 100,000 runs, with a model of the API server.

    python -m tests.bench.bench_mirrors [--finishes 10000] [--rate 50]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import psutil

from tests.bench.bench_watcher import row
from tests.controlplane import ControlPlane
from tests.stack import Stack, until
from tests.stack.mirrors import mirror, ready
from tests.stack.stack import page

NAMESPACE: Final = "bench-mirrors"
MIRRORS: Final = 4
"""Each creates 1,000 DbtRuns a minute at most."""
JOBS_OF_EACH: Final = 5
LIMIT: Final = 10
"""DbtRuns that are kept for each job."""
SLACK: Final = 1_000 * MIRRORS * 2
"""DbtRuns beyond the limits: as many as may be created between two saves of the cursors."""
MEMORY_TARGET: Final = 300.0
"""MB."""
WRITES_TARGET: Final = 2.05
"""For a run: its DbtRun and its status. A mirror writes its own status every two minutes."""
SETTLE_SECONDS: Final = 600.0
SCENARIO: Final[dict[str, Any]] = {
    "account": {"id": 70403103922125},
    "projects": [{"name": "Analytics", "environments": [{"name": "Production"}]}],
    "jobs": [
        {"id": 1_000 + number, "name": f"job {number}", "queue": 0.0, "start": 0.0, "run": 0.1, "parallel": True}
        for number in range(MIRRORS * JOBS_OF_EACH)
    ],
}
WRITES: Final = re.compile(
    r'apiserver_request_total{code="2\d\d",.*?resource="(dbtruns|dbtrunmirrors)".*?verb="(POST|PATCH|DELETE)".*?} (\S+)'
)


class Bench:
    """A stack with mirrors, and people elsewhere who start runs."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.most = self.memory = 0

    async def mirrors(self) -> None:
        jobs = [job["id"] for job in SCENARIO["jobs"]]
        for number in range(MIRRORS):
            chosen = jobs[number * JOBS_OF_EACH : (number + 1) * JOBS_OF_EACH]
            limits = {"succeeded": LIMIT, "failed": LIMIT}
            spec: dict[str, Any] = {"select": {"jobIds": chosen}, "historyLimit": limits, "maxPerMinute": 1_000}
            await self.stack.apply(mirror(f"m{number}", **spec))
        for number in range(MIRRORS):
            await ready(self.stack, f"m{number}")

    async def finishes(self, count: int, rate: float) -> float:
        """Runs start at this rate and end at once. The rate that was reached."""
        begin, running = time.monotonic(), asyncio.Semaphore(16)

        async def start(number: int) -> None:
            await asyncio.sleep(begin + number / rate - time.monotonic())
            async with running:
                await self.stack.ask("POST", "/runs", {"job_id": 1_000 + number % len(SCENARIO["jobs"])})

        await asyncio.gather(*(start(number) for number in range(count)))
        return count / (time.monotonic() - begin)

    async def watch(self) -> None:
        """Samples the memory of the watcher and the number of objects."""
        watcher = psutil.Process(self.stack.watcher.pid)
        while True:
            self.memory = max(self.memory, watcher.memory_info().rss)
            self.most = max(self.most, await self.objects())
            await asyncio.sleep(1)

    async def objects(self) -> int:
        path = f"/apis/dbtrun.dev/v1alpha1/namespaces/{self.stack.namespace}/dbtruns?limit=1"
        listed = await self.stack.plane.read(path)
        assert listed is not None
        return len(listed["items"]) + int(listed["metadata"].get("remainingItemCount", 0))

    async def dealt_with(self) -> Counter[str]:
        """What became of the runs, by the watcher's metrics."""
        told = (await page(self.stack.watcher, "/metrics")).text
        found = re.findall(r'dbtrun_mirror_runs_total{outcome="(\w+)"} (\S+)', told)
        return Counter({name: int(float(count)) for name, count in found})

    async def writes(self) -> Counter[tuple[str, str]]:
        """The API server's own count of writes that it has carried out."""
        told = await self.stack.plane.kubectl("get", "--raw", "/metrics")
        counted: Counter[tuple[str, str]] = Counter()
        for resource, verb, count in WRITES.findall(told.stdout):
            counted[resource, verb] += int(float(count))
        return counted


async def bench(finishes: int, rate: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="bench-mirrors-") as folder:
        async with ControlPlane.start(Path(folder)) as plane:
            plane.create_namespace_sync(NAMESPACE)
            settings = {"DBTRUN_LEADER_ELECTION": "false", "DBTRUN_LOG_LEVEL": "info"}
            async with Stack.up(plane, NAMESPACE, Path(folder), scenario=SCENARIO, settings=settings) as stack:
                return await measured(Bench(stack), finishes, rate)


async def measured(own: Bench, finishes: int, rate: float) -> bool:
    await own.mirrors()
    before = await own.writes()
    watching = asyncio.create_task(own.watch())
    reached = await own.finishes(finishes, rate)

    async def shown() -> bool:
        return (await own.dealt_with())["created"] >= finishes

    kept = len(SCENARIO["jobs"]) * LIMIT

    async def pruned() -> bool:
        return await own.objects() <= kept

    await until(shown, SETTLE_SECONDS, f"{finishes} runs shown", pause=1)
    await until(pruned, SETTLE_SECONDS, f"all but {kept} DbtRuns pruned", pause=1)
    watching.cancel()
    dealt, written = await own.dealt_with(), await own.writes()
    written.subtract(before)
    deleted = written.pop(("dbtruns", "DELETE"), 0)
    about: dict[str, Any] = {"finishes": finishes, "finishes_per_second": round(reached, 1)}
    saves = written["dbtrunmirrors", "PATCH"]
    return all([
        row("mirror_runs_lost_or_doubled", abs(dealt["created"] - finishes), 0, **about),
        row("mirror_objects_most", own.most, min(finishes, kept + SLACK), kept=kept, **about),
        row("mirror_memory_mb", own.memory / 2**20, MEMORY_TARGET, **about),
        row("mirror_writes_a_run", written.total() / finishes, WRITES_TARGET, saves=saves, deleted=deleted, **about),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finishes", type=int, default=10_000, help="runs that others start")
    parser.add_argument("--rate", type=float, default=50.0, help="a second")
    args = parser.parse_args()
    sys.exit(not asyncio.run(bench(args.finishes, args.rate)))


if __name__ == "__main__":
    main()
