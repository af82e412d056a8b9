"""A thousand DbtRunTriggers against a thousand of Airflow's dbt Cloud provider: CPU, memory, loop lag, latency.

Both wait at the same time on one machine, each in a process of its own, and ask what they ask of the real thing: the
provider's poll one simulator over https, ours watch a real API server, whose objects the watcher follows in that same
simulator. Triggers come one after the other within a poll interval, as tasks do: a thousand at once charge the provider
for a thousand TLS handshakes in flight. That is what a triggerer pays which begins anew, and memory alone is measured
so, too. An idle event loop, in a third process, tells what of the lag is the machine's.

One JSON line a row; the exit code is 1 if a target is missed.

    python -m tests.bench.bench_trigger [--triggers 1000] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import httpx
import psutil

from tests.cluster.trigger_support import Namespace, administering, watches
from tests.controlplane import ControlPlane
from tests.stack import Stack, dbt_run
from tests.stack.dbt import ACCOUNT, JOBS, SCENARIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
    from contextlib import AbstractAsyncContextManager

NAMESPACE: Final = "bench"
UNWATCHED: Final = "restarted"
"""A namespace that no watcher sees: its objects are how we write them."""
JOB: Final = "endless"
SETTINGS: Final = {
    "DBTRUN_REQUESTS_PER_MINUTE": "3000",
    "DBTRUN_FEED_INTERVAL_SECONDS": "5",
    "DBTRUN_LOG_LEVEL": "info",
}

CPU_TARGET: Final = 1 / 50
POLLS_TARGET: Final = 1.0
MEMORY_TARGET: Final = 1 / 4
MEMORY_IN_TURN_TARGET: Final = 1.0
"""Nearly all of it is the task and its frames, on both sides."""
LAG_TARGET_MS: Final = 20.0
LATENCY_TARGET_MS: Final = 100.0
TICK: Final = 0.05
"""Seconds between two looks at the lag."""
READY_SECONDS: Final = 600.0


# The process that waits.


@dataclass
class Gauge:
    """What waiting costs this process."""

    process: psutil.Process = field(default_factory=psutil.Process)
    lags: list[float] = field(default_factory=list)
    own_lags: list[float] = field(default_factory=list)
    """No more of each lag than the loop computed since the last look: the rest is the machine's."""
    sampler: asyncio.Task[None] | None = None

    def rss(self) -> int:
        gc.collect()
        return int(self.process.memory_info().rss)

    def sample(self, wanted: bool) -> None:
        """Looks at the lag, or stops: the looking costs more CPU than our waiting does."""
        if self.sampler is not None:
            self.sampler.cancel()
        self.sampler = asyncio.get_running_loop().create_task(self._watch_lag()) if wanted else None

    async def _watch_lag(self) -> None:
        # By a timetable: a loop that stood still for a second is late for twenty ticks, not for one.
        loop = asyncio.get_running_loop()
        due, used = loop.time(), time.thread_time()
        while True:
            due += TICK
            await asyncio.sleep(due - loop.time())
            late, before, used = max(0.0, loop.time() - due), used, time.thread_time()
            self.lags.append(late)
            self.own_lags.append(min(late, used - before))


async def wait(kind: str, options: dict[str, Any]) -> None:
    """Does what the lines that it is sent say: `start NAME`, `sample`, `rest`, `count`, `weigh`, `read`."""
    # What a library prints must not get between the lines that the other process reads.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    make, count = {"ours": _ours, "peer": _peer, "idle": _nobody}[kind](options)
    gauge, ended, events = Gauge(), dict[str, float](), list[Any]()
    tasks: list[asyncio.Task[None]] = []

    async def one(name: str) -> None:
        async for event in make(name).run():
            ended[name] = time.monotonic()
            events.append(event.payload)

    async for line in _lines():
        verb, _, name = line.partition(" ")
        if verb == "start":
            tasks.append(asyncio.create_task(one(name)))
        elif verb in {"sample", "rest"}:
            gauge.sample(verb == "sample")
        else:
            # Before anything else, for telling costs some, too.
            said: dict[str, Any] = {"cpu": time.process_time(), "count": count(), "fired": len(ended)}
            if verb == "weigh":
                said["rss"] = gauge.rss()
            if verb == "read":
                said |= {"lags": gauge.lags, "own_lags": gauge.own_lags, "ended": ended, "events": events[:1]}
            said["cpu_after"] = time.process_time()
            out.write(json.dumps(said) + "\n")


async def _lines() -> AsyncIterator[str]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line.decode().strip()


Made = tuple["Callable[[str], Any]", "Callable[[], int]"]
"""What makes a trigger, and what counts: those that wait, or the polls."""


def _ours(options: dict[str, Any]) -> Made:
    from airflow_trigger.trigger import DbtRunTrigger
    from airflow_trigger.waiting import hub

    def make(name: str) -> DbtRunTrigger:
        return DbtRunTrigger(name=name, namespace=options["namespace"], config_file=options["kubeconfig"])

    def waiting() -> int:
        hubs = [entry.value for entries in hub._hubs._loops.values() for entry in entries.values()]
        return sum(name in each._mirror for each in hubs for name in each._waiters)

    return make, waiting


def _peer(options: dict[str, Any]) -> Made:
    from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook
    from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

    polls = [0]
    poll = DbtCloudHook.get_job_status

    async def counted(*args: Any) -> Any:
        status = await poll(*args)
        polls[0] += 1
        return status

    DbtCloudHook.get_job_status = counted  # type: ignore[assignment, method-assign]

    def make(_name: str) -> DbtCloudRunJobTrigger:
        return DbtCloudRunJobTrigger(
            conn_id="dbt_cloud_default",
            run_id=options["run_id"],
            end_time=time.time() + 86_400,
            poll_interval=options["seconds"],
            account_id=ACCOUNT,
        )

    return make, lambda: polls[0]


def _nobody(_options: dict[str, Any]) -> Made:
    return lambda _name: None, lambda: 0


# The process that measures.


@dataclass
class Reading:
    """What a waiting process said of itself; CPU in seconds, before and after it was asked."""

    cpu: float
    cpu_after: float
    count: int
    fired: int
    rss: int = 0
    lags: list[float] = field(default_factory=list)
    own_lags: list[float] = field(default_factory=list)
    ended: dict[str, float] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)


class Waiter:
    """The other process: what it is told, what it says."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    @classmethod
    @asynccontextmanager
    async def of(cls, kind: str, options: dict[str, Any], environment: Mapping[str, str]) -> AsyncIterator[Waiter]:
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
            yield cls(process, errors)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def tells(self, what: str) -> Reading:
        """Its answer to `count`, `weigh` or `read`."""
        assert self._process.stdout is not None
        self.say(what)
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            self._errors.seek(0)
            raise SystemExit(f"the waiting process ended: {self._errors.read()[-2000:].decode()}")
        return Reading(**json.loads(line))

    async def reaches(self, wanted: Callable[[Reading], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not wanted(reading := await self.tells("count")):
            if time.monotonic() > deadline:
                raise SystemExit(f"{reading}, but not what was expected: {(await self.tells('read')).events}")
            await asyncio.sleep(0.2)


class SecureStack(Stack):
    """Its simulator speaks https: the provider knows nothing else."""

    async def serve(self, scenario: Mapping[str, Any] = SCENARIO, address: str | None = None) -> None:
        await super().serve(scenario, address or "127.0.0.1")

    @property
    def trust(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self.folder / "tls/ca.pem")}

    def as_airflow_finds_it(self) -> dict[str, str]:
        connection = {"conn_type": "dbt_cloud", "login": str(ACCOUNT), "password": self.token}
        host = {"host": self.url.removeprefix("https://")}
        home = {"AIRFLOW_HOME": str(self.folder), "AIRFLOW_CONN_DBT_CLOUD_DEFAULT": json.dumps(connection | host)}
        return home | self.trust

    async def start_run(self) -> int:
        """A run that does not end, for the provider."""
        import ssl

        context = ssl.create_default_context(cafile=self.trust["SSL_CERT_FILE"])
        async with httpx.AsyncClient(verify=context, headers={"Authorization": f"Token {self.token}"}) as http:
            url = f"{self.url}/api/v2/accounts/{ACCOUNT}/jobs/{JOBS[JOB]}/run/"
            return int((await http.post(url, json={"cause": "bench"})).json()["data"]["id"])


@dataclass
class Pair:
    """Both kinds of triggers, and the objects that ours wait for."""

    objects: Namespace
    names: list[str]
    ours: Waiter
    peer: Waiter

    async def first(self) -> None:
        """One of each: it pays for what is loaded once."""
        await self.one(self.names[0])
        await self.are_waiting(1)

    async def create(self, name: str) -> None:
        await self.objects.runs.create(dbt_run(name, JOB, pollIntervalSeconds=60))

    def start(self, name: str) -> None:
        self.ours.say(f"start {name}")
        self.peer.say(f"start {name}")

    async def one(self, name: str) -> None:
        await self.create(name)
        self.start(name)

    async def are_waiting(self, count: int) -> None:
        """Each object was told of, each run was polled for, and nothing fired."""
        await self.ours.reaches(lambda reading: reading.count >= count and not reading.fired)
        await self.peer.reaches(lambda reading: reading.count >= count and not reading.fired)

    async def tell(self, what: str) -> tuple[Reading, Reading]:
        return await self.ours.tells(what), await self.peer.tells(what)

    async def growth(self, since: tuple[Reading, Reading]) -> dict[str, float]:
        """Bytes of RSS since they were weighed. A few triggers may fit into memory that the process has already."""
        ours, peer = await self.tell("weigh")
        return {"ours": ours.rss - since[0].rss, "peer": peer.rss - since[1].rss}


@dataclass
class Bench(Pair):
    """Both, an idle loop, and what there is around them."""

    stack: SecureStack
    seconds: float
    idle: Waiter

    async def others(self) -> None:
        """All others, each as its object is created."""
        await paced(self.names[1:], self.seconds, self.one)
        await self.are_waiting(len(self.names))

    def sample(self, wanted: bool) -> None:
        for waiter in (self.ours, self.peer, self.idle):
            waiter.say("sample" if wanted else "rest")

    async def write_progress(self, name: str) -> None:
        await self.objects.set_status(name, "Running", progress=f"{int(time.monotonic()) % 100}/100")

    async def end_all(self) -> dict[str, float]:
        """Ends the runs one after the other; when the API server had stored each."""
        stored: dict[str, float] = {}

        async def end(name: str) -> None:
            await self.objects.set_status(name, "Succeeded", "RunSucceeded")
            stored[name] = time.monotonic()

        await paced(self.names, self.seconds / 2, end)
        await self.ours.reaches(lambda reading: reading.fired == len(self.names))
        return stored


async def paced(names: list[str], seconds: float, act: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Acts once for each name, spread over that time."""
    begin = time.monotonic()
    for number, name in enumerate(names):
        await asyncio.sleep(max(0.0, begin + seconds * number / len(names) - time.monotonic()))
        await act(name)
    await asyncio.sleep(max(0.0, begin + seconds - time.monotonic()))


async def status_writes(plane: ControlPlane) -> int:
    """How many writes to a DbtRun's status the API server has done."""
    counted = re.findall(r"^apiserver_request_total\{(.*)\} (\d+)$", await plane.metrics(), re.MULTILINE)
    wanted = ('resource="dbtruns"', 'subresource="status"', 'verb="PATCH"', 'code="200"')
    return sum(int(count) for labels, count in counted if all(label in labels for label in wanted))


@dataclass
class Window:
    """What a time cost both kinds, in CPU seconds, how often the provider polled, what was written."""

    ours: float
    peer: float
    polls: int
    status_writes: int


async def window(bench: Bench, doing: Coroutine[Any, Any, Any]) -> Window:
    written = await status_writes(bench.stack.plane)
    ours, peer = await bench.tell("count")
    await doing
    ours_after, peer_after = await bench.tell("count")
    return Window(
        ours_after.cpu - ours.cpu_after,
        peer_after.cpu - peer.cpu_after,
        peer_after.count - peer.count,
        await status_writes(bench.stack.plane) - written,
    )


async def grown_at_once(pair: Pair) -> dict[str, float]:
    """What all triggers but the first cost a triggerer that starts them together."""
    await pair.first()
    weighed = await pair.tell("weigh")
    for name in pair.names[1:]:
        await pair.create(name)
    for name in pair.names:
        await pair.objects.set_status(name, "Running", progress="1/100")
    for name in pair.names[1:]:
        pair.start(name)
    await pair.are_waiting(len(pair.names))
    return await pair.growth(weighed)


async def measured(bench: Bench) -> bool:
    await bench.first()
    weighed = await bench.tell("weigh")
    bench.sample(True)
    coming = await window(bench, bench.others())
    bench.sample(False)
    waiting = await window(bench, asyncio.sleep(bench.seconds))
    await bench.stack.watcher.stop()
    written = await window(bench, paced(bench.names, bench.seconds, bench.write_progress))
    used = await watches(bench.stack.plane)  # the watcher's own ended with it
    grown = await bench.growth(weighed)
    bench.sample(True)
    ending = asyncio.create_task(bench.end_all())
    ends = await window(bench, asyncio.wait([ending]))
    stored = ending.result()
    told, peer_last, idle_last = *await bench.tell("read"), await bench.idle.tells("read")

    size = {"triggers": len(bench.names), "seconds": bench.seconds}
    per_poll = (waiting.peer + written.peer) / (waiting.polls + written.polls)
    per_task = (coming.ours + ends.ours) / len(bench.names)
    late = [max(0.0, told.ended[name] - stored[name]) * 1e3 for name in bench.names]
    lags = {
        "own_cpu_p99": p99_ms(told.own_lags),
        "own_cpu_max": max(told.own_lags) * 1e3,
        "peer": p99_ms(peer_last.lags),
        "peer_own_cpu_p99": p99_ms(peer_last.own_lags),
        "idle_loop": p99_ms(idle_last.lags),
    }
    return all(
        [
            cpu_row("cpu_ratio", waiting, size),
            cpu_row("cpu_ratio_with_a_write_per_run_and_poll", written, size),
            row("start_and_end_in_polls", per_task / per_poll, POLLS_TARGET, ours=per_task, peer=per_poll, **size),
            row(
                "memory_ratio_in_turn", grown["ours"] / max(grown["peer"], 1.0), MEMORY_IN_TURN_TARGET, **grown, **size
            ),
            row("loop_lag_p99_ms", p99_ms(told.lags), LAG_TARGET_MS, **lags, **size),
            row("status_to_event_p99_ms", _p99(late), LATENCY_TARGET_MS, p50=statistics.median(late), **size),
            row("api_server_watches", used, 1, **size),
        ]
    )


def cpu_row(name: str, cost: Window, size: Mapping[str, float]) -> bool:
    return row(name, cost.ours / cost.peer, CPU_TARGET, **vars(cost), **size)


def row(name: str, value: float, target: float, **more: float) -> bool:
    met = value <= target
    figures = {"value": value, "target": target} | more
    print(
        json.dumps({"bench": name, "met": met} | {what: round(figure, 5) for what, figure in figures.items()}),
        flush=True,
    )
    return met


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def p99_ms(seconds: list[float]) -> float:
    return _p99(seconds) * 1e3


@dataclass
class Hall:
    """Where triggers wait: makes the processes and namespaces they need."""

    stack: SecureStack
    options: dict[str, Any]
    names: list[str]

    def waiter(self, kind: str, namespace: str) -> AbstractAsyncContextManager[Waiter]:
        return Waiter.of(kind, self.options | {"namespace": namespace}, self.stack.as_airflow_finds_it())

    @asynccontextmanager
    async def pair(self, namespace: str) -> AsyncIterator[Pair]:
        async with (
            administering(self.stack.plane, namespace) as objects,
            self.waiter("ours", namespace) as ours,
            self.waiter("peer", namespace) as peer,
        ):
            yield Pair(objects, self.names, ours, peer)


async def restarted(hall: Hall) -> bool:
    hall.stack.plane.create_namespace_sync(UNWATCHED)
    async with hall.pair(UNWATCHED) as pair:
        grown = await grown_at_once(pair)
    size = {"triggers": len(hall.names)}
    return row("memory_ratio", grown["ours"] / max(grown["peer"], 1.0), MEMORY_TARGET, **grown, **size)


async def in_turn(hall: Hall, seconds: float) -> bool:
    async with hall.pair(NAMESPACE) as pair, hall.waiter("idle", NAMESPACE) as idle:
        return await measured(Bench(**vars(pair), stack=hall.stack, seconds=seconds, idle=idle))


async def bench(triggers: int, seconds: float, together: bool) -> bool:
    names = [f"run-{number}" for number in range(triggers)]
    async with AsyncExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="bench-trigger-")))
        plane = await opened.enter_async_context(ControlPlane.start())
        plane.create_namespace_sync(NAMESPACE)
        trusting = SETTINGS | {"SSL_CERT_FILE": str(folder / "ca.pem")}
        stack = await opened.enter_async_context(SecureStack.up(plane, NAMESPACE, folder, settings=trusting))
        assert isinstance(stack, SecureStack)
        options = {"seconds": seconds, "run_id": await stack.start_run(), "kubeconfig": str(plane.kubeconfig)}
        hall = Hall(stack, options, names)
        met = [await restarted(hall)] if together else []
        return all([*met, await in_turn(hall, seconds)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triggers", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="the provider's poll interval, and a window")
    parser.add_argument(
        "--in-turn-only", action="store_true", help="do not measure what triggers cost started together"
    )
    parser.add_argument("--wait", choices=["ours", "peer", "idle"], help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.wait:
        asyncio.run(wait(args.wait, args.options))
    else:
        sys.exit(not asyncio.run(bench(args.triggers, args.seconds, not args.in_turn_only)))


if __name__ == "__main__":
    main()
