"""A simulator whose time stands still, and a client that holds every reply against the official description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.contract import description
from watcher.simulator.clock import Clock
from watcher.simulator.scenario import Scenario, convert
from watcher.simulator.server import application
from watcher.simulator.state import Simulator
from watcher.simulator.testing import ManualTime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EVERYTHING = "all"
ACCOUNT = 70403103922125
QUICK, OTHER, FAILING, HELD, DOCS, CI, ELSEWHERE = range(501, 508)
Json = dict[str, Any]
SCENARIO: Json = {
    "account": {"id": ACCOUNT},
    "tokens": [
        {"token": EVERYTHING},
        {"token": "finance-only", "projects": ["Finance"]},
        {"token": "reader", "read_only": True},
    ],
    "projects": [
        {"name": "Analytics", "id": 11, "environments": [{"name": "Production", "id": 21, "dbt_version": "1.8.0"}]},
        {"name": "Finance", "id": 12, "environments": [{"name": "Production", "id": 22, "dbt_version": "1.5.2"}]},
    ],
    "jobs": [
        {"name": "quick", "id": QUICK, "queue": 2, "start": 1, "run": 10},
        {"name": "other", "id": OTHER, "queue": 2, "start": 1, "run": 10},
        {
            "name": "failing",
            "id": FAILING,
            "steps": ["dbt seed", "dbt build", "dbt test"],
            "outcomes": ["error", "success"],
            "failing_step": 2,
            "failing": [{"node": "model.shop.orders", "message": "division by zero", "failures": 3}],
        },
        {"name": "held", "id": HELD, "run": None, "timeout_seconds": 3600, "cancel_delay": 5},
        {"name": "with docs", "id": DOCS, "generate_docs": True, "artifacts_after": 30},
        {"name": "ci", "id": CI, "parallel": True},
        {"name": "elsewhere", "id": ELSEWHERE, "project": "Finance", "outcomes": ["error"]},
    ],
}


@dataclass
class Cloud:
    """What a test holds: the client's side, the clock, and the inside of the simulator."""

    simulator: Simulator
    client: httpx.AsyncClient
    time: ManualTime

    async def start(self, job_id: int = QUICK, **body: Any) -> Json:
        run: Json = await self.data("POST", f"jobs/{job_id}/run/", json={"cause": "test"} | body)
        return run

    async def run(self, run_id: int, *related: str) -> Json:
        run: Json = await self.data("GET", f"runs/{run_id}/", params={"include_related": list(related)})
        return run

    async def cancel(self, run_id: int) -> Json:
        run: Json = await self.data("POST", f"runs/{run_id}/cancel/")
        return run

    async def ids(self, **params: Any) -> list[int]:
        return [run["id"] for run in await self.data("GET", "runs/", params=params)]

    async def data(self, method: str, path: str, **options: Any) -> Any:
        response = await self.client.request(method, path, **options)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        response = await self.client.request(method, f"http://simulator/_simulator/{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()


def scenario(**changes: Any) -> Scenario:
    return convert(SCENARIO | changes, Scenario)


def client_of(simulator: Simulator, token: str = EVERYTHING) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(application(simulator)),
        base_url=f"http://simulator/api/v2/accounts/{ACCOUNT}/",
        headers={"Authorization": f"Token {token}"},
        event_hooks={"response": [description.check]},
    )


def simulated(time: ManualTime, state: Path | None = None, **changes: Any) -> Cloud:
    simulator = Simulator(scenario(**changes), Clock(source=time), state)
    return Cloud(simulator, client_of(simulator), time)


@pytest.fixture
def time() -> ManualTime:
    return ManualTime()


@pytest.fixture
async def cloud(time: ManualTime) -> AsyncIterator[Cloud]:
    cloud = simulated(time)
    async with cloud.client:
        yield cloud
