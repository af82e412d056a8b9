"""What lies around: how much memory finished objects cost the watcher, and what a start meets.

Objects are put into etcd as the API server stores them, thousands a second. Four measures, each with a watcher that was
just started: many finished objects; finished objects that all need a status write; objects with large annotations;
many namespaces. One JSON line a row; the exit code is 1 if a target is missed.

    python -m tests.bench.bench_finished [--finished 10000] [--unwritten 5000] [--annotated 300] [--namespaces 1 20 100]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import psutil

from dbtrun.api import API_VERSION, GROUP, PLURAL
from tests.bench.bench_watcher import STATUS, Api, row
from tests.controlplane import ControlPlane
from tests.stack import Own, Stack, until
from watcher.cluster.listing import UNFINISHED

NAMESPACE: Final = "bench"
SETTINGS: Final = {"DBTRUN_LOG_LEVEL": "info"}
SETTLE_SECONDS: Final = 20.0
MEMORY_TARGET_MB: Final = 200.0
FINISHED_TARGET, UNWRITTEN_TARGET = 2.0, 5.0
"""Seconds from the watcher's start until a new run is started, on an idle machine: see the row `nothing` beside it."""
SAME: Final = 3
"""Lists in a row that take about as long as each other: the API server does nothing else any more."""
TXN_PUTS, TXN_BYTES = 100, 1_000_000
"""What etcd takes in one transaction."""
TIMES: Final = {"queuedAt": "2025-01-01T00:00:00Z", "startedAt": "2025-01-01T00:00:10Z",
                "finishedAt": "2025-01-01T00:10:00Z"}  # fmt: skip
STEPS: Final = [{"index": n, "name": f"Step {n}: `dbt build`", "status": "Success"} for n in range(1, 7)]


def finished(name: str, namespace: str = NAMESPACE, **metadata: Any) -> dict[str, Any]:
    """An object as the API server stores it, with all that its end says."""
    uid = str(uuid.uuid4())
    message = "dbt Cloud run 70403104000001 succeeded."
    end = {"phase": "Succeeded", "reason": "RunSucceeded", "message": message}
    attempt = {"number": 1, "marker": f"dbtrun:{uid}/1", "runId": STATUS["runId"], **end, **TIMES}
    wanted = {"Succeeded": "True", "Finished": "True", "Reachable": "True", "Reconciling": "False", "Stalled": "False"}
    conditions = [
        {
            "type": kind,
            "status": status,
            "reason": "Answering" if kind == "Reachable" else "RunSucceeded",
            "message": message,
            "lastTransitionTime": "2025-01-01T00:10:00Z",
            "observedGeneration": 1,
        }
        for kind, status in wanted.items()
    ]
    told = {"attempts": [attempt], "conditions": conditions, "completionTime": TIMES["finishedAt"]}
    status = STATUS | end | TIMES | told | {"steps": STEPS, "progress": "6/6"}
    made = {"creationTimestamp": "2025-01-01T00:00:00Z", "generation": 1, "uid": uid}
    return {
        "apiVersion": API_VERSION,
        "kind": "DbtRun",
        "metadata": {"name": name, "namespace": namespace, **made, **metadata},
        "spec": {"job": {"id": 103}, "pollIntervalSeconds": 60, "cancel": False, "suspend": False},
        "status": status,
    }


def put(plane: ControlPlane, objects: Iterator[dict[str, Any]]) -> None:
    """Stores the objects behind the API server's back."""
    puts: list[dict[str, Any]] = []
    size = 0
    for each in objects:
        value = _base64(json.dumps(each))
        if puts and (len(puts) >= TXN_PUTS or size + len(value) > TXN_BYTES):
            plane._etcd("kv/txn", {"success": puts})
            puts, size = [], 0
        puts.append({"requestPut": {"key": _key(each), "value": value}})
        size += len(value)
    if puts:
        plane._etcd("kv/txn", {"success": puts})


def clear(plane: ControlPlane) -> None:
    """Removes every DbtRun: what follows reads them all."""
    prefix = f"/registry/{GROUP}/{PLURAL}/"
    plane._etcd("kv/deleterange", {"key": _base64(prefix), "range_end": _base64(prefix[:-1] + "0")})


def _key(body: dict[str, Any]) -> str:
    return _base64(f"/registry/{GROUP}/{PLURAL}/{body['metadata']['namespace']}/{body['metadata']['name']}")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Peak:
    """The largest resident memory of a process, in MB, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.mb = 0.0

    async def run(self) -> None:
        while True:
            self.mb = max(self.mb, self._process.memory_info().rss / 2**20)
            await asyncio.sleep(0.1)


class Begun(NamedTuple):
    """How a watcher has begun."""

    taken: float
    """Seconds from the start of its process until an object that waited for it is started."""
    since_listening: float
    """The same from when Python has read the watcher's code and the watcher itself begins."""
    peak: Peak
    looking: asyncio.Task[None]


async def start(stack: Stack, name: str) -> Begun:
    """Starts the watcher with a new object waiting for it."""
    own, said = Own(stack, name), len(stack.watcher.text())
    await own.apply("endless")
    begin = time.monotonic()
    stack.watcher.start()
    peak = Peak(stack.watcher.pid)
    looking = asyncio.create_task(peak.run())
    await stack.watcher.says("Listening on", after=said)
    listening = time.monotonic()
    await own.reaches("Queued", "Running", seconds=300)
    now = time.monotonic()
    return Begun(now - begin, now - listening, peak, looking)


async def new_run(stack: Stack, name: str) -> float:
    """Seconds until an object that is applied now is started."""
    own = Own(stack, name)
    begin = time.monotonic()
    await own.apply("endless")
    await own.reaches("Queued", "Running", seconds=300)
    return time.monotonic() - begin


async def settled(stack: Stack) -> float:
    """Seconds that the API server takes for the list of what is not finished, once it has read what was put into etcd.

    It learns of that by a watch of its own, and until it has caught up it answers such a list from etcd, in minutes.
    """
    took: list[float] = []
    async with Api.of(stack.plane) as api:
        while len(took) < SAME or max(took[-SAME:]) > 2 * min(took[-SAME:]):
            begin = time.monotonic()
            if await api.lists(fieldSelector=UNFINISHED, limit="20"):
                took.append(time.monotonic() - begin)
    return took[-1]


async def lying_around(stack: Stack, count: int, label: str, **metadata: Any) -> bool:
    put(stack.plane, (finished(f"{label}-{n}", **metadata) for n in range(count)))
    alone = await settled(stack)
    begun = await start(stack, f"{label}-new")
    later = await new_run(stack, f"{label}-later")
    await known(stack, count)
    begun.looking.cancel()
    met = [
        row(f"{label}_memory_mb", begun.peak.mb, MEMORY_TARGET_MB, objects=count, now=round(_memory(stack), 1)),
        row(
            f"{label}_first_start_s",
            begun.taken,
            FINISHED_TARGET,
            objects=count,
            since_listening_s=round(begun.since_listening, 2),
            second_s=round(later, 2),
            list_alone_s=round(alone, 2),
        ),
    ]
    await stack.watcher.stop()
    return all(met)


async def known(stack: Stack, count: int) -> None:
    async def all_known() -> bool:
        told = await metric(stack, "dbtrun_objects")
        return told is not None and told >= count

    await until(all_known, 300, f"{count} objects known", pause=0.3)


async def metric(stack: Stack, name: str) -> float | None:
    port = re.findall(r"Listening on [\d.]+:(\d+)", stack.watcher.text())[-1]
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics", timeout=30)).text
    found = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0]) if found else None


def _memory(stack: Stack) -> float:
    return float(psutil.Process(stack.watcher.pid).memory_info().rss / 2**20)


async def unwritten(stack: Stack, count: int) -> bool:
    """Finished objects that were edited while nobody looked: each needs a status write."""
    put(stack.plane, (finished(f"unwritten-{n}", generation=2) for n in range(count)))
    begin = time.monotonic()
    started = await start(stack, "unwritten-new")
    later = await new_run(stack, "unwritten-later")

    async def all_written() -> bool:
        path = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/{PLURAL}/unwritten-{{}}"
        some = [await stack.plane.read(path.format(n)) for n in range(0, count, max(1, count // 50))]
        return all(each is not None and each["status"]["observedGeneration"] == 2 for each in some)

    await until(all_written, 60 + count / 10, f"{count} statuses written", pause=2)
    started.looking.cancel()
    took = time.monotonic() - begin
    lost = stack.watcher.text().count("The Lease was lost")
    met = [
        row(
            "unwritten_first_start_s",
            started.taken,
            UNWRITTEN_TARGET,
            objects=count,
            since_listening_s=round(started.since_listening, 2),
            second_s=round(later, 2),
        ),
        row("unwritten_leases_lost", lost, 0, written_s=round(took, 1), peak_mb=round(started.peak.mb, 1)),
    ]
    await stack.watcher.stop()
    return all(met)


async def many_namespaces(folder: Path, counts: list[int]) -> None:
    """Memory and CPU of a watcher that serves so many empty namespaces."""
    async with ControlPlane.start(folder) as plane:
        served = [f"ns-{number}" for number in range(max(counts))]
        for name in (*served, NAMESPACE):
            plane.create_namespace_sync(name)
        async with Stack.up(plane, NAMESPACE, folder, values={"watchNamespaces": served}) as stack:
            for count in counts:
                await stack.watcher.stop()
                stack.watcher.env["DBTRUN_NAMESPACES"] = ",".join(served[:count])
                stack.watcher.start()
                await asyncio.sleep(SETTLE_SECONDS)
                process = psutil.Process(stack.watcher.pid)
                before = sum(process.cpu_times()[:2])
                await asyncio.sleep(SETTLE_SECONDS)
                idle = (sum(process.cpu_times()[:2]) - before) / SETTLE_SECONDS
                told: dict[str, Any] = {
                    "start_cpu_s": round(before, 2),
                    "threads": process.num_threads(),
                    "idle_cores": round(idle, 4),
                }
                row("namespaces_memory_mb", _memory(stack), MEMORY_TARGET_MB, namespaces=count, **told)


@asynccontextmanager
async def system() -> AsyncIterator[Stack]:
    """Everything but the watcher runs."""
    with tempfile.TemporaryDirectory(prefix="bench-finished-") as folder:
        async with ControlPlane.start(Path(folder)) as plane:
            plane.create_namespace_sync(NAMESPACE)
            async with Stack.up(plane, NAMESPACE, Path(folder), settings=SETTINGS) as stack:
                await stack.watcher.says(r"Watching \d+ DbtRuns")
                await stack.watcher.stop()
                yield stack
                clear(plane)


async def bench(args: argparse.Namespace) -> bool:
    met = []
    large: dict[str, Any] = {"annotations": {"notes": "x" * 250_000}}
    plain: dict[str, Any] = {}
    kinds = [("nothing", 1, plain), ("finished", args.finished, plain), ("annotated", args.annotated, large)]
    for label, count, metadata in kinds:
        if count:
            async with system() as stack:
                met.append(await lying_around(stack, count, label, **metadata))
    if args.unwritten:
        async with system() as stack:
            met.append(await unwritten(stack, args.unwritten))
    if args.namespaces:
        with tempfile.TemporaryDirectory(prefix="bench-namespaces-") as folder:
            await many_namespaces(Path(folder), args.namespaces)
    return all(met)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", type=int, default=10_000, help="finished objects; 50000 is the full measure")
    parser.add_argument("--unwritten", type=int, default=5_000, help="that all need a write; 20000 is the full measure")
    parser.add_argument("--annotated", type=int, default=300, help="with 250 kB of annotations each")
    parser.add_argument("--namespaces", type=int, nargs="*", default=[1, 20, 100], help="how many are served")
    sys.exit(not asyncio.run(bench(parser.parse_args())))


if __name__ == "__main__":
    main()
