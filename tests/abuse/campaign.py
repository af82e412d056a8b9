"""Random objects meet a real API server, the watcher and the simulator; then all is held against the truth."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from dbtrun.api import FINAL_PHASES
from tests.abuse import oracle
from tests.abuse.api import Api, Seen, phase_of
from tests.abuse.figures import Figures
from tests.abuse.lives import HOLD, Ledger, Life
from tests.abuse.schema import INT64, SECRETS
from tests.controlplane import ControlPlane
from tests.plain import plain_http
from tests.stack import JOBS, Stack
from tests.stack.dbt import ACCOUNT, SCENARIO
from watcher.lifecycle.policy import Policy

logger = logging.getLogger(__name__)

NAMESPACE: Final = "abuse"
TOGETHER: Final = 300
"""Objects that are mistreated at the same time."""
THEIRS: Final = 30
"""dbt Cloud runs of somebody else, for objects to adopt."""
PATIENCE: Final = 120.0
"""Seconds after the last edit within which every object tells its end or what it waits for, or fewer do not than
before: a run that dbt Cloud denies is believed gone after 60, and a busy machine has a backlog."""
IDLE: Final = 5.0
"""Seconds for which nobody does anything, to see who is busy all the same."""
SETTINGS: Final = {
    "DBTRUN_FEED_INTERVAL_SECONDS": "1",
    "DBTRUN_REQUESTS_PER_MINUTE": "4500",
    "DBTRUN_LOG_LEVEL": "info",
    "DBTRUN_SUBMIT_WINDOW_SECONDS": "15",
    "DBTRUN_REQUEST_SECONDS": "15",
    "DBTRUN_QUIET_PERIOD_SECONDS": "30",
    "DBTRUN_LEADER_ELECTION": "false",
}
"""The only watcher: one that must never end must not lose a Lease to a busy machine either."""
NAMES: Final = {number: name for name, number in JOBS.items()}
SCRIPTS: Final = [job | {"parallel": True, "name": NAMES[job["id"]]} for job in SCENARIO["jobs"]]
SLOW_STARTS: Final = {"kinds": ["start"], "probability": 0.2, "effect": {"type": "latency", "seconds": 1.0}}
"""So that there is something to edit while an object is being submitted."""


async def campaign(
    plane: ControlPlane, folder: Path, *, count: int, seed: int, seconds: float = math.inf, patient: bool = True
) -> Figures:
    """Mistreats so many objects, and tells what came of it.

    Args:
        seconds: after which no more objects are made.
        patient: whether statuses name runs that dbt Cloud does not know, which is believed after a minute.
    """
    await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
    ledger = Ledger(seed, strangers=(1, INT64 - 1) if patient else ())
    async with (
        Stack.up(plane, NAMESPACE, folder, scenario={**SCENARIO, "jobs": SCRIPTS}, settings=SETTINGS) as stack,
        Api(plane.kubeconfig, NAMESPACE) as api,
    ):
        return await Campaign(stack, api, ledger).run(count, seconds)


class Campaign:
    """One campaign, from the first object to the last one's end."""

    def __init__(self, stack: Stack, api: Api, ledger: Ledger) -> None:
        self.stack, self.api, self.ledger = stack, api, ledger
        self.seen, self.figures = Seen(), Figures(ledger)
        self.lives: list[Life] = []

    async def run(self, count: int, seconds: float) -> Figures:
        """Plays it."""
        began = time.monotonic()
        self.address = (await self.stack.watcher.says(r"Listening on (\S+)\.\"")).group(1)
        await self.stack.watcher.says("Watching 0 DbtRuns")
        await self._prepare()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self.api.watch(self.seen))
            await self._mistreat(count, began + seconds)
            await self._settle()
            await self._idle()
            await self._hold_against_dbt()
            await self._end()
            watch.cancel()
        await self._count()
        self._judge()
        self.figures.seconds = time.monotonic() - began
        return self.figures

    async def _prepare(self) -> None:
        for number in range(THEIRS):
            job = ("endless", "success", "slow")[number % 3]
            run = await self.stack.ask("POST", "/runs", {"job_id": JOBS[job]})
            self.ledger.theirs.append(int(run["id"]))
        await self.stack.ask("POST", "/faults", SLOW_STARTS)

    async def _mistreat(self, count: int, ends: float) -> None:
        numbers = iter(range(count))

        async def some() -> None:
            for number in numbers:
                if time.monotonic() > ends:
                    return
                assert self.stack.watcher.running, self.stack.watcher.tail()
                if number % 1_000 == 0:
                    logger.info("Object %d of %d.", number, count)
                self.lives.append(Life(number, self.api, self.seen, self.ledger))
                await self.lives[-1].live()

        async with asyncio.TaskGroup() as group:
            for _ in range(TOGETHER):
                group.create_task(some())
        self.figures.objects = len(self.lives)

    async def _settle(self) -> None:
        logger.info("All are made, %d are there.", len(self.seen.objects))
        live: set[int] = set()

        async def untold() -> int:
            live.clear()
            live.update(run["id"] for run in await self.stack.runs("endless") if run["status"] < 10)
            return sum(oracle.untold(body, live) is not None for body in self.seen.objects.values())

        await none_left(untold)
        for name, body in self.seen.objects.items():
            if what := oracle.untold(body, live):
                self.ledger.complain("telling", name, f"{what}: {oracle.brief(body)}")

    async def _idle(self) -> None:
        before = await self._metric("dbtrun_reconciles_total")
        await asyncio.sleep(IDLE)
        self.figures.idle = (await self._metric("dbtrun_reconciles_total") - before) / IDLE
        live = sum(phase_of(body) not in FINAL_PHASES for body in self.seen.objects.values())
        if self.figures.idle > 1 + live / 2:
            told = f"{self.figures.idle} reconciles a second for {live} live objects"
            self.ledger.complain("bounds", "everybody", told)

    async def _hold_against_dbt(self) -> None:
        runs = {run["id"]: run for run in await self.stack.runs()}
        self.figures.runs = len(runs)
        for body in self.seen.objects.values():
            self.figures.phases[phase_of(body)] += 1
            self.figures.reasons[body.get("status", {}).get("reason", "")] += 1
        self.ledger.complaints += oracle.untrue(self.lives, runs)
        self.ledger.complaints += oracle.wrong_starts(self.lives, runs.values())

    async def _end(self) -> None:
        """Everything is deleted, who held an object back lets it go, and the Secrets that were missed come."""
        logger.info("Everything is deleted.")
        keys = {"token": self.stack.token, "account-id": str(ACCOUNT), "host": self.stack.url}
        await self.stack.apply(*(self.stack.secret(name, keys) for name in SECRETS))

        async def staying() -> int:
            await self._let_go()
            # Again and again: the API server gives up where the watcher writes an object that it is about to delete.
            if not all(body["metadata"].get("deletionTimestamp") for body in self.seen.objects.values()):
                with contextlib.suppress(httpx.ReadTimeout):  # on a busy machine it takes longer
                    await self.api.delete_all()
            return len(self.seen.objects)

        await none_left(staying)
        if all(map(oracle.in_another_account, self.seen.objects.values())):
            await none_left(staying, Policy().deletion_grace + PATIENCE)
        for name, body in self.seen.objects.items():
            self.ledger.complain("ends", name, f"it is deleted and stays: {oracle.brief(body)}")
        self.ledger.complaints += oracle.left_alive(self.lives, await self.stack.runs())

    async def _let_go(self) -> None:
        """Takes every hold away that was seen: on a busy machine some are seen late."""
        for name, body in list(self.seen.objects.items()):
            metadata = body["metadata"]
            holders = metadata.get("finalizers", [])
            if HOLD in holders:
                rest = [one for one in holders if one != HOLD]
                change = {"resourceVersion": metadata["resourceVersion"], "finalizers": rest}
                await self.api.patch(name, {"metadata": change})  # a version that is stale is refused

    # ── the watcher itself ──

    async def _metric(self, name: str) -> float:
        async with plain_http() as http:
            lines = (await http.get(f"http://{self.address}/metrics")).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    async def _count(self) -> None:
        ours = {life.name for life in self.lives}
        self.figures.reconciles = int(await self._metric("dbtrun_reconciles_total"))
        self.figures.failed = int(await self._metric("dbtrun_reconcile_failures_total"))
        self.figures.versions = Counter({name: n for name, n in self.seen.versions.items() if name in ours})
        told = (str(line.get("run", "")) for line in self._log() if line["logger"] == "watcher.reconcile")
        self.figures.decisions = Counter(run.rpartition("/")[2] for run in told)

    def _log(self) -> list[dict[str, Any]]:
        whole, _, _ = self.stack.watcher.text().rpartition("\n")  # the watcher may be writing the last line
        # Not splitlines, to which some characters inside of JSON strings are line ends.
        return [msgspec.json.decode(line) for line in whole.split("\n") if line.startswith("{")]

    def _judge(self) -> None:
        for program in (self.stack.watcher, self.stack.simulator):
            if not program.running or "Traceback" in program.text():
                self.ledger.complain("health", program.name, f"it died or raised: {program.tail(5)[:1_000]}")
        self.ledger.complaints += oracle.alarming(self._log())
        self.ledger.complaints += oracle.too_busy(self.lives, "decisions", self.figures.decisions)
        self.ledger.complaints += oracle.too_busy(self.lives, "versions", self.figures.versions)
        if self.figures.reconciles > oracle.PER_WRITE * self.figures.writes:
            told = f"{self.figures.reconciles} reconciles for {self.figures.writes} writes"
            self.ledger.complain("bounds", "everybody", told)


async def none_left(count: Callable[[], Awaitable[int]], patience: float = PATIENCE) -> None:
    """Waits until the count is zero, or has not become less for `patience` seconds."""
    least, since = math.inf, time.monotonic()
    while (left := await count()) and time.monotonic() - since < patience:
        if left < least:
            least, since = left, time.monotonic()
            logger.debug("%d are left.", left)
        await asyncio.sleep(1.0)
