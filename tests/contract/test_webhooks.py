"""Webhooks of the simulator: subscriptions as the API has them, and deliveries as dbt Cloud makes them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.contract.conftest import ACCOUNT, EVERYTHING, QUICK, Cloud
from tests.unit.webhooks.posting import PATH, SECRET, Watching, receiving
from watcher.simulator.model import Status, TriggerRequest
from watcher.simulator.scenario import JobSpec, Scenario, WebhookSpec
from watcher.simulator.testing import Running, running
from watcher.simulator.webhooks import Conduct

URL = "http://127.0.0.1:1/hooks/data/dbt-cloud"


async def api(cloud: Cloud, method: str, path: str, token: str = EVERYTHING, **body: Any) -> httpx.Response:
    url = f"http://simulator/api/v3/accounts/{ACCOUNT}/webhooks/{path}"
    return await cloud.client.request(method, url, json=body or None, headers={"Authorization": f"Token {token}"})


async def test_the_secret_of_a_subscription_is_shown_once(cloud: Cloud) -> None:
    wanted: dict[str, Any] = {
        "name": "watcher",
        "client_url": URL,
        "event_types": ["job.run.completed"],
        "job_ids": [QUICK],
    }
    made = (await api(cloud, "POST", "subscriptions", **wanted, active=True, description="")).json()["data"]
    assert len(made["hmac_secret"]) == 64
    assert (made["account_id"], made["job_ids"], made["http_status_code"]) == (str(ACCOUNT), [str(QUICK)], "0")
    assert int(made["created_at"]) > 10**15, "microseconds"
    (listed,) = (await api(cloud, "GET", "subscriptions")).json()["data"]
    read = (await api(cloud, "GET", f"subscription/{made['id']}")).json()["data"]
    assert listed == read == {name: value for name, value in made.items() if name != "hmac_secret"}


async def test_a_subscription_is_changed_and_removed(cloud: Cloud) -> None:
    made = (await api(cloud, "POST", "subscriptions", name="a", client_url=URL, active=False)).json()["data"]
    where = f"subscription/{made['id']}"
    changed = (await api(cloud, "PUT", where, **{**made, "active": True})).json()["data"]
    assert changed["active"] is True
    kept = cloud.simulator.webhooks.subscriptions[made["id"]].spec.hmac_secret
    assert kept == made["hmac_secret"], "it does not change with the rest"
    assert (await api(cloud, "DELETE", where)).status_code == 200
    assert (await api(cloud, "GET", where)).status_code == 404


async def test_what_is_no_subscription_is_refused(cloud: Cloud) -> None:
    assert (await api(cloud, "POST", "subscriptions", name="a")).status_code == 400
    refused = await api(cloud, "POST", "subscriptions", client_url=URL, event_types=["job.run.cancelled"])
    assert refused.status_code == 400
    assert (await api(cloud, "POST", "subscriptions", token="reader", client_url=URL)).status_code == 403


async def test_the_control_surface_shows_them_and_says_how_they_go_wrong(cloud: Cloud) -> None:
    await api(cloud, "POST", "subscriptions", client_url=URL)
    shown = (await cloud.client.put("http://simulator/_simulator/webhooks", json={"drop": 0.5})).json()
    assert shown["conduct"]["drop"] == 0.5
    assert [each["spec"]["client_url"] for each in shown["subscriptions"].values()] == [URL]
    wrong = await cloud.client.put("http://simulator/_simulator/webhooks", json={"drop": 2})
    assert wrong.status_code == 400


@asynccontextmanager
async def subscribed(*jobs: JobSpec, **conduct: Any) -> AsyncIterator[tuple[Running, Watching]]:
    """A simulator that sends to a receiver."""
    async with receiving() as at:
        webhook = WebhookSpec(client_url=at.url + PATH, hmac_secret=SECRET)
        scenario = Scenario(jobs=[*jobs] or [JobSpec(name="quick", queue=0, start=0, run=0.1)], webhooks=[webhook])
        async with running(scenario) as cloud:
            cloud.simulator.account.spec.id = 1
            cloud.simulator.webhooks.conduct = Conduct(retry_seconds=0.05, **conduct)
            yield cloud, at


def start(cloud: Running, job: int = 0) -> int:
    return cloud.simulator.start([*cloud.simulator.account.jobs.values()][job], TriggerRequest(cause="a test")).id


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not done():  # noqa: ASYNC110 - the simulator's counts change by themselves
            await asyncio.sleep(0.02)


def kinds(at: Watching) -> Counter[str]:
    return Counter(hint.kind.value for _, hint in at.hints)


async def test_a_run_is_told_of_when_it_starts_and_when_it_has_succeeded() -> None:
    async with subscribed() as (cloud, at):
        run_id = start(cloud)
        await until(lambda: len(at.hints) == 2)
        assert {hint.run_id for _, hint in at.hints} == {run_id}
        assert kinds(at) == {"job.run.started": 1, "job.run.completed": 1}
        assert at.outcomes == {"accepted": 2}, "the watcher accepts the signatures"


async def test_an_error_is_told_twice_and_the_second_time_with_its_artifacts() -> None:
    failing = JobSpec(name="failing", queue=0, start=0, run=0, outcomes=["error"], artifacts_after=0.5)
    async with subscribed(failing) as (cloud, at):
        start(cloud)
        await until(lambda: kinds(at)["job.run.errored"])
        assert not kinds(at)["job.run.completed"]
        await until(lambda: kinds(at)["job.run.completed"])


async def test_a_cancelled_run_is_not_told_of() -> None:
    async with subscribed(JobSpec(name="held", queue=0, start=0, run=None)) as (cloud, at):
        run_id = start(cloud)
        await until(lambda: kinds(at)["job.run.started"])
        cloud.simulator.finish(cloud.simulator.account.runs[run_id], Status.CANCELLED)
        assert cloud.simulator.webhooks._told == []


async def test_one_that_is_not_answered_with_success_is_sent_five_times() -> None:
    async with subscribed() as (cloud, at):
        at.leads = False
        start(cloud)
        await until(lambda: cloud.simulator.webhooks.counts["failed"] == 10)
        await asyncio.sleep(0.2)
        assert cloud.simulator.webhooks.counts["attempts"] == 10
        assert at.outcomes == {"unavailable": 10}


async def test_a_subscription_that_fails_too_often_is_deactivated_until_somebody_activates_it() -> None:
    async with subscribed(deactivate_after=3) as (cloud, at):
        (subscription,) = cloud.simulator.webhooks.subscriptions.values()
        at.leads = False
        counts, runs = cloud.simulator.webhooks.counts, cloud.simulator.account.runs
        start(cloud)
        # A request that was sent before the deactivation still arrives, and a receiver that leads by then accepts it.
        await until(lambda: not subscription.spec.active and counts["failed"] == counts["attempts"])
        at.leads, told = True, counts["events"]
        unheard = runs[start(cloud)]
        await until(lambda: unheard.status is Status.SUCCESS)
        await asyncio.sleep(0.5)
        assert (at.hints, counts["events"], counts["delivered"]) == ([], told, 0)
        async with httpx.AsyncClient(headers={"Authorization": f"Token {cloud.token}"}, trust_env=False) as http:
            path = cloud.api(f"webhooks/subscription/{subscription.id}", "v3")
            before = (await http.get(path)).json()["data"]
            assert before["active"] is False
            await http.put(path, json=before | {"active": True})
        run_id = start(cloud)
        await until(lambda: len(at.hints) == 2)
        assert {hint.run_id for _, hint in at.hints} == {run_id}


async def test_deliveries_are_lost_doubled_and_out_of_order_as_one_wishes() -> None:
    async with subscribed(JobSpec(name="quick", queue=0, start=0, run=0, parallel=True)) as (cloud, at):
        cloud.simulator.webhooks.conduct = Conduct(drop=0.3, double=0.3, delay=[0, 0.5])
        runs = [start(cloud) for _ in range(60)]
        counts = cloud.simulator.webhooks.counts
        await until(lambda: counts["events"] == 120)
        await until(lambda: counts["delivered"] == counts["attempts"] >= counts["events"] - counts["dropped"])
        await asyncio.sleep(0.6)
        assert 10 < counts["dropped"] < 60
        assert at.outcomes["duplicate"] > 10
        order = [hint.run_id for _, hint in at.hints]
        assert order != sorted(order, key=lambda run_id: runs.index(run_id or 0))
