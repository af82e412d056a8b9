"""Run slots: never more live runs than allowed, fair between namespaces, and each that waits knows its place."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import fmean

import httpx
import pytest

from dbtrun.api import Reason
from dbtrun.fair import Applicant
from tests.unit.dbtcloud import account
from tests.unit.dbtcloud.heard import Heard
from tests.unit.virtual import JUMPING, clock
from tests.unit.world.dbtcloud import DbtCloud
from watcher.dbtcloud.slots import LISTED_SECONDS, UNUSED_SECONDS, LiveRuns, Slots, rounded
from watcher.lifecycle.facts import Place

pytestmark = JUMPING

USERS = ("a", "b")
"""The objects of the connection."""


def applicant(uid: str, namespace: str = "team", priority: int = 0) -> Applicant:
    return Applicant(uid=uid, namespace=namespace, priority=priority)


@asynccontextmanager
async def running(cloud: DbtCloud, limit: int) -> AsyncIterator[tuple[Slots, Heard]]:
    told = Heard()
    slots = Slots(
        limit,
        cloud.client().count_live,
        lambda: cloud.live,
        told,
        lambda: USERS,
        clock,
        jitter=lambda: 0.0,
    )
    task = asyncio.create_task(slots.run())
    try:
        yield slots, told
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_runs_that_others_started_take_slots() -> None:
    cloud = DbtCloud()
    cloud.add([8, 9])
    async with running(cloud, limit=3) as (slots, told):
        for uid in "abc":
            place = slots.ask(applicant(uid))
            assert place is not None
            assert place.within is None, "nothing is known before the first count"
        await asyncio.sleep(0.5)
        assert told.granted == ["a"]
        assert told.places["b"] == Place(within=1, limit=3, priority=0)
        assert told.places["c"] == Place(within=2, limit=3, priority=0)
        cloud.end([8, 9])
        await asyncio.sleep(0.3)
        assert told.granted == ["a", "b", "c"]
        assert slots.used == 3


async def test_one_that_may_start_is_not_asked_to_wait_again() -> None:
    async with running(DbtCloud(), limit=1) as (slots, _):
        slots.ask(applicant("a"))
        await asyncio.sleep(0.1)
        assert slots.ask(applicant("a")) is None


async def test_a_slot_is_held_until_the_run_is_listed_however_late_the_list_is() -> None:
    cloud = DbtCloud()
    cloud.lag(20)
    async with running(cloud, limit=1) as (slots, told):
        slots.ask(applicant("a"))
        slots.ask(applicant("b"))
        await asyncio.sleep(0.1)
        slots.claimed("a")
        await asyncio.sleep(3)
        cloud.add([1])
        slots.known("a", 1)
        await asyncio.sleep(40)
        assert told.granted == ["a"]
        cloud.end([1])
        slots.leave("a")
        await asyncio.sleep(1.1)
        assert told.granted == ["a", "b"]


async def test_a_run_that_is_listed_before_its_start_is_answered_takes_one_slot() -> None:
    cloud = DbtCloud()
    async with running(cloud, limit=2) as (slots, told):
        for uid in "abc":
            slots.ask(applicant(uid))
        await asyncio.sleep(0.1)
        slots.claimed("a", "dbtrun:a/1")
        slots.claimed("b", "dbtrun:b/1")
        cloud.add([1], cause="dbtrun:a/1")
        await asyncio.sleep(1.1)
        assert slots.used == 2
        slots.leave("b")
        await asyncio.sleep(1.1)
        assert told.granted == ["a", "b", "c"]


async def test_a_start_without_a_marker_is_not_taken_for_a_run_without_one() -> None:
    cloud = DbtCloud()
    async with running(cloud, limit=2) as (slots, told):
        for uid in "abc":
            slots.ask(applicant(uid))
        await asyncio.sleep(0.1)
        slots.claimed("a")
        cloud.add([1])
        await asyncio.sleep(5)
        assert told.granted == ["a", "b"]
        assert slots.used == 3, "counted twice until its run is known"


async def test_a_run_that_no_list_ever_names_gives_its_slot_back() -> None:
    cloud = DbtCloud()
    cloud.lag(1e9)
    async with running(cloud, limit=1) as (slots, told):
        slots.ask(applicant("a"))
        slots.ask(applicant("b"))
        await asyncio.sleep(0.1)
        slots.claimed("a")
        slots.known("a", 1)
        await asyncio.sleep(LISTED_SECONDS + 2)
        assert told.granted == ["a", "b"]


async def test_a_slot_that_nobody_claims_goes_to_the_next() -> None:
    async with running(DbtCloud(), limit=1) as (slots, told):
        for uid in "ab":
            slots.ask(applicant(uid))
        await asyncio.sleep(UNUSED_SECONDS + 2)
        assert told.granted == ["a", "b"]


async def test_nothing_is_counted_while_nobody_waits() -> None:
    cloud = DbtCloud()
    async with running(cloud, limit=1) as (slots, _):
        await asyncio.sleep(60)
        assert cloud.requests() == 0
        slots.ask(applicant("a"))
        await asyncio.sleep(60)
        assert cloud.requests() == 1


async def test_a_priority_that_is_raised_goes_first() -> None:
    cloud = DbtCloud()
    cloud.add([9])
    async with running(cloud, limit=1) as (slots, told):
        for uid in "abc":
            slots.ask(applicant(uid))
        await asyncio.sleep(0.1)
        slots.ask(applicant("c", priority=5))
        cloud.end([9])
        await asyncio.sleep(2)
        assert told.granted[0] == "c"


async def test_while_dbt_cloud_cannot_count_nothing_starts_and_the_reason_is_told() -> None:
    cloud = DbtCloud()
    cloud.broken["status__in"] = httpx.Response(502)
    async with running(cloud, limit=1) as (slots, told):
        slots.ask(applicant("a"))
        await asyncio.sleep(5)
        assert (told.granted, set(told.reasons(USERS))) == ([], {Reason.SERVER_ERROR})
        cloud.broken.clear()
        await asyncio.sleep(61)
        assert (told.granted, told.reasons(USERS)[-1]) == (["a"], Reason.ANSWERING)


async def test_where_dbt_cloud_does_not_count_the_runs_followed_here_count() -> None:
    cloud = DbtCloud()
    cloud.ignore("status__in")
    cloud.add([1])
    async with running(cloud, limit=1) as (slots, told):
        slots.ask(applicant("a"))
        await asyncio.sleep(5)
        assert told.granted == []
        cloud.end([1])
        await asyncio.sleep(2)
        assert told.granted == ["a"]


async def test_twenty_namespaces_share_twenty_five_slots_in_the_same_measure() -> None:
    """Two thousand objects: never 26 live, equal waits, and a free slot is given away within a second."""
    draw = random.Random(7)  # noqa: S311 - a reproducible draw
    cloud, most = DbtCloud(), 0
    cloud.lag(0.3)
    waits: dict[str, list[float]] = {f"team-{number:02}": [] for number in range(20)}
    freed: list[float] = []
    idle: list[float] = []
    loop = asyncio.get_running_loop()
    ids = iter(range(1, 2_001))
    done = asyncio.Event()
    async with running(cloud, limit=25) as (slots, told):

        def end(uid: str, run_id: int) -> None:
            cloud.end([run_id])
            slots.leave(uid)
            freed.append(loop.time())

        def start(uid: str) -> None:
            nonlocal most
            run_id = next(ids)
            cloud.add([run_id])
            most = max(most, cloud.live)
            slots.known(uid, run_id)
            loop.call_later(draw.randint(30, 60) / 10, end, uid, run_id)

        def claim(uid: str) -> None:
            waits[uid.partition("/")[0]].append(loop.time())
            if freed:
                idle.append(loop.time() - freed.pop(0))
            slots.claimed(uid)
            loop.call_later(draw.randint(1, 6) / 10, start, uid)
            if len(told.granted) == 2_000:
                done.set()

        told.on_grant = claim
        for backlog, namespace in enumerate(waits):
            for number in range(100):  # each backlog is older than the next one: by age alone they would not be equal
                created = 100 * backlog + number
                slots.ask(Applicant(uid=f"{namespace}/{number}", namespace=namespace, created=created))
        await asyncio.wait_for(done.wait(), 4_000)
    means = [fmean(each) for each in waits.values()]
    jain = sum(means) ** 2 / (len(means) * sum(mean**2 for mean in means))
    assert most == 25
    assert jain >= 0.95
    assert max(idle) <= 1
    assert told.placings <= 2_000 * 12, "each that waits is told a place a few times, not at each step of the line"


@pytest.mark.parametrize(
    ("place", "told"), [(1, 1), (10, 10), (11, 20), (20, 20), (21, 50), (100, 100), (101, 200), (7_000, 10_000)]
)
def test_a_place_is_rounded_up(place: int, told: int) -> None:
    assert rounded(place) == told


async def test_live_runs_are_counted_by_one_small_request() -> None:
    ours = account.run(8, trigger={"id": 1, "cause": "dbtrun:u/1 nightly"})
    recorder = account.Recorder(account.answering(account.listing([ours, account.run(7)], 31, status__in=1)))
    async with account.client(recorder) as client:
        expected = LiveRuns(count=31, newest=frozenset({7, 8}), markers=frozenset({"dbtrun:u/1"}))
        assert await client.count_live(9) == expected
    assert (len(recorder.requests), recorder.params()["limit"]) == (1, "9")


@pytest.mark.parametrize(
    "reply",
    [
        account.listing([account.run(7)], 31),
        account.listing([account.run(7, 10)], 31, status__in=1),
        account.envelope([account.run(7)], extra={"filters": {"status__in": 1}}),
        account.refusal(400, "unknown filter"),
    ],
    ids=["filter not echoed", "an ended run", "no total", "refused"],
)
async def test_a_count_that_proves_nothing_is_no_count(reply: httpx.Response) -> None:
    async with account.client(account.answering(reply)) as client:
        assert await client.count_live(9) is None
