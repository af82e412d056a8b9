"""The bodies of errors, word for word as they were recorded or reported."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.contract.conftest import QUICK, SCENARIO, Cloud, simulated
from watcher.simulator.server import application
from watcher.simulator.testing import ManualTime

NOT_FOUND = "The requested resource was not found. Please check that you have the proper permissions."
INVALID = "The request was invalid. Please double check the provided data and try again."


def body(code: int, message: str, developer: str | None = "", data: Any = None) -> dict[str, Any]:
    status = {"code": code, "is_success": False, "user_message": message, "developer_message": developer}
    return {"status": status, "data": data}


@pytest.mark.parametrize("header", ["Token wrong", "Bearer wrong", "Basic all", "all", ""])
async def test_a_bad_token_is_401(cloud: Cloud, header: str) -> None:
    response = await cloud.client.get("runs/", headers={"Authorization": header})
    assert (response.status_code, response.json()) == (401, body(401, "Invalid token.", None))


@pytest.mark.parametrize("scheme", ["Token", "Bearer"])
async def test_both_schemes_are_accepted(cloud: Cloud, scheme: str) -> None:
    assert (await cloud.client.get("runs/", headers={"Authorization": f"{scheme} all"})).status_code == 200


async def test_a_wrong_account_is_403_and_never_404(cloud: Cloud) -> None:
    response = await cloud.client.get("http://simulator/api/v2/accounts/1/runs/99/")
    expected = body(403, "Access denied: Token is not scoped to account.")
    assert (response.status_code, response.json()) == (403, expected)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "runs/1/"),
        ("GET", "runs/one/"),
        ("POST", "runs/1/cancel/"),
        ("POST", "runs/1/retry/"),
        ("GET", "runs/1/artifacts/"),
        ("GET", "jobs/1/"),
        ("POST", "jobs/1/run/"),
        ("POST", "jobs/1/rerun/"),
        ("GET", "steps/1/"),
        ("GET", "steps/80000000000104/"),
        ("GET", "projects/1/"),
        ("GET", "environments/1/"),
        ("GET", "no/such/path/"),
    ],
)
async def test_what_does_not_exist_is_404(cloud: Cloud, method: str, path: str) -> None:
    response = await cloud.client.request(method, path)
    assert (response.status_code, response.json()) == (404, body(404, NOT_FOUND))


@pytest.mark.parametrize(
    ("sent", "data"),
    [
        ({}, {"cause": "required key not provided"}),
        ({"cause": ""}, {"cause": "required key not provided"}),
        ({"cause": None}, {"cause": "required key not provided"}),
        ({"cause": "x" * 256}, {"cause": "Expected `str` of length <= 255"}),
        ({"cause": "x", "steps_override": "dbt run"}, {"steps_override": "Expected `array | null`, got `str`"}),
        ({"cause": "x", "steps_override": [1]}, {"steps_override": "Expected `str`, got `int`"}),
        ({"cause": "x", "threads_override": "4"}, {"threads_override": "Expected `int | null`, got `str`"}),
        ({"cause": "x", "schema_override": ""}, {"schema_override": "Expected `str` of length >= 1"}),
        ([], {"body": "Expected a JSON object."}),
    ],
)
async def test_a_bad_start_is_400_names_the_field_and_starts_nothing(cloud: Cloud, sent: Any, data: Any) -> None:
    response = await cloud.client.post(f"jobs/{QUICK}/run/", json=sent)
    assert (response.status_code, response.json()) == (400, body(400, INVALID, data=data))
    assert await cloud.ids() == []


async def test_a_start_without_json_is_400(cloud: Cloud) -> None:
    response = await cloud.client.post(f"jobs/{QUICK}/run/", content=b"cause=x")
    assert response.status_code == 400
    assert response.json()["data"]["body"].startswith("JSON parse error")


async def test_a_token_that_may_only_read_is_403(cloud: Cloud) -> None:
    response = await cloud.client.post(
        f"jobs/{QUICK}/run/", json={"cause": "x"}, headers={"Authorization": "Token reader"}
    )
    assert response.status_code == 403
    assert await cloud.ids() == []


async def test_an_unpaid_account_has_no_api(time: ManualTime) -> None:
    cloud = simulated(time, account=SCENARIO["account"] | {"unpaid": True})
    response = await cloud.client.get("runs/")
    assert response.json() == body(401, "The API is not accessible to unpaid accounts.")


async def test_a_wrong_method_is_405_without_an_envelope(cloud: Cloud) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application(cloud.simulator))) as client:
        response = await client.get(f"{cloud.client.base_url}jobs/{QUICK}/run/")
    assert (response.status_code, response.json()) == (405, {"detail": 'Method "GET" not allowed.'})
