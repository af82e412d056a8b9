"""Run slots: never more live runs than allowed, fair between namespaces, and each that waits knows its place."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import fmean

import httpx
import pytest

from dbtrun.api import Reason
from dbtrun.fair import Applicant
from tests.unit.dbtcloud import account
from tests.unit.dbtcloud.heard import Heard
from tests.unit.virtual import clock
from watcher.dbtcloud.errors import ServerFault
from watcher.dbtcloud.slots import LISTED_SECONDS, UNUSED_SECONDS, LiveRuns, Slots, rounded
from watcher.lifecycle.facts import Place

pytestmark = pytest.mark.looptime

USERS = ("a", "b")
"""The objects of the connection."""


def applicant(uid: str, namespace: str = "team", priority: int = 0) -> Applicant:
    return Applicant(uid=uid, namespace=namespace, priority=priority)


@dataclass
class DbtCloud:
    """Live runs, as a list shows them; a list may lag behind."""

    lag: float = 0.0
    live: dict[int, float] = field(default_factory=dict)
    """Run ids to when they were started."""
    marks: dict[int, str] = field(default_factory=dict)
    """Run ids to their markers."""
    others: int = 0
    most: int = 0
    counts: int = 0
    answer: Callable[[], None] = lambda: None
    blind: bool = False

    async def count(self, newest: int) -> LiveRuns | None:
        self.counts += 1
        self.answer()
        if self.blind:
            return None
        now = clock().mono
        listed = [run_id for run_id, started in self.live.items() if started + self.lag <= now]
        last = frozenset(sorted(listed)[-newest:])
        marks = frozenset(mark for run_id, mark in self.marks.items() if run_id in last)
        return LiveRuns(count=len(listed) + self.others, newest=last, markers=marks)

    def start(self, run_id: int) -> None:
        self.live[run_id] = clock().mono
        self.most = max(self.most, len(self.live) + self.others)


@asynccontextmanager
async def running(cloud: DbtCloud, limit: int) -> AsyncIterator[tuple[Slots, Heard]]:
    told = Heard()
    slots = Slots(
        limit,
        cloud.count,
        lambda: len(cloud.live),
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
    cloud = DbtCloud(others=2)
    async with running(cloud, limit=3) as (slots, told):
        for uid in "abc":
            place = slots.ask(applicant(uid))
            assert place is not None
            assert place.within is None, "nothing is known before the first count"
        await asyncio.sleep(0.5)
        assert told.granted == ["a"]
        assert told.places["b"] == Place(within=1, limit=3, priority=0)
        assert told.places["c"] == Place(within=2, limit=3, priority=0)
        cloud.others = 0
        await asyncio.sleep(0.3)
        assert told.granted == ["a", "b", "c"]
        assert slots.used == 3


async def test_one_that_may_start_is_not_asked_to_wait_again() -> None:
    async with running(DbtCloud(), limit=1) as (slots, _):
        slots.ask(applicant("a"))
        await asyncio.sleep(0.1)
        assert slots.ask(applicant("a")) is None


async def test_a_slot_is_held_until_the_run_is_listed_however_late_the_list_is() -> None:
    cloud = DbtCloud(lag=20)
    async with running(cloud, limit=1) as (slots, told):
        slots.ask(applicant("a"))
        slots.ask(applicant("b"))
        await asyncio.sleep(0.1)
        slots.claimed("a")
        await asyncio.sleep(3)
        cloud.start(1)
        slots.known("a", 1)
        await asyncio.sleep(40)
        assert told.granted == ["a"]
        del cloud.live[1]
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
        cloud.start(1)
        cloud.marks[1] = "dbtrun:a/1"
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
        cloud.start(1)
        await asyncio.sleep(5)
        assert told.granted == ["a", "b"]
        assert slots.used == 3, "counted twice until its run is known"


async def test_a_run_that_no_list_ever_names_gives_its_slot_back() -> None:
    cloud = DbtCloud(lag=1e9)
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
        assert cloud.counts == 0
        slots.ask(applicant("a"))
        await asyncio.sleep(60)
        assert cloud.counts == 1


async def test_a_priority_that_is_raised_goes_first() -> None:
    cloud = DbtCloud(others=1)
    async with running(cloud, limit=1) as (slots, told):
        for uid in "abc":
            slots.ask(applicant(uid))
        await asyncio.sleep(0.1)
        slots.ask(applicant("c", priority=5))
        cloud.others = 0
        await asyncio.sleep(2)
        assert told.granted[0] == "c"


async def test_while_dbt_cloud_cannot_count_nothing_starts_and_the_reason_is_told() -> None:
    def fail() -> None:
        raise ServerFault("dbt Cloud answered 502")

    cloud = DbtCloud(answer=fail)
    async with running(cloud, limit=1) as (slots, told):
        slots.ask(applicant("a"))
        await asyncio.sleep(5)
        assert (told.granted, set(told.reasons(USERS))) == ([], {Reason.SERVER_ERROR})
        cloud.answer = lambda: None
        await asyncio.sleep(61)
        assert (told.granted, told.reasons(USERS)[-1]) == (["a"], Reason.ANSWERING)


async def test_where_dbt_cloud_does_not_count_the_runs_followed_here_count() -> None:
    cloud = DbtCloud(blind=True)
    cloud.start(1)
    async with running(cloud, limit=1) as (slots, told):
        slots.ask(applicant("a"))
        await asyncio.sleep(5)
        assert told.granted == []
        cloud.live.clear()
        await asyncio.sleep(2)
        assert told.granted == ["a"]


async def test_twenty_namespaces_share_twenty_five_slots_in_the_same_measure() -> None:
    """Ten thousand objects: never 26 live, equal waits, and a free slot is given away within a second."""
    draw = random.Random(7)  # noqa: S311 - a reproducible draw
    cloud = DbtCloud(lag=0.3)
    waits: dict[str, list[float]] = {f"team-{number:02}": [] for number in range(20)}
    freed: list[float] = []
    idle: list[float] = []
    loop = asyncio.get_running_loop()
    ids = iter(range(1, 20_000))
    done = asyncio.Event()
    async with running(cloud, limit=25) as (slots, told):

        def end(uid: str, run_id: int) -> None:
            del cloud.live[run_id]
            slots.leave(uid)
            freed.append(loop.time())

        def start(uid: str) -> None:
            run_id = next(ids)
            cloud.start(run_id)
            slots.known(uid, run_id)
            loop.call_later(draw.randint(30, 60) / 10, end, uid, run_id)

        def claim(uid: str) -> None:
            waits[uid.partition("/")[0]].append(loop.time())
            if freed:
                idle.append(loop.time() - freed.pop(0))
            slots.claimed(uid)
            loop.call_later(draw.randint(1, 6) / 10, start, uid)
            if len(told.granted) == 10_000:
                done.set()

        told.on_grant = claim
        for backlog, namespace in enumerate(waits):
            for number in range(500):  # each backlog is older than the next one: by age alone they would not be equal
                created = 500 * backlog + number
                slots.ask(Applicant(uid=f"{namespace}/{number}", namespace=namespace, created=created))
        await asyncio.wait_for(done.wait(), 20_000)
    means = [fmean(each) for each in waits.values()]
    jain = sum(means) ** 2 / (len(means) * sum(mean**2 for mean in means))
    assert cloud.most == 25
    assert jain >= 0.95
    assert max(idle) <= 1
    assert told.placings <= 10_000 * 12, "each that waits is told a place a few times, not at each step of the line"


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
