"""What the watcher carries: starts per second, ends seen in time, memory and CPU with many live runs.

Control plane, simulator and watcher are processes on this machine, as users have them. What the watcher reaches is held
against what the same API server takes of the same writes from a client that does nothing else, in the same run. One
JSON line a row; the exit code is 1 if a target is missed.

    python -m tests.bench.bench_watcher [--objects 2000] [--live 2000] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import ssl
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import psutil
import yaml

from dbtrun.api import API_VERSION, FINALIZER, PLURAL, UID_ANNOTATION
from tests.controlplane import ControlPlane
from tests.stack import Stack, dbt_run, until
from tests.stack.scrape import scrape

NAMESPACE: Final = "bench"
AT_ONCE: Final = 16
"""Requests under way from whoever creates objects, and from the client that the watcher is held against."""
SETTINGS: Final = {
    "DBTRUN_REQUESTS_PER_MINUTE": "6000",
    "DBTRUN_FEED_INTERVAL_SECONDS": "5",
    "DBTRUN_LOG_LEVEL": "info",
}
"""More requests than dbt Cloud allows, so that its limit is not what is measured."""
RATE_TARGET, SHARE_TARGET = 35.0, 0.6
LAG_TARGET: Final = 10.0
MEMORY_TARGET_MB, CPU_TARGET = 250.0, 0.05
REQUESTS_TARGET: Final = 0.03 * 5_000
"""A minute: of what dbt Cloud allows an account."""
SCRAPE_TARGET_MS, SCRAPES = 20.0, 50
LIVE_TARGET: Final = 10_000
"""Live runs for which the targets of memory and CPU hold."""
ENDS: Final = 500
SETTLE_SECONDS: Final = 15.0
UID: Final = "01234567-89ab-cdef-0123-456789abcdef"
STATUS: Final = {
    "phase": "Queued", "reason": "RunQueued", "message": "Started run 70403104000001.", "runId": 70403104000001,
    "job": "103", "jobId": 103, "projectId": 70403103937001, "environmentId": 70403103940001,
    "accountId": 70403103922125, "host": "127.0.0.1:50000", "observedGeneration": 1,
    "url": "http://127.0.0.1:50000/deploy/70403103922125/projects/70403103937001/runs/70403104000001/",
    "startTime": "2025-01-01T00:00:00Z", "queuedAt": "2025-01-01T00:00:00Z",
    "attempts": [
        {"number": 1, "phase": "Queued", "marker": f"dbtrun:{UID}/1", "claimTime": "2025-01-01T00:00:00.123456Z",
         "firstClaimTime": "2025-01-01T00:00:00Z", "queuedAt": "2025-01-01T00:00:00Z", "runId": 70403104000001},
    ],
    "conditions": [
        {"type": kind, "status": "Unknown", "reason": "RunQueued", "message": "Started run 70403104000001.",
         "lastTransitionTime": "2025-01-01T00:00:00Z", "observedGeneration": 1}
        for kind in ("Succeeded", "Finished", "Reachable", "Reconciling", "Stalled")
    ],
}  # fmt: skip
"""As long as a status that the watcher writes when it has started a run."""
HELD: Final = {"metadata": {"finalizers": [FINALIZER], "annotations": {UID_ANNOTATION: UID}}}
BEGUN: Final = STATUS | {
    "phase": "Running",
    "startedAt": "2025-01-01T00:00:00Z",
    "lastObservedAt": "2025-01-01T00:00:00Z",
}
REQUESTS: Final = re.compile(
    r'apiserver_request_total\{.*resource="(dbtruns|events)",.*subresource="(\w*)",verb="(POST|PATCH)".*\} (\S+)'
)
WATCHES: Final = re.compile(r'apiserver_longrunning_requests\{.*resource="dbtruns",.*verb="WATCH".*\} [1-9]')


class SeenMetadata(msgspec.Struct):
    name: str


class SeenStatus(msgspec.Struct, rename="camel"):
    run_id: int | None = None
    completion_time: str | None = None


class Seen(msgspec.Struct):
    """What the bench reads of an object: it shares the processors with what it measures."""

    metadata: SeenMetadata
    status: SeenStatus = msgspec.field(default_factory=SeenStatus)


class SeenEvent(msgspec.Struct):
    object: Seen


SEEN: Final = msgspec.json.Decoder(SeenEvent)


class Api:
    """The API server with nothing in between: what it sustains, not what a client library does."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @asynccontextmanager
    async def of(cls, plane: ControlPlane) -> AsyncIterator[Api]:
        token = yaml.safe_load(plane.kubeconfig.read_text())["users"][0]["user"]["token"]
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(plane.ca)))
        headers = {"Authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(
            plane.server, connector=connector, headers=headers, timeout=timeout
        ) as session:
            yield cls(session)

    async def create(self, name: str) -> None:
        manifest = dbt_run(name, "endless", pollIntervalSeconds=60)
        await self._send("POST", _path(), manifest)

    async def write_as_the_watcher(self, name: str) -> None:
        """The finalizer, the claim, the record, the Event, and that it runs: all that a start costs the API server."""
        merge = "application/merge-patch+json"
        await self._send("PATCH", _path(name), HELD, merge)
        await self._send("PATCH", f"{_path(name)}/status", {"status": STATUS | {"phase": "Submitting"}}, merge)
        await self._send("PATCH", f"{_path(name)}/status", {"status": STATUS}, merge)
        await self._send("POST", f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events", _event(name))
        await self._send("PATCH", f"{_path(name)}/status", {"status": BEGUN}, merge)

    async def unhold(self, name: str) -> None:
        await self._send("PATCH", _path(name), {"metadata": {"finalizers": None}}, "application/merge-patch+json")

    async def remove_all(self) -> None:
        async with self._session.delete(_path()) as answer:
            answer.raise_for_status()

    async def lists(self, **query: str) -> bool:
        """Lists objects, and throws the list away: whether there was one."""
        async with self._session.get(_path(), params=query) as answer:
            await answer.read()
            return answer.ok

    async def watched(self) -> bool:
        """Whether somebody watches DbtRuns. The garbage collector begins half a minute after the CRD exists."""
        return WATCHES.search(await self._metrics()) is not None

    async def writes(self) -> Counter[str]:
        """Writes that it has taken, by their kind."""
        found: Counter[str] = Counter()
        for resource, subresource, verb, count in REQUESTS.findall(await self._metrics()):
            found[" ".join(filter(None, (verb, resource, subresource)))] += int(float(count))
        return found

    async def watch(self) -> AsyncIterator[Seen]:
        """Every object, then every change."""
        query = {"watch": "1", "timeoutSeconds": "3600"}
        async with self._session.get(_path(), params=query, read_bufsize=2**22) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                yield SEEN.decode(line).object

    async def _metrics(self) -> str:
        async with self._session.get("/metrics") as answer:
            answer.raise_for_status()
            return await answer.text()

    async def _send(self, method: str, path: str, body: dict[str, Any], kind: str = "application/json") -> None:
        async with self._session.request(method, path, data=json.dumps(body), headers={"Content-Type": kind}) as answer:
            await answer.read()
            answer.raise_for_status()


def _path(name: str = "") -> str:
    return f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/{PLURAL}" + (f"/{name}" if name else "")


def _event(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}.peer"},
        "eventTime": "2025-01-01T00:00:00.000000Z",
        "reportingController": "bench",
        "reportingInstance": "bench",
        "type": "Normal",
        "reason": "Started",
        "action": "Reconcile",
        "note": "Started dbt Cloud run 70403104000001.",
        "regarding": {"apiVersion": API_VERSION, "kind": "DbtRun", "namespace": NAMESPACE, "name": name},
    }


async def each(names: Iterable[str], act: Callable[[str], Awaitable[None]]) -> None:
    """Acts for every name, a few at once."""
    left = iter(list(names))

    async def some() -> None:
        for name in left:
            await act(name)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


class Observer:
    """What a watch of the namespace has shown, and when."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.started: dict[str, float] = {}
        self.ended: dict[int, float] = {}

    async def run(self) -> None:
        """Watches until cancelled. The API server ends a watch whose other end is slow, as on a busy machine."""
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async for body in self._api.watch():
                    self._saw(body)
            await asyncio.sleep(0.1)

    def _saw(self, body: Seen) -> None:
        if body.status.run_id is None:
            return
        now = time.monotonic()
        self.started.setdefault(body.metadata.name, now)
        if body.status.completion_time is not None:
            self.ended.setdefault(body.status.run_id, now)


class Cpu:
    """CPU seconds of processes since this was made."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._before = {name: (psutil.Process(pid), _cpu(psutil.Process(pid))) for name, pid in pids.items()}

    def per(self, count: int) -> dict[str, float]:
        """Milliseconds for each of so many."""
        spent = {name: _cpu(process) - before for name, (process, before) in self._before.items()}
        return {name: round(seconds / count * 1e3, 1) for name, seconds in spent.items()}


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def sustained(api: Api, names: list[str]) -> float:
    """Objects a second that the API server takes with all the writes of a start, and nobody else busy."""
    begin = time.monotonic()

    async def start(name: str) -> None:
        await api.create(name)
        await api.write_as_the_watcher(name)

    await each(names, start)
    return len(names) / (time.monotonic() - begin)


async def started(api: Api, seen: Observer, names: list[str]) -> float:
    """Objects a second that are created and started, from the first create to the last run id."""
    begin = time.monotonic()
    await each(names, api.create)

    async def all_started() -> bool:
        return seen.started.keys() >= set(names)

    await until(all_started, 60 + len(names) / 5, f"{len(names)} runs started", pause=0.05)
    return len(names) / (max(seen.started[name] for name in names) - begin)


async def lags(stack: Stack, seen: Observer, ends: int, seconds: float) -> list[float]:
    """Seconds from a run's end in dbt Cloud to the watch event of its status, for ends spread over that time."""
    live = [run["id"] for run in await stack.runs("endless") if run["finished_at"] is None][:ends]
    ended: dict[int, float] = {}
    begin = time.monotonic()
    for number, run_id in enumerate(live):
        await asyncio.sleep(max(0.0, begin + seconds * number / len(live) - time.monotonic()))
        await stack.ask("POST", f"/runs/{run_id}/finish", {"status": 10})
        ended[run_id] = time.monotonic()

    async def all_told() -> bool:
        return seen.ended.keys() >= ended.keys()

    await until(all_told, 120, f"{len(live)} ends told", pause=0.05)
    return [seen.ended[run_id] - at for run_id, at in ended.items()]


async def idle(stack: Stack, seconds: float) -> tuple[float, int, float]:
    """CPU (cores) and memory of the watcher, and its requests a minute, while nothing happens."""
    process = psutil.Process(stack.watcher.pid)
    await stack.ask("DELETE", "/requests")
    begin, before = time.monotonic(), process.cpu_times()
    await asyncio.sleep(seconds)
    after, passed = process.cpu_times(), time.monotonic() - begin
    requests = (await stack.ask("GET", "/requests"))["total"]
    cpu = (after.user + after.system - before.user - before.system) / passed
    return cpu, process.memory_info().rss, requests * 60 / passed


async def scraping(stack: Stack) -> float:
    """Milliseconds of the watcher's processor time that a scrape takes, and what else happens meanwhile."""
    cpu = Cpu({"watcher": stack.watcher.pid})
    for _ in range(SCRAPES):
        await scrape(stack.watcher)
    return cpu.per(SCRAPES)["watcher"]


async def bench(objects: int, live: int, seconds: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="bench-watcher-") as folder:
        async with ControlPlane.start(Path(folder)) as plane, Api.of(plane) as api:
            plane.create_namespace_sync(NAMESPACE)
            async with Stack.up(plane, NAMESPACE, Path(folder), settings=SETTINGS) as stack:
                return await measured(stack, api, objects, live, seconds)


async def measured(stack: Stack, api: Api, objects: int, live: int, seconds: float) -> bool:
    names = [f"run-{number}" for number in range(max(objects, live))]
    alone = await without_watcher(stack, api, objects)
    observer = Observer(api)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(observer.run())
        met = [await starts(stack, api, observer, names[:objects], alone)]
        if live > objects:
            await started(api, observer, names[objects:])
        await asyncio.sleep(SETTLE_SECONDS)
        met.append(await idleness(stack, live, seconds))
        late = await lags(stack, observer, min(ENDS, live // 2), seconds)
        watching.cancel()
    p50 = round(statistics.median(late), 2)
    return all([*met, row("end_to_status_p99_s", _quantile(late, 99), LAG_TARGET, live=live, p50=p50)])


async def without_watcher(stack: Stack, api: Api, objects: int) -> tuple[float, dict[str, float]]:
    """What the API server takes alone, and the CPU for each object; the watcher is back afterwards.

    Whoever else watches does so here too: the garbage collector, and an observer as that of the starts.
    """
    await stack.watcher.says("Watching 0 DbtRuns")
    await stack.watcher.stop()
    await until(api.watched, 120, "the garbage collector watches DbtRuns")
    observing = asyncio.create_task(Observer(api).run())
    names = [f"peer-{number}" for number in range(objects)]
    cpu = Cpu(stack.plane.pids | {"bench": os.getpid()})
    rate = await sustained(api, names)
    spent, said = cpu.per(objects), len(stack.watcher.text())
    observing.cancel()
    await each(names, api.unhold)
    await api.remove_all()
    stack.watcher.start()
    await stack.watcher.says(r"Watching \d+ DbtRuns", after=said)
    return rate, spent


async def starts(
    stack: Stack, api: Api, observer: Observer, names: list[str], alone: tuple[float, dict[str, float]]
) -> bool:
    own = {"watcher": stack.watcher.pid, "simulator": stack.simulator.pid, "bench": os.getpid()}
    cpu, before = Cpu(stack.plane.pids | own), await api.writes()
    rate = await started(api, observer, names)
    spent, made = cpu.per(len(names)), await api.writes() - before
    writes = {kind: round(count / len(names), 2) for kind, count in made.items()}
    peer = {"api_server_alone": round(alone[0], 1), "cpu_ms_alone": alone[1]}
    share = rate / alone[0]
    return all([
        row("starts_per_second", rate, RATE_TARGET, least=True, objects=len(names), cpu_ms=spent, writes=writes),
        row("starts_of_what_the_api_server_takes", share, SHARE_TARGET, least=True, peer=peer),
    ])  # fmt: skip


async def idleness(stack: Stack, live: int, seconds: float) -> bool:
    cpu, memory, requests = await idle(stack, seconds)
    return all([
        row("cpu_cores", cpu, CPU_TARGET, live=live, at_10k=round(cpu * LIVE_TARGET / live, 3)),
        row("memory_mb", memory / 2**20, MEMORY_TARGET_MB, live=live),
        row("dbt_requests_per_minute", requests, REQUESTS_TARGET, live=live),
        row("scrape_cpu_ms", await scraping(stack), SCRAPE_TARGET_MS, live=live),
    ])  # fmt: skip


def row(name: str, value: float, target: float, *, least: bool = False, **more: object) -> bool:
    met = value >= target if least else value <= target
    told = {"bench": name, "value": round(value, 3), "target": target, "met": met} | more
    print(json.dumps(told), flush=True)
    return met


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=2_000, help="applied at once")
    parser.add_argument("--live", type=int, default=2_000, help="runs that are followed; 10000 is the full measure")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long idleness and ends are measured")
    args = parser.parse_args()
    sys.exit(not asyncio.run(bench(args.objects, args.live, args.seconds)))


if __name__ == "__main__":
    main()
