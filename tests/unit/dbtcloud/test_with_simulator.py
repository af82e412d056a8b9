"""The client and the poller against the simulator: real HTTP, real JSON, the faults of a real network."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbtrun.api import Job, Overrides, Reason
from dbtrun.connection.hosts import Hosts
from dbtrun.connection.secret import Connection, Token, parse_connection
from tests.unit.dbtcloud.heard import Heard
from watcher.dbtcloud.channel import MAX_BODY
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.errors import (
    DbtCloudError,
    Forbidden,
    ServerFault,
    TooLarge,
    Unauthorized,
    UnknownStatus,
    Unreachable,
)
from watcher.dbtcloud.poller import Poller
from watcher.lifecycle.facts import (
    NotSent,
    Observation,
    Refused,
    RunFacts,
    RunState,
    Started,
    Undecided,
)
from watcher.simulator.clock import Clock
from watcher.simulator.faults import Rule
from watcher.simulator.scenario import Scenario, convert
from watcher.simulator.testing import ManualTime, Running, running

QUICK, FAILING, HELD, CI = 501, 502, 503, 504
JOBS = [
    {"name": "quick", "id": QUICK, "queue": 2, "start": 1, "run": 10},
    {"name": "failing", "id": FAILING, "outcomes": ["error", "success"], "failing": [{"node": "model.shop.orders"}]},
    {"name": "held", "id": HELD, "run": None, "queue": 0, "start": 0, "cancel_delay": 0},
    {"name": "ci", "id": CI, "parallel": True, "run": None},
]
MARKER = "dbtrun:0d9c-uid/1"


@pytest.fixture
def time() -> ManualTime:
    return ManualTime()


@pytest.fixture
async def simulator(time: ManualTime) -> AsyncIterator[Running]:
    scenario = convert({"projects": [{"name": "Analytics"}], "jobs": JOBS}, Scenario)
    async with running(scenario, clock=Clock(source=time)) as simulator:
        yield simulator


@pytest.fixture
def connection(simulator: Running) -> Connection:
    keys = {"token": simulator.token, "account-id": str(simulator.account_id), "host": simulator.url}
    return parse_connection({key: value.encode() for key, value in keys.items()}, "the simulator", Hosts(loopback=True))


@pytest.fixture
async def cloud(connection: Connection) -> AsyncIterator[Client]:
    async with Client(connection) as client:
        yield client


def spoil(simulator: Running, effect: str, /, rule: dict[str, Any] | None = None, **options: Any) -> None:
    simulator.simulator.faults.add(convert({"effect": {"type": effect} | options} | (rule or {}), Rule))


async def start(cloud: Client, job: int = QUICK, cause: str = f"{MARKER} test") -> RunFacts:
    submission = await cloud.start(job, cause, Overrides(steps=("dbt run",), threads=2))
    assert isinstance(submission, Started), submission
    return submission.run


async def state(cloud: Client, run_id: int) -> RunState:
    observation = await cloud.run(run_id)
    assert observation.run is not None
    return observation.run.state


async def test_a_run_goes_from_its_start_to_its_end(cloud: Client, time: ManualTime) -> None:
    run = await start(cloud)
    assert (run.state, run.job_id, run.cause) == (RunState.QUEUED, QUICK, f"{MARKER} test")
    time.move(5)
    assert await state(cloud, run.run_id) is RunState.RUNNING
    time.move(60)
    observation = await cloud.run(run.run_id, steps=True)
    assert observation.run is not None
    assert observation.run.state is RunState.SUCCESS
    assert observation.run.steps
    assert observation.run.finished_at is not None
    results = await cloud.results(run.run_id)
    assert results is not None
    assert results.counts["success"] >= 1


async def test_a_failed_run_names_its_nodes_and_is_resumed(cloud: Client, time: ManualTime) -> None:
    failed = await start(cloud, FAILING)
    time.move(60)
    assert await state(cloud, failed.run_id) is RunState.ERROR
    results = await cloud.results(failed.run_id)
    assert results is not None
    assert [node.unique_id for node in results.failures] == ["model.shop.orders"]
    resumed = await cloud.retry(failed.run_id)
    assert isinstance(resumed, Started)
    assert failed.created_at is not None
    found = await cloud.find_retries(FAILING, failed.run_id, failed.created_at)
    assert [run.run_id for run in found] == [resumed.run.run_id]


async def test_a_run_that_cannot_be_resumed_is_refused(cloud: Client) -> None:
    run = await start(cloud)
    assert isinstance(await cloud.retry(run.run_id), Refused)


async def test_a_cancelled_run_is_cancelled(cloud: Client, time: ManualTime) -> None:
    run = await start(cloud, HELD)
    await cloud.cancel(run.run_id)
    time.move(5)
    assert await state(cloud, run.run_id) is RunState.CANCELLED


@pytest.mark.parametrize(
    "effect", [{"type": "drop", "when": "after"}, {"type": "reply", "status": 504, "commit": True}]
)
async def test_a_start_whose_reply_was_lost_is_undecided_and_found_by_its_marker(
    simulator: Running, cloud: Client, effect: dict[str, Any]
) -> None:
    first = await start(cloud, cause="dbtrun:0d9c-uid/12 another")
    simulator.simulator.faults.add(convert({"effect": effect, "method": "POST"}, Rule))
    assert isinstance(await cloud.start(QUICK, f"{MARKER} test", Overrides()), Undecided)
    assert first.created_at is not None
    found = await cloud.find_marked(QUICK, MARKER, first.created_at - timedelta(minutes=5))
    assert [run.cause for run in found] == [f"{MARKER} test"]


async def test_a_start_that_was_lost_on_the_way_is_undecided_and_not_found(simulator: Running, cloud: Client) -> None:
    spoil(simulator, "drop", {"method": "POST"}, when="before")
    assert isinstance(await cloud.start(QUICK, MARKER, Overrides()), Undecided)
    assert await cloud.find_marked(QUICK, MARKER, datetime(2020, 1, 1, tzinfo=UTC)) == ()


async def test_refusals_are_told_apart(simulator: Running, cloud: Client, connection: Connection) -> None:
    no_job = await cloud.start(999, MARKER, Overrides())
    assert isinstance(no_job, Refused)
    assert no_job.reason is Reason.JOB_NOT_FOUND
    rejected = await cloud.start(QUICK, "", Overrides())
    assert isinstance(rejected, Refused)
    assert rejected.reason is Reason.SUBMISSION_REJECTED
    async with Client(replace(connection, token=Token("wrong"))) as other:
        revoked = await other.start(QUICK, MARKER, Overrides())
        assert isinstance(revoked, NotSent)
        assert revoked.trouble.reason is Reason.UNAUTHORIZED
    async with Client(replace(connection, account_id=1)) as other:
        with pytest.raises(Forbidden):
            await other.check()
    assert len(simulator.simulator.account.runs) == 0


async def test_the_account_is_checked(cloud: Client, simulator: Running) -> None:
    assert (await cloud.check()).id == simulator.account_id


async def test_a_job_is_found_by_its_names(cloud: Client) -> None:
    assert await cloud.resolve_job(Job(name="held", project="Analytics", environment="Production")) == HELD
    with pytest.raises(DbtCloudError, match='did you mean "held"'):
        await cloud.resolve_job(Job(name="hold", project="Analytics", environment="Production"))


async def test_runs_are_read_by_id_and_gone_ones_are_missing(cloud: Client) -> None:
    ids = [(await start(cloud, CI)).run_id for _ in range(3)]
    batch = await cloud.runs([*ids, 1])
    assert (batch.supported, set(batch.observations), batch.missing) == (True, set(ids), (1,))
    assert (await cloud.run(1)).run is None


async def test_an_ignored_filter_is_noticed(cloud: Client, simulator: Running) -> None:
    ids = [(await start(cloud, CI)).run_id for _ in range(3)]
    spoil(simulator, "ignore-filters", filters=["pk__in"])
    batch = await cloud.runs(ids[:2])
    assert (batch.supported, set(batch.observations)) == (False, set(ids[:2]))


async def test_live_runs_and_the_newest_of_a_job_are_found(cloud: Client, time: ManualTime) -> None:
    done = await start(cloud, QUICK)
    time.move(60)
    live = [(await start(cloud, CI)).run_id for _ in range(120)]
    listing = await cloud.live_runs()
    assert (listing.supported, set(listing.observations), listing.pages) == (True, set(live), 2)
    newest = await cloud.find_live(CI)
    assert newest is not None
    assert newest.run_id == live[-1]
    assert await cloud.find_live(done.job_id) is None


async def test_what_finished_is_in_the_feed_from_then_on(cloud: Client, time: ManualTime) -> None:
    run = await start(cloud, QUICK)
    await start(cloud, CI)
    time.move(60)
    finished = (await cloud.run(run.run_id)).run
    assert finished is not None
    assert finished.finished_at is not None
    for since, expected in ((-1, {run.run_id}), (1, set())):
        batch = await cloud.finished_since(finished.finished_at + timedelta(seconds=since))
        assert (batch.supported, set(batch.observations)) == (True, expected)


async def test_an_ignored_time_filter_is_noticed(cloud: Client, simulator: Running) -> None:
    await start(cloud, CI)
    spoil(simulator, "ignore-filters", filters=["finished_at__range"])
    assert not (await cloud.finished_since(datetime(2020, 1, 1, tzinfo=UTC))).supported


async def test_dbt_clouds_clock_is_compared_with_ours(cloud: Client, time: ManualTime) -> None:
    run = await start(cloud)
    offset = (await cloud.run(run.run_id)).clock_offset
    simulated = datetime.fromtimestamp(time.seconds, UTC)
    assert abs(datetime.now(UTC) + offset - simulated) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("effect", "options", "error"),
    [
        ("drop", {"when": "before"}, Unreachable),
        ("truncate", {}, ServerFault),
        ("huge", {"size": 40 * 2**20}, TooLarge),
        ("reply", {"status": 502, "body": "html"}, ServerFault),
        ("reply", {"status": 500, "body": "bare"}, ServerFault),
        ("reply", {"status": 404, "body": "html"}, ServerFault),
        ("reply", {"status": 200, "body": "text"}, ServerFault),
        ("redirect", {"location": "https://login.example/"}, Unreachable),
    ],
)
async def test_a_spoilt_reply_is_no_fact(
    cloud: Client, simulator: Running, effect: str, options: dict[str, Any], error: type[DbtCloudError]
) -> None:
    run = await start(cloud, HELD)
    spoil(simulator, effect, **options)
    with pytest.raises(error):
        await cloud.run(run.run_id)


@pytest.mark.parametrize(("effect", "options"), [("hang", {}), ("slow", {"chunk": 1, "seconds": 0.05})])
async def test_a_reply_that_does_not_come_is_given_up(
    cloud: Client, connection: Connection, simulator: Running, effect: str, options: dict[str, Any]
) -> None:
    run = await start(cloud, HELD)
    spoil(simulator, effect, **options)
    async with Client(connection, total_seconds=0.3) as impatient:
        with pytest.raises(Unreachable, match="was not answered within"):
            await impatient.run(run.run_id)


async def test_an_unknown_status_is_never_an_end(cloud: Client, simulator: Running, time: ManualTime) -> None:
    run = await start(cloud, QUICK)
    spoil(simulator, "unknown-status", status=99)
    assert await state(cloud, run.run_id) is RunState.RUNNING
    time.move(60)
    with pytest.raises(UnknownStatus, match="status 99"):
        await cloud.run(run.run_id)


async def test_a_revoked_token_is_noticed(cloud: Client, simulator: Running) -> None:
    run = await start(cloud)
    simulator.simulator.tokens.clear()
    with pytest.raises(Unauthorized, match=r"Invalid token\."):
        await cloud.run(run.run_id)


class Seen(Heard):
    """A listener for a test that waits for each report."""

    def __init__(self) -> None:
        super().__init__()
        self.states: asyncio.Queue[RunState | None] = asyncio.Queue()

    def observed(self, uid: str, run_id: int, observation: Observation) -> None:
        super().observed(uid, run_id, observation)
        self.states.put_nowait(None if observation.run is None else observation.run.state)


async def test_the_poller_follows_a_run_to_its_end(cloud: Client, time: ManualTime) -> None:
    run = await start(cloud, QUICK)
    seen = Seen()
    polling = Poller(cloud, seen, lambda: ("uid",), feed_seconds=0.2)
    task = asyncio.create_task(polling.run())
    try:
        async with asyncio.timeout(10):
            polling.follow("uid", run.run_id, 3600, due=0)
            assert await seen.states.get() is RunState.QUEUED
            time.move(60)
            assert await seen.states.get() is RunState.SUCCESS, "seen by the feed, long before the next poll"
        assert seen.reasons(["uid"]) == [Reason.ANSWERING]
        assert polling.fallbacks == ()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_of_a_body_of_200_megabytes_no_more_than_the_limit_is_held(simulator: Running, cloud: Client) -> None:
    spoil(simulator, "huge", size=200 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            await cloud.run(1)
        assert tracemalloc.get_traced_memory()[1] < 2 * MAX_BODY
    finally:
        tracemalloc.stop()
