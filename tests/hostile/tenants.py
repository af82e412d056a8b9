"""Those who share a watcher: attackers, each with a connection of its own, and a healthy tenant with the default."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from dbtrun.api import API_VERSION, FINAL_PHASES, PLURAL
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.connect import connect
from dbtrun.kube.errors import NotFound, Unreachable
from dbtrun.kube.watch import lines
from tests.controlplane import ControlPlane
from tests.hostile.attacks import CHOSEN, Attack, Level
from tests.hostile.replies import ACCOUNT, JOB, RUN
from tests.hostile.server import counts_file
from tests.stack import Program, Stack, dbt_run, until

ROOT: Final = Path(__file__).parents[2]
SETTINGS: Final = {
    "DBTRUN_REQUEST_SECONDS": "8",
    "DBTRUN_SUBMIT_WINDOW_SECONDS": "5",
    "DBTRUN_QUIET_PERIOD_SECONDS": "15",
    "DBTRUN_LOG_LEVEL": "info",
}
"""Of the watcher: periods that a test would else have to wait for."""
SETTLED: Final = 240.0
"""Seconds within which a run of the healthy tenant ends on any machine."""
WATCH_SECONDS: Final = 3_600


def runs_of(namespace: str) -> str:
    """Where the DbtRuns of a namespace are."""
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}"


@asynccontextmanager
async def sharing(
    plane: ControlPlane, name: str, folder: Path, settings: Mapping[str, str] = {}
) -> AsyncIterator[Stack]:
    """A watcher that both tenants share, with the memory that the chart gives to it. Attackers have their namespace."""
    for namespace in (name, attackers_of(name)):
        await asyncio.to_thread(plane.create_namespace_sync, namespace)
    values = {
        "watchNamespaces": [name, attackers_of(name)],
        "connection": {"namespaces": [name]},
        "secretNamespaces": [attackers_of(name)],
    }
    async with Stack.up(plane, name, folder, settings={**SETTINGS, **settings}, values=values, limited=True) as stack:
        await stack.watcher.says("Watching ")
        yield stack


def attackers_of(name: str) -> str:
    """The attackers' namespace."""
    return f"{name}-attackers"


# ── attackers ──


def name_of(attack: str) -> str:
    """Its objects' name."""
    return "".join(letter if letter.isalnum() else "-" for letter in attack.lower())


def of_levels(levels: Collection[Level]) -> dict[str, Attack]:
    """The chosen attacks of these levels by name."""
    return {name: attack for name, attack in CHOSEN.items() if attack.level in levels}


@asynccontextmanager
async def attacking(stack: Stack, *levels: Level) -> AsyncIterator[None]:
    """The attackers of these levels, and their objects; afterwards neither is there any more."""
    programs = [_attackers(stack, level) for level in levels]
    try:
        for program, level in zip(programs, levels, strict=True):
            before = len(program.text())  # the second attempt has other ports than the first
            program.start()
            ports = json.loads((await program.says(r'\{"ports": .*\}', after=before)).group(0))["ports"]
            for name, attack in of_levels([level]).items():
                await _use(stack, name_of(name), attack, ports[name])
        yield
    finally:
        for program in programs:
            if program.running:
                await program.kill()
    await _clear_away(stack)


async def _clear_away(stack: Stack) -> None:
    """Deletes the attackers' objects, and does not wait for what nobody will ever confirm."""
    namespace = attackers_of(stack.namespace)
    path = runs_of(namespace)
    async with connect(ClusterConfig(config_file=str(stack.plane.kubeconfig))) as cluster:

        async def gone() -> bool:
            # A busy API server may need longer for hundreds of objects than a request may take.
            with suppress(Unreachable):
                await cluster.request("DELETE", path)
                await cluster.request("DELETE", f"/api/v1/namespaces/{namespace}/secrets")
                left = json.loads(await cluster.request("GET", path))["items"]
                for run in left:
                    with suppress(NotFound):
                        freed = {"metadata": {"finalizers": None}}
                        await cluster.request("PATCH", f"{path}/{run['metadata']['name']}", body=freed)
                return not left
            return False

        await until(gone, SETTLED, "the attackers' objects gone", pause=0.5)


def _attackers(stack: Stack, level: Level) -> Program:
    argv = [sys.executable, "-m", "tests.hostile.server", level, str(stack.folder)]
    return Program(f"attackers-{level}", argv, {"PYTHONPATH": str(ROOT)}, stack.folder / f"attackers-{level}.log")


async def _use(stack: Stack, name: str, attack: Attack, port: int) -> None:
    """A connection to the attacker; objects that follow a run there, start one, and look for a job by its names."""
    keys = {"token": "dbtc_attacker", "account-id": str(ACCOUNT)}
    keys["host"] = f"{'https' if attack.tls else 'http'}://localhost:{port}"
    if attack.tls and attack.trusted:
        keys["ca.crt"] = (stack.folder / "hostile-ca.pem").read_text()
    # Of its own in each attempt: a Secret that was read is used for a while as it was.
    secret = f"{name}-{port}"
    by = {"connectionRef": {"name": secret}}
    named = {"name": "nightly", "project": "x" * 200, "environment": "y"}
    namespace = attackers_of(stack.namespace)
    await stack.plane.change("POST", f"/api/v1/namespaces/{namespace}/secrets", stack.secret(secret, keys))
    for run in (
        dbt_run(f"{name}-follows", None, runId=RUN, **by),
        dbt_run(f"{name}-starts", None, job={"id": JOB}, **by),
        dbt_run(f"{name}-looks", None, job=named, **by),
    ):
        await stack.plane.change("POST", runs_of(namespace), run)


def met(stack: Stack, levels: Iterable[Level]) -> dict[str, int]:
    """How many connections each attacker has had."""
    counts: dict[str, int] = {}
    for level in levels:
        counts |= json.loads(counts_file(stack.folder, level).read_text())
    return counts


# ── the healthy tenant ──


@dataclass(slots=True)
class Seen:
    """What somebody who watches the healthy tenant's objects saw, and when (seconds since the epoch)."""

    final: dict[str, float] = field(default_factory=dict)
    status: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def watching(cls, stack: Stack) -> AsyncIterator[Self]:
        """Notes what happens while the block lasts."""
        seen = cls()
        async with connect(ClusterConfig(config_file=str(stack.plane.kubeconfig))) as cluster:
            query = {"watch": "true", "timeoutSeconds": str(WATCH_SECONDS)}
            async with cluster.stream(runs_of(stack.namespace), query, WATCH_SECONDS) as stream:
                reading = asyncio.create_task(seen._read(stream))
                try:
                    yield seen
                finally:
                    reading.cancel()

    async def _read(self, stream: Any) -> None:
        async for line in lines(stream):
            run = json.loads(line)["object"]
            name, status = run["metadata"]["name"], run.get("status", {})
            self.status[name] = status
            if status.get("phase") in FINAL_PHASES:
                self.final.setdefault(name, time.time())

    async def all_final(self, names: Iterable[str], seconds: float = SETTLED) -> None:
        """Waits for the ends of these objects."""
        left = set(names)

        async def over() -> bool:
            return left <= self.final.keys()

        try:
            await until(over, seconds, "the healthy tenant's runs end")
        except AssertionError:
            raise AssertionError({name: self.status.get(name) for name in left - self.final.keys()}) from None


@dataclass(slots=True)
class Times:
    """How long the healthy tenant's runs took, in seconds: from apply to start, and from end to status."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    @property
    def p95(self) -> tuple[float, float]:
        """Of the starts, and of the ends."""
        return _p95(self.starts), _p95(self.ends)

    def __add__(self, other: Times) -> Times:
        return Times(self.starts + other.starts, self.ends + other.ends)


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


async def times(stack: Stack, seen: Seen, label: str, count: int, pause: float) -> Times:
    """Creates so many runs of the healthy tenant one after another, and measures them."""
    applied: dict[str, float] = {}
    for number in range(count):
        name = f"{label}-{number}"
        applied[name] = time.time()
        await stack.plane.change("POST", runs_of(stack.namespace), dbt_run(name))
        await asyncio.sleep(pause)
    await seen.all_final(applied)
    assert all(seen.status[name]["phase"] == "Succeeded" for name in applied)
    runs = {run["id"]: run for run in await stack.runs()}
    took = Times()
    for name, began in applied.items():
        run = runs[seen.status[name]["runId"]]
        took.starts.append(_seconds(run["created_at"]) - began)
        took.ends.append(seen.final[name] - _seconds(run["finished_at"]))
    return took


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def assert_traced(log: str) -> None:
    """A traceback names the connection and its objects."""
    for line in log.splitlines():
        if "Traceback" in line:
            told: Mapping[str, Any] = json.loads(line)
            assert {"connection", "objects"} <= told.keys() or "run" in told, line
