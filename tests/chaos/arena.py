"""The system under fire: three watchers and one Lease, a simulator that remembers, an API server of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
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
from tests.stack.dbt import DbtCloud
from tests.stack.proxy import Proxy
from tests.stack.site import ROOT
from tests.stack.stack import SECRET

WATCHERS: Final = 3
SETTINGS: Final = {
    "DBTRUN_SUBMIT_WINDOW_SECONDS": "2",
    "DBTRUN_REQUEST_SECONDS": "3",
    "DBTRUN_QUIET_PERIOD_SECONDS": "10",
    "DBTRUN_LEASE_SECONDS": "2",
    "DBTRUN_LEADER_ELECTION": "true",
    "DBTRUN_LOG_LEVEL": "info",
}
"""The defaults, about ten times faster."""
PAST: Final = "past"
"""The search for a run before the first claim, which matters only where a backup is restored."""
CURSOR: Final = "cursor"
"""That a mirror saves its cursor after the objects: without it, a watcher that dies in between loses runs."""
MUTANTS: Final[dict[str, dict[str, str]]] = {
    "look-up": {},
    "quiet-period": {"DBTRUN_QUIET_PERIOD_SECONDS": "0"},
    "precondition": {"DBTRUN_LEADER_ELECTION": "false"},
    PAST: {},
    CURSOR: {},
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
HOME_ACCOUNT: Final[int] = SCENARIO["account"]["id"]
AWAY_ACCOUNT: Final = HOME_ACCOUNT + 1
ELSEWHERE: Final[dict[str, Any]] = {
    **SCENARIO,
    "account": {"id": AWAY_ACCOUNT},
    "jobs": [*SCENARIO["jobs"], {"id": 201, "name": "theirs", "run": None, "parallel": True}],
}
"""Another account with jobs of the same numbers, and one that no DbtRun starts."""
STRANGE_JOB: Final = 201


class Arena(Stack):
    """A stack whose parts die, stop and come back, with a second dbt Cloud that its connection can come to mean."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        super().__init__(plane, namespace, folder)
        self.watchers: list[Program] = []
        self.proxies: list[Proxy] = []
        """What each watcher reaches the API server through."""
        self.hits: Counter[str] = Counter()
        """How often each kind of fault hit a request."""
        self.elsewhere = DbtCloud(folder / "elsewhere")
        self._rules: dict[int, str] = {}
        self._said: Counter[str] = Counter()
        self._tokens = [self.token]
        self._opened = contextlib.AsyncExitStack()

    # ── parts ──

    async def _install(self, settings: Mapping[str, str], values: Mapping[str, Any]) -> None:
        address = httpx.URL(self.plane.server)
        assert address.port is not None
        for _ in range(WATCHERS):
            self.proxies.append(await self._opened.enter_async_context(Proxy.up(address.host, address.port)))
        await super()._install(settings, values)

    async def serve(self, scenario: Mapping[str, Any] = SCENARIO, address: str | None = None) -> None:
        """As everywhere, but that the simulator keeps its runs, and comes back where it was."""
        assert address is None, "it is on loopback"
        config = self.folder / "scenario.yaml"
        config.write_text(yaml.safe_dump(dict(scenario)))
        state = self.folder / "state.sqlite"
        arguments = ["--config", str(config), "--token", self.token, "--state", str(state), "--port", "0"]
        argv = [sys.executable, "-m", "dbtrun", "simulate", *arguments]
        self.simulator = self._program("simulator", argv, {})
        self.simulator.start()
        self.url = (await self.simulator.says(r"simulator: (\S+),")).group(1)
        self.simulator.argv[-1] = self.url.rpartition(":")[2]  # it comes back at the same place
        self.elsewhere.folder.mkdir()
        await self.elsewhere.serve(ELSEWHERE)
        self._tokens.append(self.elsewhere.token)

    def _program(self, name: str, argv: list[str], env: Mapping[str, str]) -> Program:
        if name != "watcher":
            return super()._program(name, argv, env)
        if "CHAOS_MUTANT" in env:
            env = {**env, "PYTHONPATH": f"{Path(__file__).parent / 'mutants'}{os.pathsep}{ROOT}"}
        self.watchers = [self._watcher(f"watcher-{n}", argv, env, proxy) for n, proxy in enumerate(self.proxies)]
        return self.watchers[0]

    def _watcher(self, name: str, argv: list[str], env: Mapping[str, str], proxy: Proxy) -> Program:
        direct, through = Path(env["DBTRUN_KUBECONFIG"]), self.folder / f"{name}.kubeconfig"
        through.write_text(direct.read_text().replace(self.plane.server, f"https://127.0.0.1:{proxy.port}"))
        return super()._program(name, argv, {**env, "DBTRUN_KUBECONFIG": str(through)})

    async def _down(self) -> None:
        for watcher in self.watchers:
            if watcher.running:
                await watcher.kill()
        await super()._down()
        await self.elsewhere.close()
        await self._opened.aclose()

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

    async def partition(self, proxy: Proxy, seconds: float) -> None:
        """One watcher and the API server hear nothing from each other for so many seconds."""
        proxy.hold()
        await asyncio.sleep(seconds)
        proxy.release()

    async def rotate_token(self, seconds: float) -> None:
        """dbt Cloud refuses the token from now on; the Secret has the new one so many seconds later."""
        self.token = f"dbtc_{secrets.token_hex(20)}"
        self._tokens.append(self.token)
        await self.ask("PUT", "/tokens", {"tokens": [{"token": self.token}]})
        self.simulator.argv[self.simulator.argv.index("--token") + 1] = self.token
        await asyncio.sleep(seconds)
        await self.connect()

    async def lead_elsewhere(self, strangers: int) -> None:
        """The connection names the other account from now on, where somebody starts so many runs of their own."""
        for _ in range(strangers):
            await self.elsewhere.ask("POST", "/runs", {"job_id": STRANGE_JOB})
        keys = {**self.elsewhere.keys(), "account-id": str(AWAY_ACCOUNT)}
        await self.apply(self.secret(SECRET, keys))

    async def assert_no_secret_told(self) -> None:
        await until(self._serves, 60, "the watcher that has begun just now serves the pages that are read, too")
        told = await until(self._told, 60, "a watcher does not end while its pages are read")
        names = [name for name, text in told.items() if any(token in text for token in self._tokens)]
        assert not names, f"a token stands in {names}"

    async def _told(self) -> dict[str, str] | None:
        with contextlib.suppress(httpx.TransportError):
            return await self.everything_told()
        return None

    async def _serves(self) -> bool:
        return not self.watcher.running or "Listening on" in self.watcher.text()[self._said[self.watcher.name] :]

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
