"""Each fault as a real client meets it, over a real socket."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.contract.conftest import CI, QUICK, scenario
from tests.patience import patience
from watcher.simulator.faults import Rule
from watcher.simulator.scenario import convert
from watcher.simulator.testing import Running, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def cloud() -> AsyncIterator[Running]:
    async with running(scenario()) as cloud:
        yield cloud


@pytest.fixture
async def client(cloud: Running) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Token {cloud.token}"}
    async with httpx.AsyncClient(base_url=cloud.api(), headers=headers, timeout=5) as client:
        yield client


def spoil(cloud: Running, effect: str, /, *, rule: dict[str, Any] | None = None, **options: Any) -> None:
    cloud.simulator.faults.add(convert({"effect": {"type": effect} | options} | (rule or {}), Rule))


async def start(client: httpx.AsyncClient, job: int = QUICK) -> httpx.Response:
    return await client.post(f"jobs/{job}/run/", json={"cause": "x"})


async def eventually(holds: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + patience(seconds)
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


def started(cloud: Running) -> int:
    return len(cloud.simulator.account.runs)


async def test_latency_delays_a_true_answer(cloud: Running, client: httpx.AsyncClient) -> None:
    spoil(cloud, "latency", seconds=0.2)
    before = time.monotonic()
    assert (await client.get("runs/")).status_code == 200
    assert time.monotonic() - before >= 0.2


@pytest.mark.parametrize("commit", [False, True])
async def test_a_hang_lasts_until_the_client_gives_up(cloud: Running, client: httpx.AsyncClient, commit: bool) -> None:
    spoil(cloud, "hang", commit=commit)
    with pytest.raises(httpx.ReadTimeout):
        await client.post(f"jobs/{QUICK}/run/", json={"cause": "x"}, timeout=0.2)
    assert started(cloud) == commit


@pytest.mark.parametrize(("when", "runs"), [("before", 0), ("after", 1)])
async def test_a_connection_drops_before_or_after_the_commit(
    cloud: Running, client: httpx.AsyncClient, when: str, runs: int
) -> None:
    spoil(cloud, "drop", when=when, rule={"kinds": ["start"], "times": 1})
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await start(client)
    assert started(cloud) == runs
    assert cloud.simulator.requests.codes["start"] == {"dropped": 1}
    assert (await start(client)).status_code == 200


async def test_a_connection_drops_over_https_too() -> None:
    async with running(tls=True) as cloud:
        spoil(cloud, "drop", when="after")
        trust = ssl.create_default_context(cafile=str(cloud.ca))
        async with httpx.AsyncClient(verify=trust, headers={"Authorization": f"Token {cloud.token}"}) as client:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await client.post(cloud.api(f"jobs/{cloud.job_id}/run/"), json={"cause": "x"})
        assert started(cloud) == 1


async def test_a_late_commit_loses_the_reply_and_takes_effect_afterwards(
    cloud: Running, client: httpx.AsyncClient
) -> None:
    spoil(cloud, "late-commit", seconds=0.1, rule={"kinds": ["start"]})
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await start(client)
    assert started(cloud) == 0
    await eventually(lambda: started(cloud) == 1)
    assert len((await client.get("runs/")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("options", "media", "text"),
    [
        ({"status": 500, "body": "bare"}, "application/json", '{"detail":"There was a server error. Please contact'),
        ({"status": 503, "body": "enveloped", "message": "Busy"}, "application/json", '{"status":{"code":503,'),
        ({"status": 502, "body": "html"}, "text/html; charset=utf-8", "<html><head><title>502 Bad Gateway</title>"),
        ({"status": 504, "body": "text", "message": "upstream timed out"}, "text/plain; charset=utf-8", "upstream"),
        ({"status": 200, "body": "html"}, "text/html; charset=utf-8", "<html>"),
        ({"status": 200, "body": "empty"}, None, ""),
        ({"status": 598, "body": "html"}, "text/html; charset=utf-8", "<html><head><title>598 Unknown"),
    ],
)
async def test_a_reply_can_be_anything_that_proxies_and_servers_send(
    cloud: Running, client: httpx.AsyncClient, options: dict[str, Any], media: str | None, text: str
) -> None:
    spoil(cloud, "reply", **options)
    response = await start(client)
    assert (response.status_code, response.headers.get("content-type")) == (options["status"], media)
    assert response.text.startswith(text)
    assert started(cloud) == 0


async def test_a_gateway_error_can_hide_a_run_that_was_created(cloud: Running, client: httpx.AsyncClient) -> None:
    spoil(cloud, "reply", status=504, body="html", commit=True, headers={"X-Cache": "Error"})
    response = await start(client)
    assert (response.status_code, response.headers["x-cache"], started(cloud)) == (504, "Error", 1)


@pytest.mark.parametrize("retry_after", [False, True])
async def test_a_rate_limit_silences_the_whole_account(
    cloud: Running, client: httpx.AsyncClient, retry_after: bool
) -> None:
    spoil(cloud, "rate-limit", cooldown=0.3, retry_after=retry_after, rule={"kinds": ["list-runs"], "times": 1})
    assert (await start(client)).status_code == 200
    limited = await client.get("runs/")
    assert limited.status_code == 429
    assert limited.headers.get("retry-after") == ("1" if retry_after else None)
    assert (await start(client)).status_code == 429
    assert started(cloud) == 1
    await eventually(lambda: cloud.simulator.faults.silence() is None)
    assert (await client.get("runs/")).status_code == 200


async def test_a_reply_can_be_cut_short(cloud: Running, client: httpx.AsyncClient) -> None:
    spoil(cloud, "truncate")
    response = await client.get("runs/")
    assert response.text.startswith('{"status"')
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        response.json()


async def test_a_body_can_be_huge(cloud: Running, client: httpx.AsyncClient) -> None:
    spoil(cloud, "huge", size=3_000_000)
    assert len((await client.get("runs/")).content) == 3_000_000


async def test_a_body_can_trickle(cloud: Running, client: httpx.AsyncClient) -> None:
    spoil(cloud, "slow", chunk=100, seconds=0.05)
    before = time.monotonic()
    assert (await client.get("runs/")).json()["data"] == []
    assert time.monotonic() - before >= 0.1


async def test_a_redirect_leads_to_another_host(cloud: Running, client: httpx.AsyncClient) -> None:
    spoil(cloud, "redirect", location="https://elsewhere.example/api/")
    response = await client.get("runs/")
    assert (response.status_code, response.headers["location"]) == (307, "https://elsewhere.example/api/")


async def test_a_filter_can_be_ignored_without_a_word(cloud: Running, client: httpx.AsyncClient) -> None:
    first, second = (await start(client)).json()["data"], (await start(client)).json()["data"]
    spoil(cloud, "ignore-filters", filters=["pk__in"])
    response = await client.get("runs/", params={"pk__in": f"[{second['id']}]"})
    assert [run["id"] for run in response.json()["data"]] == [first["id"], second["id"]]
    assert "pk__in" not in response.json()["extra"]["filters"]


async def test_lists_can_lag_behind(cloud: Running, client: httpx.AsyncClient) -> None:
    spoil(cloud, "list-lag", seconds=0.3)
    run = (await start(client)).json()["data"]
    assert (await client.get("runs/")).json()["data"] == []
    assert (await client.get(f"runs/{run['id']}/")).status_code == 200
    created = cloud.simulator.account.runs[run["id"]].created_real
    await eventually(lambda: cloud.simulator.clock.real() - created > 0.3)
    assert len((await client.get("runs/")).json()["data"]) == 1


async def test_runs_can_be_hidden(cloud: Running, client: httpx.AsyncClient) -> None:
    hidden, seen = (await start(client, CI)).json()["data"]["id"], (await start(client, CI)).json()["data"]["id"]
    spoil(cloud, "hide-runs", runs=[hidden])
    assert [run["id"] for run in (await client.get("runs/")).json()["data"]] == [seen]
    assert (await client.get(f"runs/{hidden}/")).status_code == 404


async def test_a_status_nobody_knows_can_be_reported(cloud: Running, client: httpx.AsyncClient) -> None:
    run = (await start(client)).json()["data"]
    spoil(cloud, "unknown-status", status=15)
    assert (await client.get(f"runs/{run['id']}/")).json()["data"]["status"] == 15


async def test_a_path_without_its_slash_can_be_refused_as_it_once_was(
    cloud: Running, client: httpx.AsyncClient
) -> None:
    refused = 'Method "GET" not allowed.'
    spoil(cloud, "reply", status=405, message=refused, rule={"kinds": ["start"], "path": "[^/]$"})
    response = await client.post(f"jobs/{QUICK}/run", json={"cause": "x"})
    assert (response.status_code, response.json()) == (405, {"detail": refused})
    assert (await start(client)).status_code == 200


async def test_faults_add_up(cloud: Running, client: httpx.AsyncClient) -> None:
    spoil(cloud, "latency", seconds=0.1)
    spoil(cloud, "reply", status=502)
    before = time.monotonic()
    assert (await client.get("runs/")).status_code == 502
    assert time.monotonic() - before >= 0.1


@pytest.mark.parametrize(
    ("rule", "codes"),
    [
        ({"kinds": ["list-runs"]}, [500, 200]),
        ({"kinds": ["list-runs", "get-account"]}, [500, 500]),
        ({"path": "/runs/$"}, [500, 200]),
        ({"method": "post"}, [200, 200]),
        ({"times": 1}, [500, 200]),
        ({"probability": 0}, [200, 200]),
    ],
)
async def test_a_rule_meets_what_it_names(
    cloud: Running, client: httpx.AsyncClient, rule: dict[str, Any], codes: list[int]
) -> None:
    spoil(cloud, "reply", rule=rule)
    assert [(await client.get(path)).status_code for path in ("runs/", "")] == codes


async def test_a_probability_is_repeatable_by_its_seed(cloud: Running, client: httpx.AsyncClient) -> None:
    seen = []
    for _ in range(2):
        spoil(cloud, "reply", rule={"probability": 0.5, "seed": 7})
        seen.append([(await client.get("runs/")).status_code for _ in range(20)])
        cloud.simulator.faults.clear()
    assert seen[0] == seen[1]
    assert set(seen[0]) == {200, 500}


async def test_faults_are_listed_with_their_hits_and_lifted(cloud: Running, client: httpx.AsyncClient) -> None:
    faults = f"{cloud.url}/_simulator/faults"
    number = (await client.post(faults, json={"effect": {"type": "reply"}, "kinds": ["list-runs"]})).json()["id"]
    await client.get("runs/")
    listed = (await client.get(faults)).json()["faults"]
    assert [(fault["id"], fault["hits"], fault["rule"]["kinds"]) for fault in listed] == [(number, 1, ["list-runs"])]
    await client.delete(f"{faults}/{number}")
    assert (await client.get("runs/")).status_code == 200
    await client.post(faults, json={"effect": {"type": "rate-limit"}})
    assert (await client.get("runs/")).status_code == 429
    await client.delete(faults)
    assert (await client.get("runs/")).status_code == 200
