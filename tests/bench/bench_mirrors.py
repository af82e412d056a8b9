"""What it takes to show the runs that others start: a watcher with mirrors, a real API server, a simulated dbt Cloud.

A day's runs end within minutes, and the history limits delete nearly all of their DbtRuns again. One JSON line a row;
the exit code is 1 if a target is missed. `bench_mirror_day` has a day of 100,000 runs, with a model of the API server.

    python -m tests.bench.bench_mirrors [--finishes 10000] [--rate 50]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from tests.bench.bench_watcher import row
from tests.controlplane import ControlPlane
from tests.stack import Stack, until
from tests.stack.mirrors import mirror, ready
from tests.stack.stack import page
from watcher.mirroring import SAVE_SECONDS

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
WRITES_TARGET: Final = 2.0
"""For a run: its DbtRun and its status."""
SAVES_TARGET: Final = 1 / SAVE_SECONDS
"""A second and mirror: its cursor. Each may also say once that it is behind, and once that it has caught up again."""
SETTLE_SECONDS: Final = 600.0
SCENARIO: Final[dict[str, Any]] = {
    "account": {"id": 70403103922125},
    "projects": [{"name": "Analytics", "environments": [{"name": "Production"}]}],
    "jobs": [
        {"id": 1_000 + number, "name": f"job {number}", "queue": 0.0, "start": 0.0, "run": 0.1, "parallel": True}
        for number in range(MIRRORS * JOBS_OF_EACH)
    ],
}
REQUESTS: Final = re.compile(r"^apiserver_request_total\{(.*?)\} (\S+)$", re.MULTILINE)
LABEL: Final = re.compile(r'(\w+)="(.*?)"')


RESOURCES: Final = ("dbtruns", "dbtrunmirrors", "events")
VERBS: Final = ("POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION")


class Kind(NamedTuple):
    """Of writes: what the API server counts them under."""

    verb: str
    resource: str
    subresource: str


CREATED, ENDED, PRUNED = Kind("POST", "dbtruns", ""), Kind("PATCH", "dbtruns", "status"), Kind("DELETE", "dbtruns", "")
SAVED, TOLD = Kind("PATCH", "dbtrunmirrors", "status"), Kind("POST", "events", "")
WHY: Final = {
    CREATED: "the DbtRun of a run",
    ENDED: "the end of the run",
    PRUNED: "a DbtRun beyond spec.historyLimit",
    SAVED: "the cursor of a mirror, or a condition",
    TOLD: "an Event of a mirror",
}


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

    async def writes(self) -> tuple[Counter[Kind], Counter[Kind]]:
        """The API server's own count of the writes that it has carried out, and of those that it has refused."""
        told = await self.stack.plane.kubectl("get", "--raw", "/metrics")
        done: Counter[Kind] = Counter()
        refused: Counter[Kind] = Counter()
        for labels, count in REQUESTS.findall(told.stdout):
            told_of = dict(LABEL.findall(labels))
            kind = Kind(told_of["verb"], told_of["resource"], told_of["subresource"])
            if kind.resource in RESOURCES and kind.verb in VERBS:
                (done if told_of["code"].startswith("2") else refused)[kind] += int(float(count))
        return done, refused


async def bench(finishes: int, rate: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="bench-mirrors-") as folder:
        async with ControlPlane.start(Path(folder)) as plane:
            plane.create_namespace_sync(NAMESPACE)
            settings = {"DBTRUN_LEADER_ELECTION": "false", "DBTRUN_LOG_LEVEL": "info"}
            async with Stack.up(plane, NAMESPACE, Path(folder), scenario=SCENARIO, settings=settings) as stack:
                return await measured(Bench(stack), finishes, rate)


async def measured(own: Bench, finishes: int, rate: float) -> bool:
    await own.mirrors()
    before, refused_before = await own.writes()
    begin, watching = time.monotonic(), asyncio.create_task(own.watch())
    reached = await own.finishes(finishes, rate)

    async def shown() -> bool:
        return (await own.dealt_with())["created"] >= finishes

    kept = len(SCENARIO["jobs"]) * LIMIT

    async def pruned() -> bool:
        return await own.objects() <= kept

    await until(shown, SETTLE_SECONDS, f"{finishes} runs shown", pause=1)
    await until(pruned, SETTLE_SECONDS, f"all but {kept} DbtRuns pruned", pause=1)
    watching.cancel()
    dealt, (written, refused) = await own.dealt_with(), await own.writes()
    seconds = time.monotonic() - begin
    written.subtract(before)
    refused.subtract(refused_before)
    for kind in sorted((+written).keys() | (+refused).keys()):
        told = {"done": written[kind], "refused": refused[kind], "a_run": round(written[kind] / finishes, 4)}
        print(json.dumps({"writes": " ".join(filter(None, kind)), **told, "what": WHY.get(kind, "")}), flush=True)
    about: dict[str, Any] = {"finishes": finishes, "finishes_per_second": round(reached, 1)}
    of_runs = sum(count for kind, count in written.items() if kind.resource == "dbtruns" and kind != PRUNED)
    saves = MIRRORS * (SAVES_TARGET * seconds + 3)
    return all([
        row("mirror_runs_lost_or_doubled", abs(dealt["created"] - finishes), 0, **about),
        row("mirror_objects_most", own.most, min(finishes, kept + SLACK), kept=kept, **about),
        row("mirror_memory_mb", own.memory / 2**20, MEMORY_TARGET, **about),
        row("mirror_writes_a_run", of_runs / finishes, WRITES_TARGET, deleted=written[PRUNED], **about),
        row("mirror_status_writes", written[SAVED], round(saves), mirrors=MIRRORS, seconds=round(seconds), **about),
        row("mirror_writes_refused", refused.total(), 0, **about),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finishes", type=int, default=10_000, help="runs that others start")
    parser.add_argument("--rate", type=float, default=50.0, help="a second")
    args = parser.parse_args()
    sys.exit(not asyncio.run(bench(args.finishes, args.rate)))


if __name__ == "__main__":
    main()
