"""Who shares what: a connection's client and poller, an account's budget."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from dbtrun.api import Reason
from dbtrun.connection.secret import Token
from dbtrun.fair import Applicant
from tests.unit.dbtcloud import account
from tests.unit.dbtcloud.heard import Heard
from tests.unit.virtual import clock
from watcher.dbtcloud import errors
from watcher.dbtcloud.accounts import Accounts
from watcher.dbtcloud.budget import Priority
from watcher.lifecycle.facts import Trouble
from watcher.telemetry.metrics import Metrics

pytestmark = pytest.mark.looptime

ROTATED = replace(account.CONNECTION, token=Token("new"))
ELSEWHERE = replace(account.CONNECTION, host="emea.dbt.com")


def dbt_cloud(request: httpx.Request) -> httpx.Response:
    """Every run is running; the old token is refused."""
    if request.headers["Authorization"] != "Token new":
        return account.refusal(401, "Invalid token.")
    ids = json.loads(request.url.params.get("pk__in", "[]"))
    return account.listing([account.run(run_id) for run_id in ids], pk__in=ids)


@asynccontextmanager
async def running(heard: Heard | None = None) -> AsyncIterator[tuple[Accounts, list[tuple[str, object]]]]:
    heard = heard or Heard()
    log = heard.log
    accounts = Accounts(heard, transport=httpx.MockTransport(dbt_cloud), linger=300, clock=clock)
    task = asyncio.create_task(accounts.run())
    await asyncio.sleep(0)
    try:
        yield accounts, log
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert list(accounts) == []


async def test_equal_connections_share_everything() -> None:
    async with running() as (accounts, _):
        equal = replace(account.CONNECTION, token=Token(account.SECRET))
        assert accounts.use("a", account.CONNECTION) is accounts.use("b", equal)


async def test_tokens_of_one_account_share_its_budget_and_nothing_else() -> None:
    async with running() as (accounts, _):
        one, two = accounts.use("a", account.CONNECTION), accounts.use("b", ROTATED)
        for each in (one, two):
            each.share.heard(200)
        assert one.budget is two.budget
        assert one.client is not two.client
        assert one.poller is not two.poller
        elsewhere = accounts.use("c", ELSEWHERE)
        elsewhere.share.heard(200)
        assert elsewhere.budget is not one.budget


async def test_a_token_that_was_not_accepted_spends_nothing_of_the_account() -> None:
    async with running() as (accounts, _):
        victim, claimant = accounts.use("a", ROTATED), accounts.use("b", account.CONNECTION)
        claimant.poller.follow("b", 7, 5)
        claimant.budget.pause(100)
        victim.poller.follow("a", 7, 30)
        await asyncio.sleep(3)
        assert victim.share.proven
        assert not claimant.share.proven
        assert victim.budget.paused_until is None
        assert victim.budget.spent == {Priority.POLL: 1}


async def test_an_account_is_shown_once_its_token_is_accepted() -> None:
    """A Secret may name any account, and each would be a label."""
    async with running() as (accounts, _):
        metrics = Metrics()
        metrics.watch(accounts)
        account_of = {"host": account.CONNECTION.host, "account": str(account.CONNECTION.account_id)}

        def shown(name: str) -> float | None:
            return metrics.registry.get_sample_value(f"dbtrun_account_{name}", account_of)

        claimant = accounts.use("b", account.CONNECTION)
        claimant.poller.follow("b", 7, 5)
        await asyncio.sleep(3)
        assert shown("requests_total") is None
        used = accounts.use("a", ROTATED)
        used.poller.follow("a", 7, 30)
        await asyncio.sleep(3)
        assert shown("requests_total") == 1
        assert shown("requests_per_minute_limit") == 1500
        assert shown("requests_left") == pytest.approx(25, abs=1)
        used.budget.pause(100)
        await asyncio.sleep(1)
        assert shown("paused_seconds") == pytest.approx(99)
        assert shown("requests_left") == 0


async def test_who_waits_for_a_little_is_served_by_the_account_once_the_token_is_accepted() -> None:
    async with running() as (accounts, _):
        used = accounts.use("a", ROTATED)
        waiting = [asyncio.create_task(used.budget.spend(Priority.SUBMIT)) for _ in range(30)]
        await asyncio.sleep(0)
        assert sum(task.done() for task in waiting) < 10
        used.share.heard(200)
        await asyncio.sleep(3)
        assert all(task.done() for task in waiting)
        assert used.budget.spent[Priority.SUBMIT] == 30


async def test_a_refused_token_pauses_its_connection_and_not_each_object() -> None:
    refused: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        refused.append(request)
        return account.refusal(401, "Invalid token.")

    accounts = Accounts(Heard(), transport=httpx.MockTransport(refuse), clock=clock)
    used = accounts.use("a", account.CONNECTION)

    async def ask() -> errors.DbtCloudError:
        with pytest.raises(errors.Unauthorized) as caught:
            await used.client.find_live(1)
        return caught.value

    await ask()
    for _ in range(60):
        later = await asyncio.gather(*(ask() for _ in range(100)))
        assert sum(not error.not_sent for error in later) <= 1, "one asks for all"
        await asyncio.sleep(1)
    assert len(refused) <= 8


async def test_large_replies_cost_their_connection_as_much_as_several_requests() -> None:
    asked = []

    def verbose(request: httpx.Request) -> httpx.Response:
        asked.append(asyncio.get_running_loop().time())
        reply = account.listing([account.run(7)], status__in=[1])
        return httpx.Response(200, content=reply.content.ljust(3 * 2**20))

    accounts = Accounts(Heard(), requests_per_minute=60, burst=5, transport=httpx.MockTransport(verbose), clock=clock)
    used = accounts.use("a", account.CONNECTION)
    for _ in range(10):
        await used.client.count_live(5)
    assert asked[-1] - asked[0] >= 50, "seven requests' worth each, at one a second"


async def test_budgets_of_accounts_that_nobody_uses_are_forgotten() -> None:
    async with running() as (accounts, _):
        for number in range(100):
            accounts.use(f"uid-{number}", replace(account.CONNECTION, account_id=number + 1))
            accounts.release(f"uid-{number}")
        await asyncio.sleep(500)
        assert not accounts._budgets


async def test_what_is_followed_is_polled() -> None:
    async with running() as (accounts, log):
        accounts.use("a", ROTATED).poller.follow("a", 7, 30)
        await asyncio.sleep(3)
        assert log == [("a", Reason.ANSWERING), ("a", 7)]


async def test_what_is_followed_before_the_start_is_polled_after_it() -> None:
    log: list[tuple[str, object]] = []
    accounts = Accounts(Heard(log=log), transport=httpx.MockTransport(dbt_cloud), clock=clock)
    accounts.use("a", ROTATED).poller.follow("a", 7, 30)
    task = asyncio.create_task(accounts.run())
    await asyncio.sleep(3)
    assert ("a", 7) in log
    task.cancel()
    await asyncio.wait([task])


async def test_a_rotated_token_heals_what_the_old_one_could_not_do() -> None:
    async with running() as (accounts, log):
        accounts.use("a", account.CONNECTION).poller.follow("a", 7, 30)
        await asyncio.sleep(30)
        assert {reason for _, reason in log} == {Reason.UNAUTHORIZED}
        log.clear()
        accounts.use("a", ROTATED).poller.follow("a", 7, 30)
        await asyncio.sleep(120)
        assert ("a", 7) in log
        assert ("a", Reason.UNAUTHORIZED) not in log, "the old token is not used any more"


async def test_an_unused_connection_is_closed_after_a_while() -> None:
    async with running() as (accounts, _):
        old = accounts.use("a", ROTATED)
        old.poller.follow("a", 7, 30)
        accounts.release("a")
        await asyncio.sleep(200)
        assert accounts.use("b", ROTATED) is old, "it lingers"
        accounts.release("b")
        await asyncio.sleep(400)
        assert list(accounts) == []
        assert old.poller.following == 0
        with pytest.raises(errors.Unreachable):
            await old.client.run(1)
        assert accounts.use("c", ROTATED) is not old


async def test_a_used_connection_stays_open() -> None:
    async with running() as (accounts, _):
        used = accounts.use("a", ROTATED)
        accounts.use("b", ROTATED)
        accounts.release("b")
        accounts.release("nobody")
        await asyncio.sleep(4000)
        assert list(accounts) == [used]


async def test_a_rate_limit_met_with_one_token_silences_the_whole_account() -> None:
    async with running() as (accounts, log):
        one, two = accounts.use("a", account.CONNECTION), accounts.use("b", ROTATED)
        for each in (one, two):
            each.share.heard(200)
        one.budget.pause(100)
        two.poller.follow("b", 7, 30)
        await asyncio.sleep(50)
        assert log == [("b", Reason.RATE_LIMITED)]
        await asyncio.sleep(60)
        assert ("b", 7) in log


async def test_every_poll_spends_the_accounts_budget() -> None:
    async with running() as (accounts, _):
        used = accounts.use("a", ROTATED)
        used.poller.follow("a", 7, 30)
        await asyncio.sleep(3)
        assert used.budget.spent == {Priority.POLL: 1}


async def test_a_poll_that_waits_for_a_small_budget_does_not_stand_still() -> None:
    accounts = Accounts(
        Heard(),
        requests_per_minute=1,
        burst=1,
        transport=httpx.MockTransport(dbt_cloud),
        clock=clock,
    )
    used = accounts.use("a", ROTATED)
    polling = asyncio.create_task(accounts.run())
    others = [asyncio.create_task(used.budget.spend(Priority.SUBMIT)) for _ in range(10)]
    used.poller.follow("a", 7, 30)
    for _ in range(9):
        await asyncio.sleep(60)
        assert used.poller.silent() <= 61
    assert used.budget.spent[Priority.POLL] == 0
    for task in (polling, *others):
        task.cancel()
    await asyncio.wait([polling, *others])


async def test_a_poller_that_fails_by_a_fault_of_ours_ends_the_task() -> None:
    class Faulty(Heard):
        def troubled(self, uids: Collection[str], trouble: Trouble) -> None:
            raise RuntimeError("bug")

    accounts = Accounts(Faulty(), transport=httpx.MockTransport(dbt_cloud), clock=clock)
    accounts.use("a", account.CONNECTION).poller.follow("a", 7, 30)
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(accounts.run(), 60)


async def test_one_whose_run_is_no_longer_followed_waits_for_no_slot() -> None:
    """Where dbt Cloud does not count live runs, those that are followed count."""
    async with running() as (accounts, log):
        used = accounts.use("a", replace(ROTATED, max_runs=1))
        assert accounts.of("a") is used
        assert used.slots is not None
        for uid in ("a", "b", "c"):
            used.slots.ask(Applicant(uid=uid, namespace="team"))
        await asyncio.sleep(1)
        used.follow("a", 7, 30)
        await asyncio.sleep(60)
        assert [uid for uid, told in log if told is None] == ["a"]
        used.follow("b", 8, 30)
        used.unfollow("b")
        used.unfollow("b")
        assert used.slots.waiting == 1
        used.unfollow("a")
        await asyncio.sleep(2)
        assert [uid for uid, told in log if told is None] == ["a", "c"]
        accounts.release("a")
        assert accounts.of("a") is None


async def test_who_follows_a_run_gets_turns_to_look_at_it_until_it_leaves() -> None:
    heard = Heard()
    async with running(heard) as (accounts, _):
        for number, uid in enumerate(("left", "released", "stays")):
            used = accounts.use(uid, ROTATED)
            used.follow(uid, 7 + number, 30, clock().mono + 60)
        used.unfollow("left")
        accounts.release("released")
        await asyncio.sleep(59)
        assert heard.turns == []
        await asyncio.sleep(10)
        assert [uid for _, uid in heard.turns] == ["stays"]
