"""A thousand DbtRunTriggers against a thousand of Airflow's dbt Cloud provider: CPU, memory, loop lag, latency.

Both wait in a process of their own, on runs that do not end, for the same time, one after the other, on one machine.
The provider's polls go to the simulator over https; ours watch a real API server, first while nothing happens and then
while each object is written once per poll interval, which is more than a watcher writes. One JSON line a row; the exit
code is 1 if a target is missed.

    python -m tests.bench.bench_trigger [--triggers 1000] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import psutil

from tests.cluster.trigger_support import Namespace, administering, install_crd, watches
from tests.controlplane import ControlPlane
from watcher.simulator.scenario import ACCOUNT_ID, DEFAULT_TOKEN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

SCENARIO = {"jobs": [{"name": "endless", "run": None, "parallel": True}]}
Figures = dict[str, dict[str, float]]

CPU_TARGET = 1 / 50
BUSY_CPU_TARGET = 1 / 2
MEMORY_TARGET = 1 / 4
LAG_TARGET_MS = 20.0
LATENCY_TARGET_MS = 100.0
READY_SECONDS = 120.0


# The process that waits.


@dataclass
class Gauge:
    """What waiting costs this process."""

    process: psutil.Process = field(default_factory=psutil.Process)
    lags: list[float] = field(default_factory=list)

    def rss(self) -> int:
        gc.collect()
        return int(self.process.memory_info().rss)

    async def watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.05
            await asyncio.sleep(0.05)
            self.lags.append(loop.time() - due)


async def wait(kind: str, options: dict[str, Any]) -> None:
    """Makes the triggers, says so, and measures between the two lines that it is sent."""
    # What a library prints must not get between the lines that the other process reads.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    make, ready = {"ours": _ours, "peer": _peer}[kind](options)
    gauge, ended = Gauge(), dict[str, float]()
    events: list[Any] = []

    async def one(name: str) -> None:
        async for event in make(name).run():
            ended[name] = time.monotonic()
            events.append(event)

    async def begin(names: list[str], count: int) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(one(name)) for name in names]
        async with asyncio.timeout(READY_SECONDS):
            while not ready(count):  # noqa: ASYNC110 - the provider's trigger has nothing to wait for
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
        return tasks

    # The first one pays for what is loaded once.
    tasks = await begin(options["names"][:1], 1)
    before = gauge.rss()
    tasks += await begin(options["names"][1:], len(options["names"]))
    if events:
        raise SystemExit(f"a trigger does not wait: {events[0]}")
    grown = gauge.rss() - before
    print("ready", file=out)
    out.write(json.dumps({"cpu": await _cpu_until_told(), "rss": grown}) + "\n")
    out.write(json.dumps({"cpu": await _cpu_until_told()}) + "\n")
    # Last, for the looking itself costs more than waiting does.
    sampler = asyncio.create_task(gauge.watch_lag())
    await (asyncio.gather(*tasks) if kind == "ours" else asyncio.sleep(options["seconds"]))
    sampler.cancel()
    out.write(json.dumps(ended | {"lag": _quantile(gauge.lags, 99) * 1e3}) + "\n")
    for task in tasks:
        task.cancel()


async def _cpu_until_told() -> float:
    begin = time.process_time()
    await asyncio.to_thread(sys.stdin.readline)
    return time.process_time() - begin


def _ours(options: dict[str, Any]) -> tuple[Callable[[str], Any], Callable[[int], bool]]:
    from airflow_trigger import hub
    from airflow_trigger.trigger import DbtRunTrigger

    def make(name: str) -> DbtRunTrigger:
        return DbtRunTrigger(name=name, namespace=options["namespace"], config_file=options["kubeconfig"])

    def ready(_count: int) -> bool:
        hubs = [entry.value for entries in hub._hubs._loops.values() for entry in entries.values()]
        return bool(hubs) and hubs[0].synced

    return make, ready


def _peer(options: dict[str, Any]) -> tuple[Callable[[str], Any], Callable[[int], bool]]:
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    polled = [0]
    poll = DbtCloudHook.get_job_status

    async def counted(*args: Any) -> Any:
        status = await poll(*args)
        polled[0] += 1
        return status

    DbtCloudHook.get_job_status = counted  # type: ignore[assignment, method-assign]

    def make(_name: str) -> DbtCloudRunJobTrigger:
        return DbtCloudRunJobTrigger(
            conn_id="dbt_cloud_default",
            run_id=options["run_id"],
            end_time=time.time() + 86_400,
            poll_interval=options["seconds"],
            account_id=ACCOUNT_ID,
        )

    return make, lambda count: polled[0] >= count


# The process that measures.


class Waiter:
    """The other process: what it prints, what it is told."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    async def says(self) -> str:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            self._errors.seek(0)
            raise SystemExit(f"the waiting process ended: {self._errors.read()[-2000:].decode()}")
        return line.decode().strip()

    async def figures(self) -> dict[str, float]:
        figures: dict[str, float] = json.loads(await self.says())
        return figures

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")


@asynccontextmanager
async def waiter(kind: str, options: dict[str, Any], environment: dict[str, str]) -> AsyncIterator[Waiter]:
    pipe = asyncio.subprocess.PIPE
    errors = await asyncio.to_thread(tempfile.TemporaryFile)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.bench_trigger", "--wait", kind, "--options", json.dumps(options)),
        env=os.environ | environment,
        stdin=pipe,
        stdout=pipe,
        stderr=errors,
        limit=2**24,
    )
    try:
        yield Waiter(process, errors)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def simulator(folder: Path) -> AsyncIterator[tuple[int, dict[str, str]]]:
    """A dbt Cloud with one endless run: its id, and the environment in which Airflow finds it."""
    scenario = folder / "scenario.yaml"
    await asyncio.to_thread(scenario.write_text, json.dumps(SCENARIO))
    command = ("-m", "watcher", "simulate", "--port", "0", "--tls-dir", str(folder), "--config", str(scenario))
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        host = (await process.stdout.readline()).decode().split()[3].removeprefix("https://").rstrip(",")
        ca = str(folder / "ca.pem")
        connection = {"conn_type": "dbt_cloud", "host": host, "login": str(ACCOUNT_ID), "password": DEFAULT_TOKEN}
        yield (
            await _start_run(host, ca),
            {
                "AIRFLOW_HOME": str(folder),
                "AIRFLOW_CONN_DBT_CLOUD_DEFAULT": json.dumps(connection),
                "SSL_CERT_FILE": ca,
            },
        )
    finally:
        process.kill()
        await process.wait()


async def _start_run(host: str, ca: str) -> int:
    import ssl

    api = f"https://{host}/api/v2/accounts/{ACCOUNT_ID}"
    context = ssl.create_default_context(cafile=ca)
    async with httpx.AsyncClient(verify=context, headers={"Authorization": f"Token {DEFAULT_TOKEN}"}) as http:
        job = (await http.get(f"{api}/jobs/")).json()["data"][0]["id"]
        started = await http.post(f"{api}/jobs/{job}/run/", json={"cause": "bench"})
        return int(started.json()["data"]["id"])


async def measure_peer(options: dict[str, Any], environment: dict[str, str]) -> Figures:
    async with waiter("peer", options, environment) as peer:
        await peer.says()
        quiet = await window(peer, asyncio.sleep(options["seconds"]))
        busy = await window(peer, asyncio.sleep(0))
        late = await peer.figures()
    # For the provider all windows are alike: each trigger polls once.
    return {"quiet": quiet, "busy": busy | {"cpu": quiet["cpu"]}, "late": late}


async def measure_ours(
    plane: ControlPlane, objects: Namespace, options: dict[str, Any], environment: dict[str, str]
) -> Figures:
    names, seconds = options["names"], options["seconds"]
    before = await watches(plane)
    async with waiter("ours", options, environment) as ours:
        await ours.says()
        used = await watches(plane) - before
        quiet = await window(ours, asyncio.sleep(seconds))
        progress = paced(names, seconds, lambda name: objects.set_status(name, "Running", runId=5, progress="3/5"))
        busy = await window(ours, progress)
        answered = await flip(objects, names)
        ended = await ours.figures()
    late = [max(0.0, ended[name] - answered[name]) * 1e3 for name in names]
    shown = {"p50": _quantile(late, 50), "p99": _quantile(late, 99), "watches": used, "lag": ended["lag"]}
    return {"quiet": quiet, "busy": busy, "late": shown}


async def window(waiting: Waiter, doing: Awaitable[None]) -> dict[str, float]:
    """What waiting cost while something was done."""
    await doing
    waiting.go_on()
    return await waiting.figures()


async def paced(names: list[str], seconds: float, act: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Acts once for each name, spread over that time."""
    begin = time.monotonic()
    for number, name in enumerate(names):
        await asyncio.sleep(max(0.0, begin + seconds * number / len(names) - time.monotonic()))
        await act(name)
    await asyncio.sleep(max(0.0, begin + seconds - time.monotonic()))


async def flip(objects: Namespace, names: list[str]) -> dict[str, float]:
    """Ends the runs one after the other; when the API server had stored each."""
    answered: dict[str, float] = {}
    for name in names:
        await objects.set_status(name, "Succeeded", "RunSucceeded", runId=5)
        answered[name] = time.monotonic()
    return answered


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def row(name: str, value: float, target: float, **more: Any) -> bool:
    met = value <= target
    print(
        json.dumps({"bench": name, "value": round(value, 5), "target": round(target, 5), "met": met} | more), flush=True
    )
    return met


async def bench(triggers: int, seconds: float) -> bool:
    names = [f"run-{number}" for number in range(triggers)]
    with tempfile.TemporaryDirectory(prefix="bench-trigger-") as folder:
        async with simulator(Path(folder)) as (run_id, environment):
            options: dict[str, Any] = {"names": names, "seconds": seconds, "run_id": run_id}
            peer = await measure_peer(options, environment)
        async with ControlPlane.start() as plane, administering(plane, "default") as objects:
            await asyncio.to_thread(install_crd, plane)
            await asyncio.gather(*map(objects.create, names))
            options |= {"namespace": "default", "kubeconfig": str(plane.kubeconfig)}
            ours = await measure_ours(plane, objects, options, environment)
    return report(peer, ours, triggers, seconds)


def report(peer: Figures, ours: Figures, triggers: int, seconds: float) -> bool:
    size = {"triggers": triggers, "seconds": seconds}

    def ratio(name: str, window: str, what: str, target: float) -> bool:
        mine, theirs = ours[window][what], peer[window][what]
        return row(name, mine / theirs, target, ours=mine, peer=theirs, **size)

    return all(
        [
            ratio("cpu_ratio", "quiet", "cpu", CPU_TARGET),
            ratio("cpu_ratio_with_a_write_per_run_and_poll", "busy", "cpu", BUSY_CPU_TARGET),
            ratio("memory_ratio", "quiet", "rss", MEMORY_TARGET),
            row("loop_lag_p99_ms", ours["late"]["lag"], LAG_TARGET_MS, peer=peer["late"]["lag"], **size),
            row("status_to_event_p99_ms", ours["late"]["p99"], LATENCY_TARGET_MS, p50=ours["late"]["p50"], **size),
            row("api_server_watches", ours["late"]["watches"], 1, **size),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--triggers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="the poll interval, and how long is measured")
    parser.add_argument("--wait", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.wait:
        asyncio.run(wait(args.wait, args.options))
    else:
        sys.exit(not asyncio.run(bench(args.triggers, args.seconds)))


if __name__ == "__main__":
    main()
