"""The system under fire: two watchers and one Lease, a simulator that remembers, an API server of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.chaos.faults import Rule
from tests.controlplane import ControlPlane
from tests.stack import Program, Stack, until
from tests.stack.stack import ROOT

WATCHERS: Final = 2
SETTINGS: Final = {
    "DBTRUN_SUBMIT_WINDOW_SECONDS": "2",
    "DBTRUN_REQUEST_SECONDS": "3",
    "DBTRUN_QUIET_PERIOD_SECONDS": "10",
    "DBTRUN_LEASE_SECONDS": "2",
    "DBTRUN_LEADER_ELECTION": "true",
    "DBTRUN_LOG_LEVEL": "info",
}
"""The defaults, about ten times faster."""
MUTANTS: Final[dict[str, dict[str, str]]] = {
    "look-up": {},
    "quiet-period": {"DBTRUN_QUIET_PERIOD_SECONDS": "0"},
    "precondition": {"DBTRUN_LEADER_ELECTION": "false"},
}
"""Parts of the protocol that can be taken away (mutants/sitecustomize.py), and the settings that go with each."""
SCENARIO: Final[dict[str, Any]] = {
    "account": {"id": 70403103922125},
    "projects": [{"name": "Analytics", "environments": [{"name": "Production"}]}],
    "jobs": [
        {"id": 101, "name": "success", "queue": 0.1, "start": 0.1, "run": [0.3, 4.0], "parallel": True},
        {"id": 102, "name": "failure", "queue": 0.1, "start": 0.1, "run": [0.3, 2.0], "parallel": True,
         "outcomes": ["error"]},
        {"id": 103, "name": "endless", "queue": 0.1, "start": 0.1, "run": None, "cancel_delay": 0.5, "parallel": True},
        {"id": 104, "name": "flaky", "queue": 0.1, "start": 0.1, "run": [0.3, 2.0], "parallel": True,
         "outcomes": ["error", "success"] * 500},
        {"id": 105, "name": "serial", "queue": 0.1, "start": 0.1, "run": [0.5, 2.0]},
    ],
}  # fmt: skip
JOBS: Final = {job["name"]: job["id"] for job in SCENARIO["jobs"]}


class Arena(Stack):
    """A stack whose parts die, stop and come back."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        super().__init__(plane, namespace, folder)
        self.watchers: list[Program] = []
        self.hits: Counter[str] = Counter()
        """How often each kind of fault hit a request."""
        self._rules: dict[int, str] = {}
        self._said: Counter[str] = Counter()

    # ── parts ──

    async def _simulate(self, scenario: Mapping[str, Any]) -> None:
        config = self.folder / "scenario.yaml"
        config.write_text(yaml.safe_dump(dict(scenario)))
        state = self.folder / "state.sqlite"
        arguments = ["--config", str(config), "--token", self.token, "--state", str(state), "--port", "0"]
        argv = [sys.executable, "-m", "watcher", "simulate", *arguments]
        self.simulator = self._program("simulator", argv, {})
        self.simulator.start()
        self.url = (await self.simulator.says(r"simulator: (\S+),")).group(1)
        self.simulator.argv[-1] = self.url.rpartition(":")[2]  # it comes back at the same place

    def _program(self, name: str, argv: list[str], env: Mapping[str, str]) -> Program:
        if name != "watcher":
            return super()._program(name, argv, env)
        if "CHAOS_MUTANT" in env:
            env = {**env, "PYTHONPATH": f"{Path(__file__).parent / 'mutants'}{os.pathsep}{ROOT}"}
        self.watchers = [super(Arena, self)._program(f"watcher-{n}", argv, env) for n in range(WATCHERS)]
        return self.watchers[0]

    async def _down(self) -> None:
        for watcher in self.watchers:
            if watcher.running:
                await watcher.kill()
        await super()._down()

    def revive(self) -> None:
        """Starts every watcher that is not running, as a Deployment does."""
        for watcher in self.watchers:
            if not watcher.running:
                self._said[watcher.name] = len(watcher.text())
                watcher.start()

    async def watched(self) -> None:
        """Until one of the watchers that run holds the Lease and has begun."""

        async def begun() -> bool:
            self.revive()
            return any("Watching " in watcher.text()[self._said[watcher.name] :] for watcher in self.watchers)

        await until(begun, 60, "a watcher that acts", pause=0.1)

    async def pause(self, program: Program, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so many seconds: as a machine that is suspended, or has no memory left."""
        if program.running:
            program.send(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            program.send(signal.SIGCONT)

    async def restart_simulator(self) -> None:
        """Kills it; what it had answered it still knows, what it was asked in that moment is anybody's guess."""
        await self._count()
        self._rules.clear()
        await self.simulator.kill()
        said = len(self.simulator.text())
        self.simulator.start()
        await self.simulator.says(r"simulator: (\S+),", after=said)

    # ── faults ──

    async def plague(self, name: str, rule: Rule) -> None:
        answer = await self.ask("POST", "/faults", rule)
        self._rules[answer["id"]] = name

    async def heal(self) -> None:
        """Lifts every fault, and counts how often it was met."""
        await self._count()
        self._rules.clear()
        await self.ask("DELETE", "/faults")

    async def _count(self) -> None:
        for fault in (await self.ask("GET", "/faults"))["faults"]:
            self.hits[self._rules[fault["id"]]] += fault["hits"]

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The simulator may be on its way back."""

        async def answer() -> tuple[Any] | None:
            try:
                return (await super(Arena, self).ask(method, path, body),)
            except httpx.TransportError:
                return None

        return (await until(answer, 30, f"the simulator answers {method} {path}"))[0]
