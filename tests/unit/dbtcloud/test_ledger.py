"""The list of finished runs for mirrors: what is read counts only if nothing can be missing from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from dbtrun.connection.hosts import Hosts
from dbtrun.connection.secret import parse_connection
from tests.unit import virtual
from tests.unit.dbtcloud.account import NOON, Recorder, client, listing, refusal, run, stamp
from tests.unit.world.dbtcloud import DbtCloud
from watcher.dbtcloud import ledger as module
from watcher.dbtcloud.budget import Budget
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.errors import DbtCloudError, ServerFault
from watcher.dbtcloud.ledger import ENOUGH_PAGES, MANY_PAGES, MAX_PAGES, Ledger
from watcher.lifecycle.facts import RunFacts
from watcher.mirrors.progress import LATE_REACH, OVERLAP, Cursor, Reading
from watcher.simulator.clock import Clock
from watcher.simulator.model import Status, TriggerRequest
from watcher.simulator.scenario import Scenario, convert
from watcher.simulator.testing import ManualTime, running

SINCE = NOON - timedelta(minutes=5)
TRIGGER = {"cause": "Kicked off from UI by Ann", "cause_category": "ui"}


def ended(run_id: int, seconds: float, **changes: Any) -> dict[str, Any]:
    """A run in the list that ended so many seconds after SINCE."""
    return run(run_id, 10, trigger=TRIGGER, finished_at=stamp(SINCE + timedelta(seconds=seconds)), **changes)


def pages(*runs: dict[str, Any]) -> Callable[[httpx.Request], httpx.Response]:
    """Serves the runs a hundred a page, in the order given."""

    def serve(request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params["offset"])
        return listing(list(runs[offset : offset + 100]), total=len(runs))

    return serve


async def test_a_reading_has_all_runs_their_causes_and_the_time_of_the_list() -> None:
    recorder = Recorder(pages(ended(1, 0), ended(2, 30)))
    async with client(recorder) as cloud:
        reading = await cloud.ended(SINCE)
    assert [(each.run_id, each.cause, each.cause_category) for each in reading.runs] == [
        (1, TRIGGER["cause"], "ui"),
        (2, TRIGGER["cause"], "ui"),
    ]
    assert (reading.since, reading.through, reading.complete) == (SINCE, NOON, True)
    asked = recorder.params()
    assert asked["order_by"] == "finished_at"
    assert asked["include_related"] == '["trigger"]'
    assert SINCE.isoformat() in asked["finished_at__range"]


async def test_all_pages_are_read() -> None:
    async with client(pages(*(ended(n, n / 10) for n in range(1, 251)))) as cloud:
        reading = await cloud.ended(SINCE)
    assert len(reading.runs) == 250
    assert reading.complete


LONG_AGO = SINCE - timedelta(days=1)


def day_before(run_id: int, seconds: float) -> dict[str, Any]:
    """A run in the list that ended so many seconds after LONG_AGO."""
    return ended(run_id, seconds - 86_400)


async def test_a_long_list_counts_as_far_as_it_was_read() -> None:
    recorder = Recorder(pages(*(day_before(n, n) for n in range(1, 5_001))))
    async with client(recorder) as cloud:
        reading = await cloud.ended(LONG_AGO)
    assert not reading.complete
    assert len(recorder.requests) == ENOUGH_PAGES
    assert reading.through == LONG_AGO + timedelta(seconds=ENOUGH_PAGES * 100)


async def test_more_is_read_at_once_where_many_ended_within_minutes() -> None:
    recorder = Recorder(pages(*(day_before(n, n / 100) for n in range(1, MANY_PAGES * 100 + 2))))
    async with client(recorder) as cloud:
        reading = await cloud.ended(LONG_AGO)
    assert len(recorder.requests) == MANY_PAGES
    assert (reading.complete, reading.through) == (False, LONG_AGO + timedelta(seconds=MANY_PAGES))


async def test_a_piece_ends_before_the_overlap_in_which_runs_may_be_listed_later() -> None:
    """1,000 runs that end long ago, and 2,000 within the overlap."""
    recent = [ended(n, 300 - (3_000 - n) / 100) for n in range(1_001, 3_001)]
    async with client(pages(*(day_before(n, n) for n in range(1, 951)), *recent)) as cloud:
        reading = await cloud.ended(LONG_AGO)
    assert reading.complete
    assert reading.through == NOON


@pytest.mark.parametrize("begin", [0.0, 240.0], ids=["long ago", "within the overlap"])
@pytest.mark.parametrize("one_in", [1, 50], ids=["all", "few of them"])
async def test_more_runs_than_a_reading_has_that_ended_within_a_minute_are_read_in_pieces(
    monkeypatch: pytest.MonkeyPatch, begin: float, one_in: int
) -> None:
    """A tenth of the pages and of 50,000 runs."""
    monkeypatch.setattr(module, "MANY_PAGES", MANY_PAGES // 10)
    monkeypatch.setattr(module, "MAX_PAGES", MAX_PAGES // 10)
    runs = [ended(n, begin + n / 100) for n in range(1, 5_001)]

    def serve(request: httpx.Request) -> httpx.Response:
        since = datetime.fromisoformat(json.loads(request.url.params["finished_at__range"])[0])
        first = max(0, round(((since - SINCE).total_seconds() - begin) * 100) - 1)
        return pages(*runs[first:])(request)

    cursor, dealt = Cursor.beginning(SINCE), list[int]()
    async with client(serve, budget=Budget(1_000_000)) as cloud:
        for _ in range(15):
            reading = await cloud.ended(cursor.since)
            fresh = [run for run in cursor.fresh(reading.runs) if run.run_id % one_in == 0]
            dealt += [run.run_id for run in fresh]
            cursor = cursor.moved(reading, fresh, [])
            if reading.complete:
                break
    assert reading.complete
    assert dealt == [run["id"] for run in runs if run["id"] % one_in == 0]


@pytest.mark.parametrize(
    ("date", "last", "through"),
    [
        (timedelta(days=1), 0, NOON),
        (timedelta(hours=1), 3_000, SINCE + timedelta(seconds=3_000)),
        (timedelta(minutes=-1), 0, NOON - timedelta(seconds=59.5)),
        (timedelta(days=-1), 0, SINCE),
    ],
)
async def test_one_wrong_clock_takes_no_cursor_into_the_future(date: timedelta, last: float, through: datetime) -> None:
    """The watcher's clock says noon: it is dbt Cloud's that is wrong, or its own if runs have ended later."""

    def serve(_request: httpx.Request) -> httpx.Response:
        reply = listing([ended(1, last)])
        reply.headers["Date"] = format_datetime(NOON + date, usegmt=True)
        return reply

    async with client(serve) as cloud:
        reading = await cloud.ended(SINCE)
    assert (reading.through, reading.complete) == (through, True)


async def test_a_list_that_ends_early_proves_nothing() -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        first = request.url.params["offset"] == "0"
        return listing([ended(n, n / 10) for n in range(1, 101)] if first else [], total=150)

    async with client(serve) as cloud:
        with pytest.raises(ServerFault, match="listed 100 runs of 150"):
            await cloud.ended(SINCE)


async def test_a_run_that_is_listed_while_the_pages_are_read_moves_the_others_and_hides_none() -> None:
    runs = [ended(n, n / 10) for n in range(2, 252)]

    def serve(request: httpx.Request) -> httpx.Response:
        reply = pages(*runs)(request)
        if request.url.params["offset"] == "0":
            runs.insert(0, ended(1, 0))
        return reply

    async with client(serve) as cloud:
        reading = await cloud.ended(SINCE)
    assert {each.run_id for each in reading.runs} == set(range(2, 252))  # the next reading has the one that is new


async def test_runs_that_leave_the_list_while_it_is_read_make_it_prove_nothing() -> None:
    runs = [ended(n, n / 10) for n in range(1, 252)]

    def serve(request: httpx.Request) -> httpx.Response:
        reply = pages(*runs)(request)
        del runs[0]
        return reply

    async with client(serve) as cloud:
        with pytest.raises(ServerFault, match="fewer runs with each page"):
            await cloud.ended(SINCE)


async def test_a_run_whose_job_is_gone_is_read() -> None:
    async with client(pages(ended(1, 0, job_definition_id=None, job_id=None, environment_id=None))) as cloud:
        reading = await cloud.ended(SINCE)
    assert [(each.run_id, each.job_id, each.environment_id) for each in reading.runs] == [(1, 0, None)]


async def test_an_account_with_too_many_runs_is_a_fault_and_not_a_gap() -> None:
    async with client(pages(*(ended(n, 0) for n in range(1, (MAX_PAGES + 1) * 100)))) as cloud:
        with pytest.raises(ServerFault, match="more than 200 pages"):
            await cloud.ended(SINCE)


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ([ended(2, 30), ended(1, 0)], "oldest first"),
        ([ended(1, -90)], "oldest first"),
        ([run(1, 3, trigger=TRIGGER)], "oldest first"),
        ([ended(1, 0), ended(2, 1) | {"trigger": None}], "left the triggers out"),
    ],
)
async def test_a_list_that_is_not_what_was_asked_for_proves_nothing(listed: list[dict[str, Any]], why: str) -> None:
    async with client(pages(*listed)) as cloud:
        with pytest.raises(ServerFault, match=why):
            await cloud.ended(SINCE)


async def test_a_page_that_fails_leaves_no_reading() -> None:
    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.params["offset"] != "0":
            return httpx.Response(502)
        return listing([ended(n, 0) for n in range(100)], total=150)

    async with client(serve) as cloud:
        with pytest.raises(DbtCloudError):
            await cloud.ended(SINCE)


async def test_a_refused_filter_is_the_accounts_fault() -> None:
    async with client(lambda _: refusal(400, "no such filter")) as cloud:
        with pytest.raises(ServerFault, match="does not list runs by their end"):
            await cloud.ended(SINCE)


async def test_a_run_that_cannot_be_read_does_not_hide_the_others() -> None:
    async with client(pages(ended(1, 0), ended(2, 1) | {"status": 77}, ended(3, 2))) as cloud:
        reading = await cloud.ended(SINCE)
    assert [each.run_id for each in reading.runs] == [1, 3]


async def test_what_started_is_read_after_an_id() -> None:
    recorder = Recorder(pages(run(8, trigger=TRIGGER), run(9, trigger=TRIGGER)))
    async with client(recorder) as cloud:
        begun = await cloud.begun(7)
    assert [each.run_id for each in begun.runs] == [8, 9]
    assert begun.at == NOON
    assert (recorder.params()["id__gt"], recorder.params()["order_by"]) == ("7", "id")


async def test_at_first_the_newest_are_read() -> None:
    recorder = Recorder(pages(*(run(n, trigger=TRIGGER) for n in range(900, 700, -1))))
    async with client(recorder) as cloud:
        begun = await cloud.begun(None)
    assert len(begun.runs) == 100
    assert len(recorder.requests) == 1


async def test_an_ignored_filter_of_ids_proves_nothing() -> None:
    async with client(pages(run(7), run(8))) as cloud:
        with pytest.raises(ServerFault, match="id__gt"):
            await cloud.begun(7)


# ---- the loop


class Mirror:
    """A follower that deals with everything, unless told otherwise."""

    def __init__(self, cursor: Cursor | None, *, started: bool = False) -> None:
        self.cursor = cursor
        self.wants_started = started
        self.taken: list[int] = []
        self.late: list[int] = []
        self.begun: list[int] = []
        self.errors: list[DbtCloudError] = []
        self.answers = 0

    async def take_finished(self, reading: Reading) -> None:
        assert self.cursor is not None
        fresh = self.cursor.fresh(reading.runs)
        self.taken += [each.run_id for each in fresh]
        self.cursor = self.cursor.moved(reading, fresh, [])

    async def take_late(self, runs: tuple[RunFacts, ...]) -> None:
        assert self.cursor is not None
        missed = self.cursor.missed(runs)
        self.late += [each.run_id for each in missed]
        self.cursor = self.cursor.with_late(missed, [])

    async def take_started(self, runs: tuple[RunFacts, ...]) -> None:
        self.begun += [each.run_id for each in runs]

    def troubled(self, error: DbtCloudError) -> None:
        self.errors.append(error)

    def answering(self) -> None:
        self.answers += 1


@asynccontextmanager
async def reading(cloud: DbtCloud, **options: Any) -> AsyncIterator[Ledger]:
    ledger = Ledger(cloud.client(), clock=virtual.clock, **options)
    task = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        task.cancel()
        await asyncio.wait([task])


def begins(seconds: float = 0.0) -> Cursor:
    return Cursor.beginning(virtual.NOON + timedelta(seconds=seconds))


@virtual.JUMPING
async def test_any_number_of_mirrors_costs_an_idle_account_the_same() -> None:
    cloud = DbtCloud()
    async with reading(cloud) as ledger:
        for number in range(200):
            ledger.add(f"m{number}", Mirror(begins(), started=number % 2 == 0))
        await asyncio.sleep(1)
        cloud.asked.clear()
        await asyncio.sleep(600)
    assert len(cloud.asked) <= 15 * 10


@virtual.JUMPING
async def test_without_mirrors_nothing_is_asked() -> None:
    cloud = DbtCloud()
    async with reading(cloud) as ledger:
        ledger.add("m", Mirror(begins()))
        await asyncio.sleep(1)
        ledger.remove("m")
        ledger.remove("never there")
        cloud.asked.clear()
        await asyncio.sleep(100)
    assert len(cloud.asked) <= 1
    assert len(ledger) == 0


@virtual.JUMPING
async def test_a_fault_of_ours_with_one_mirror_ends_neither_the_others_nor_the_watcher(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Faulty(Mirror):
        def __str__(self) -> str:
            return "data/faulty"

        async def take_finished(self, reading: Reading) -> None:
            raise RuntimeError("a fault of ours")

        async def take_late(self, runs: tuple[RunFacts, ...]) -> None:
            raise RuntimeError("a fault of ours")

        async def take_started(self, runs: tuple[RunFacts, ...]) -> None:
            raise RuntimeError("a fault of ours")

    cloud, mirror = DbtCloud(), Mirror(begins(), started=True)
    async with reading(cloud) as ledger:
        ledger.add("faulty", Faulty(begins(), started=True))
        ledger.add("m", mirror)
        await asyncio.sleep(100)
        cloud.add([1])
        cloud.end([2])
        cloud.end([3], listed_after=400)
        await asyncio.sleep(1_500)
    assert (mirror.taken, mirror.late) == ([2], [3])
    assert 1 in mirror.begun
    assert "a fault of ours" in caplog.text
    assert {vars(record).get("mirror") for record in caplog.records if record.exc_info} == {"data/faulty"}


@virtual.JUMPING
async def test_an_end_is_dealt_with_within_seconds() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins())
    async with reading(cloud) as ledger:
        ledger.add("m", mirror)
        await asyncio.sleep(33)
        cloud.end([1])
        await asyncio.sleep(5.1)
    assert mirror.taken == [1]
    assert mirror.answers > 0


@virtual.JUMPING
async def test_a_hint_is_followed_at_once() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins())
    async with reading(cloud, read_seconds=60.0) as ledger:
        ledger.add("m", mirror)
        await asyncio.sleep(1)
        cloud.end([1])
        ledger.hurry()
        await asyncio.sleep(0.1)
    assert mirror.taken == [1]


@virtual.JUMPING
async def test_a_hint_is_followed_for_what_has_started_too_if_a_mirror_shows_it() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins(), started=True)
    async with reading(cloud, read_seconds=60.0, started_seconds=60.0) as ledger:
        assert not ledger.awaits(1, ended=False)
        ledger.add("m", mirror)
        await asyncio.sleep(1)
        assert ledger.lists == 2
        assert ledger.awaits(1, ended=False)
        asked = cloud.requests("newest")
        ledger.hurry()
        await asyncio.sleep(0.1)
        assert cloud.requests("newest") == asked + 1
    async with reading(DbtCloud()) as ledger:
        ledger.add("m", Mirror(begins()))
        assert ledger.lists == 1
        assert not ledger.awaits(1, ended=False)


@virtual.JUMPING
async def test_a_run_is_awaited_until_it_was_read() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins())
    async with reading(cloud) as ledger:
        assert not ledger.awaits(1, ended=True)
        ledger.add("m", mirror)
        assert ledger.awaits(1, ended=True)
        cloud.end([1])
        await asyncio.sleep(6)
        assert not ledger.awaits(1, ended=True)


@virtual.JUMPING
async def test_a_hint_does_not_shorten_the_backoff() -> None:
    cloud = DbtCloud()
    async with reading(cloud) as ledger:
        ledger.add("m", Mirror(begins()))
        await asyncio.sleep(20)
        cloud.broken["finished_at__range"] = httpx.ConnectError("away")
        await asyncio.sleep(120)
        asked = cloud.requests()
        for _ in range(100):
            ledger.hurry()
            await asyncio.sleep(0.2)
        assert cloud.requests() - asked <= 1


@virtual.JUMPING
async def test_a_mirror_that_takes_nothing_now_is_not_read_for() -> None:
    cloud = DbtCloud()
    async with reading(cloud) as ledger:
        ledger.add("suspended", Mirror(None))
        await asyncio.sleep(60)
    assert cloud.asked == []


@virtual.JUMPING
async def test_one_that_is_behind_has_readings_of_its_own() -> None:
    cloud, new = DbtCloud(), Mirror(begins(-86_400))
    async with reading(cloud) as ledger:
        ledger.add("old", Mirror(begins()))
        await asyncio.sleep(300)
        cloud.asked.clear()
        ledger.add("new", new)
        await asyncio.sleep(1)
        since = [json.loads(each.params["finished_at__range"])[0] for each in cloud.asked]
        assert (virtual.NOON - timedelta(days=1)).isoformat() in since
        assert any(time > virtual.NOON.isoformat() for time in since)
        cloud.asked.clear()
        await asyncio.sleep(5)
    assert len(cloud.asked) == 1


@virtual.JUMPING
async def test_an_outage_is_told_and_backs_off_and_nothing_is_lost() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins())
    async with reading(cloud) as ledger:
        ledger.add("m", mirror)
        await asyncio.sleep(10)
        cloud.broken["finished_at__range"] = httpx.ConnectError("away")
        cloud.end([1])
        await asyncio.sleep(600)
        assert 5 <= len(mirror.errors) <= 20
        cloud.broken.clear()
        await asyncio.sleep(61)
    assert mirror.taken == [1]


@virtual.JUMPING
async def test_a_run_that_is_listed_late_within_the_overlap_is_read() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins())
    async with reading(cloud) as ledger:
        ledger.add("m", mirror)
        await asyncio.sleep(200)
        cloud.end([1], listed_after=110)
        await asyncio.sleep(120)
    assert mirror.taken == [1]


@virtual.JUMPING
async def test_one_that_is_listed_later_is_counted_and_dealt_with_once() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins())
    counted: list[int] = []
    async with reading(cloud, late=counted.append) as ledger:
        ledger.add("m", mirror)
        await asyncio.sleep(100)
        cloud.end([1], listed_after=400)
        cloud.end([2])
        await asyncio.sleep(1_500)
    assert mirror.taken == [2]
    assert mirror.late == [1]
    assert counted == [1]


@virtual.JUMPING
async def test_one_that_is_listed_later_and_read_for_a_mirror_that_is_behind_is_not_lost_for_the_others() -> None:
    class Behind(Mirror):
        async def take_finished(self, reading: Reading) -> None:
            """It deals with nothing, so its readings begin where they did."""

    cloud, mirror = DbtCloud(), Mirror(begins())
    async with reading(cloud) as ledger:
        ledger.add("behind", Behind(begins()))
        ledger.add("m", mirror)
        await asyncio.sleep(900)
        cloud.end([1], listed_after=200)
        await asyncio.sleep(1_500)
    assert mirror.late == [1]


@virtual.JUMPING
async def test_what_was_there_before_the_first_look_is_not_late() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins(600))
    cloud.end([1])
    async with reading(cloud) as ledger:
        await asyncio.sleep(600)
        ledger.add("m", mirror)
        await asyncio.sleep(2_000)
    assert mirror.late == []


@virtual.JUMPING
async def test_one_that_is_listed_between_the_first_reading_and_the_first_look_is_dealt_with() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins())
    await asyncio.sleep(10)
    cloud.end([1], listed_after=1_003)
    await asyncio.sleep(1_000)
    async with reading(cloud) as ledger:
        ledger.add("m", mirror)
        await asyncio.sleep(20)
    assert (mirror.taken, mirror.late) == ([], [1])


@virtual.JUMPING
async def test_the_memory_of_runs_is_bounded() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins())
    async with reading(cloud, read_seconds=120.0) as ledger:
        ledger.add("m", mirror)
        for number in range(100):
            await asyncio.sleep(120)
            cloud.end([number + 1])
        await asyncio.sleep(121)
        assert len(ledger._seen) <= (LATE_REACH + 3 * OVERLAP).total_seconds() / 120
    assert len(mirror.taken) == 100


@virtual.JUMPING
async def test_started_runs_come_once_and_only_to_those_who_want_them() -> None:
    cloud, wanting, other = DbtCloud(), Mirror(begins(), started=True), Mirror(begins())
    async with reading(cloud) as ledger:
        ledger.add("wanting", wanting)
        ledger.add("other", other)
        for number in range(1, 20):
            cloud.end([number])
            await asyncio.sleep(20)
    assert wanting.begun == list(range(1, 20))[: len(wanting.begun)]
    assert len(wanting.begun) >= 17
    assert other.begun == []


@virtual.JUMPING
async def test_a_smaller_id_that_is_listed_after_a_greater_one_comes() -> None:
    cloud, mirror = DbtCloud(), Mirror(begins(), started=True)
    async with reading(cloud) as ledger:
        ledger.add("m", mirror)
        cloud.end([50])
        cloud.end([60])
        await asyncio.sleep(31)
        cloud.end([55])
        await asyncio.sleep(60)
    assert sorted(mirror.begun) == [50, 55, 60]


# ---- with the simulator


async def test_with_the_simulator_every_run_comes_once_whatever_ends_in_between() -> None:
    time = ManualTime()
    jobs = [{"name": "quick", "id": 501, "queue": 0, "start": 0, "run": None}]
    scenario = convert({"projects": [{"name": "Analytics"}], "jobs": jobs}, Scenario)
    async with running(scenario, clock=Clock(source=time)) as simulator:
        keys = {"token": simulator.token, "account-id": str(simulator.account_id), "host": simulator.url}
        connection = parse_connection(
            {key: value.encode() for key, value in keys.items()}, "the simulator", Hosts(loopback=True)
        )
        began = datetime.fromtimestamp(time.seconds, UTC)
        mirror = Mirror(Cursor.beginning(began - timedelta(seconds=1)))
        cloud = simulator.simulator
        async with Client(connection) as each:
            made = []
            for _ in range(30):
                for _ in range(10):
                    started = cloud.start(cloud.account.jobs[501], TriggerRequest(cause="by hand"), action="ui")
                    time.move(1)
                    cloud.account.advance()
                    cloud.finish(started, Status.SUCCESS)
                    made.append(started.id)
                assert mirror.cursor is not None
                read = await each.ended(mirror.cursor.floor)
                # The machine's clock is another than the simulator's here.
                await mirror.take_finished(
                    Reading(since=read.since, through=datetime.fromtimestamp(time.seconds, UTC), runs=read.runs)
                )
    assert mirror.taken == made
