"""A connection's webhook is kept active, against the simulator's API."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from dbtrun.connection.secret import Connection, Token
from watcher.clock import system_clock
from watcher.dbtcloud import wire
from watcher.dbtcloud.accounts import Accounts
from watcher.dbtcloud.budget import Budget
from watcher.dbtcloud.channel import Channel
from watcher.dbtcloud.containment import Containment
from watcher.dbtcloud.subscription import AGAIN_SECONDS, Subscription, managing
from watcher.simulator.faults import Reply, Rule
from watcher.simulator.model import TriggerRequest
from watcher.simulator.scenario import Scenario, TokenSpec, WebhookSpec
from watcher.simulator.testing import Running, running

URL = "https://hooks.example.com/hooks/data/dbt-cloud"
TOKENS = [TokenSpec(token="usual"), TokenSpec(token="reader", read_only=True), TokenSpec(token="manager")]
OTHER = WebhookSpec(client_url="https://somebody.example.com/", active=False)
OURS = WebhookSpec(client_url=URL, name="ours", job_ids=[12], event_types=["job.run.completed"])


def connection(cloud: Running, manager: str) -> Connection:
    return Connection(
        host=cloud.host,
        account_id=cloud.account_id,
        token=Token("usual"),
        tls=False,
        webhook_url=URL,
        webhook_token=Token(manager),
    )


@asynccontextmanager
async def looking(
    *webhooks: WebhookSpec, manager: str = "manager", transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[tuple[Running, Subscription, list[str]]]:
    states: list[str] = []
    async with running(Scenario(tokens=TOKENS, webhooks=[*webhooks])) as cloud:
        managed = managing(connection(cloud, manager))
        channel = Channel(managed, Budget(), transport, system_clock)
        surprises = Containment(managed, tuple, time.monotonic).surprises
        yield cloud, Subscription(channel, URL, states.append, system_clock, surprises), states
        await channel.close()


def put(cloud: Running) -> int:
    return cloud.simulator.requests.kinds["put-webhook"]


async def test_an_active_webhook_is_left_alone() -> None:
    async with looking(OURS, OTHER) as (cloud, subscription, states):
        await subscription.look()
        assert (states, put(cloud)) == (["active"], 0)


async def test_a_deactivated_one_is_activated_and_stays_what_it_is_and_others_are_left_alone() -> None:
    async with looking(OTHER, OURS) as (cloud, subscription, states):
        other, ours = cloud.simulator.webhooks.subscriptions.values()
        ours.spec.active = False
        secret = ours.spec.hmac_secret
        await subscription.look()
        assert states == ["activated"]
        told = (ours.spec.active, ours.spec.name, ours.spec.job_ids, ours.spec.event_types, ours.spec.hmac_secret)
        assert told == (True, "ours", [12], ["job.run.completed"], secret)
        assert not other.spec.active


async def test_one_that_is_deactivated_again_is_activated_once_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    async with looking(OURS) as (cloud, subscription, states):
        (ours,) = cloud.simulator.webhooks.subscriptions.values()
        for _ in range(4):
            ours.spec.active = False
            await subscription.look()
        assert (states, put(cloud)) == (["activated", "inactive", "inactive", "inactive"], 1)
        assert caplog.text.count("deactivated the webhook for the address in webhook-url again") == 1
        subscription._activated_at -= AGAIN_SECONDS
        await subscription.look()
        assert (states[-1], ours.spec.active) == ("activated", True)


async def test_a_missing_one_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async with looking(OTHER) as (cloud, subscription, states):
        for _ in range(3):
            await subscription.look()
        assert (states, put(cloud)) == (["missing"] * 3, 0)
        assert caplog.text.count("create one there") == 1


@pytest.mark.parametrize("token", ["unknown", "reader"])
async def test_a_token_that_may_not_is_told_in_one_sentence(token: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with looking(OURS, manager=token) as (cloud, subscription, found):
        next(iter(cloud.simulator.webhooks.subscriptions.values())).spec.active = False
        await subscription.look()
        await subscription.look()
        assert found[0] == "refused"
        assert caplog.text.count("The token may not read or change webhooks") == 1
        assert token not in caplog.text


async def test_what_nobody_foresaw_is_a_fault_and_is_logged_once_without_the_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def breaks(_request: httpx.Request) -> httpx.Response:
        raise RuntimeError("a library broke on manager")

    async with looking(OURS, transport=httpx.MockTransport(breaks)) as (_, subscription, states):
        await subscription.look()
        await subscription.look()
    assert states == ["failed", "failed"]
    (told,) = [record for record in caplog.records if "unexpected RuntimeError" in record.getMessage()]
    assert "a library broke on" in told.__dict__["trace"]
    assert "a library broke on manager" not in told.__dict__["trace"]


async def test_a_fault_is_no_refusal() -> None:
    async with looking(OURS) as (cloud, subscription, states):
        cloud.simulator.faults.add(Rule(effect=Reply(status=502), kinds=["list-webhooks"], times=1))
        await subscription.look()
        await subscription.look()
        assert states == ["failed", "active"]


async def test_a_refusal_says_nothing_of_the_token_that_follows_runs() -> None:
    async with running(Scenario(tokens=TOKENS, webhooks=[OURS])) as cloud:
        states: list[str] = []
        accounts = Accounts(Nobody(), subscribed=states.append)
        account = accounts.use("uid", connection(cloud, "unknown"))
        assert account.subscription is not None
        job = next(iter(cloud.simulator.account.jobs.values()))
        run_id = cloud.simulator.start(job, TriggerRequest(cause="a test")).id
        await account.client.run(run_id)
        await account.subscription.look()
        assert states == ["refused"]
        assert account.share.proven
        await account.client.run(run_id)
        await account.client.close()


def test_job_ids_are_numbers_in_a_request_and_what_is_none_is_left_out() -> None:
    webhook = wire.Webhook(id="w", client_url=URL, name="ours", job_ids=["12", "x", "-1", "9" * 20])
    assert webhook.activation["job_ids"] == [12]


def test_the_usual_token_does_if_there_is_no_other() -> None:
    base = Connection(host="cloud.getdbt.com", account_id=1, token=Token("usual"), webhook_url=URL)
    assert managing(base).token == Token("usual")


class Nobody:
    """Hears nothing."""

    def observed(self, *_what: object) -> None: ...
    def troubled(self, *_what: object) -> None: ...
    def answering(self, *_what: object) -> None: ...
    def placed(self, *_what: object) -> None: ...
    def turned(self, *_what: object) -> None: ...
