"""A dbt Cloud for tests: the simulator as a process of its own, and its control surface."""

from __future__ import annotations

import contextlib
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.patience import patience
from tests.plain import plain_http
from tests.stack.program import Program

ROOT: Final = Path(__file__).parents[2]
ACCOUNT: Final = 70403103922125
JOBS: Final = {
    "success": 101,
    "failure": 102,
    "endless": 103,
    "flaky": 104,
    "parallel": 105,
    "slow": 106,
    "flaky-too": 107,
}
"""Ids of the scripted jobs."""

SCENARIO: Final[dict[str, Any]] = {
    "account": {"id": ACCOUNT},
    "projects": [{"name": "Analytics", "environments": [{"name": "Production"}]}],
    "jobs": [
        {"id": 101, "name": "daily build", "queue": 0.1, "start": 0.1, "run": 1.0, "parallel": True},
        {
            "id": 102, "name": "broken build", "queue": 0.1, "start": 0.1, "run": 0.5, "outcomes": ["error"],
            "failing": [{"node": "model.shop.orders", "message": "Database Error: relation does not exist"}],
            "parallel": True,
        },
        {"id": 103, "name": "endless build", "queue": 0.1, "start": 0.1, "run": None, "cancel_delay": 0.2,
         "parallel": True},
        {"id": 104, "name": "flaky build", "queue": 0.1, "start": 0.1, "run": 0.5, "outcomes": ["error", "success"]},
        {"id": 107, "name": "flaky build too", "queue": 0.1, "start": 0.1, "run": 0.5,
         "outcomes": ["error", "success"]},
        {"id": 105, "name": "many builds", "queue": 0.1, "start": 0.1, "run": [2.0, 4.0], "parallel": True},
        {"id": 106, "name": "slow build", "queue": 0.1, "start": 0.1, "run": 20.0},
    ],
}  # fmt: skip


class DbtCloud:
    """`async with DbtCloud.serving(folder) as dbt`: its files and its log are in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = f"dbtc_{secrets.token_hex(20)}"
        self.ca: str | None = None
        """The certificate that clients must trust; None: it speaks http."""
        self.control = plain_http(10)

    @classmethod
    @contextlib.asynccontextmanager
    async def serving(
        cls, folder: Path, scenario: Mapping[str, Any] = SCENARIO, address: str | None = None
    ) -> AsyncIterator[DbtCloud]:
        """It answers; at the end it is gone.

        Args:
            folder: where its files go.
            scenario: the simulator's file.
            address: where others than this machine reach it, by https with a CA of its own; None: loopback, by http.
                The watcher talks to it only if `settings.connectionHosts` of the chart names it.
        """
        dbt = cls(folder)
        try:
            await dbt.serve(scenario, address)
            yield dbt
        finally:
            await dbt.close()

    async def serve(self, scenario: Mapping[str, Any] = SCENARIO, address: str | None = None) -> None:
        config, tls = self.folder / "scenario.yaml", self.folder / "tls"
        config.write_text(yaml.safe_dump(dict(scenario)))
        arguments = ["--config", str(config), "--port", "0", "--token", self.token]
        if address is not None:
            arguments += ["--host", address, "--tls-dir", str(tls), "--remote-control"]
        env = {"HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-m", "dbtrun", "simulate", *arguments]
        self.simulator = Program("simulator", argv, env, self.folder / "simulator.log")
        self.simulator.start()
        self.url = (await self.simulator.says(r"simulator: (\S+),")).group(1)
        if address is not None:
            self.ca = (tls / "ca.pem").read_text()
            trusted = ssl.create_default_context(cadata=self.ca)
            self.control = httpx.AsyncClient(timeout=patience(10), trust_env=False, verify=trusted)

    async def close(self) -> None:
        if hasattr(self, "simulator") and self.simulator.running:
            await self.simulator.kill()
        await self.control.aclose()

    def keys(self, token: str | None = None) -> dict[str, str]:
        """What a connection Secret says of it.

        Args:
            token: instead of the one that it takes.
        """
        keys = {"token": token or self.token, "account-id": str(ACCOUNT), "host": self.url}
        return keys if self.ca is None else keys | {"ca.crt": self.ca}

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.control.request(method, f"{self.url}/_simulator{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def dbt(self, path: str) -> Any:
        """Something of the account, by the API that everybody uses."""
        url = f"{self.url}/api/v2/accounts/{ACCOUNT}/{path}"
        answer = await self.control.get(url, headers={"Authorization": f"Token {self.token}"})
        assert answer.is_success, answer.text
        return answer.json()["data"]

    async def file(self, run_id: int, path: str) -> bytes:
        """An artifact of a run, as dbt Cloud has it."""
        url = f"{self.url}/api/v2/accounts/{ACCOUNT}/runs/{run_id}/artifacts/{path}"
        answer = await self.control.get(url, headers={"Authorization": f"Token {self.token}"})
        assert answer.is_success, answer.text
        return answer.content

    async def runs(self, job: str | None = None) -> list[dict[str, Any]]:
        listed = await self.ask("GET", "/runs" if job is None else f"/runs?job_id={JOBS[job]}")
        assert isinstance(listed, list)
        return listed

    async def journal(self) -> list[dict[str, Any]]:
        journal = await self.ask("GET", "/journal")
        assert isinstance(journal, list)
        return journal


def most_at_once(runs: list[dict[str, Any]]) -> int:
    """Runs that were live together, from their creation to their end."""
    edges = [(run["created_at"], 1) for run in runs] + [(run["finished_at"], -1) for run in runs if run["finished_at"]]
    live = most = 0
    for _, step in sorted(edges):
        live += step
        most = max(most, live)
    return most
