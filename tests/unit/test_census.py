"""What the metrics say of the objects: how many, for how long, which jobs are late or failing."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace as dataclass_replace
from datetime import timedelta
from typing import Any, Final, cast

import httpx
from msgspec.structs import replace
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dbtrun.api import Attempt, Condition, ConditionStatus, ConditionType, DbtRun, Phase, Reason, Status
from dbtrun.values import Instant
from tests.unit.lifecycle.builders import JOB, at, live, mono, over, run, wall
from tests.unit.lifecycle.test_history import ended
from watcher.census import Counting
from watcher.cluster.mirror import Mirror, Unreadable
from watcher.lifecycle.history import History, Streaks
from watcher.telemetry.health import Checks, health_app
from watcher.telemetry.metrics import MAX_JOBS, Census, Metrics
from watcher.telemetry.vitals import Vitals

LONGEST_HOLD: Final = 0.015
"""Seconds that a scrape may take of the loop."""


class Desk:
    """Objects, and a clock that is moved by hand."""

    def __init__(self, *runs: DbtRun) -> None:
        self.runs = list(runs)
        self.resting_in: dict[tuple[str, str, str], int] = {}
        self.seconds = 20.0
        self.acting = True
        self.history, self.streaks = History(), Streaks()
        self.limited: dict[str, bool] = {}
        self.counting = Counting(
            lambda: self.resting_in,
            self.history,
            self.streaks,
            lambda: self.clock(),
            lambda: self.acting,
            lambda: self.limited.items(),
        )
        self._noted: set[str] = set()

    def count(self) -> Census:
        """Tells of what has changed, then counts."""
        for each in self.runs:
            self.counting.note(each)
        there = {each.uid for each in self.runs}
        for uid in self._noted - there:
            self.counting.forget(uid)
        self._noted = there
        return self.counting()

    def clock(self) -> Instant:
        return at(self.seconds)


def named(uid: str, status: Status | None = None, **spec: Any) -> DbtRun:
    obj = run(status, **spec)
    return replace(obj, metadata=replace(obj.metadata, uid=uid))


def test_objects_are_counted_by_phase_and_reason_the_resting_ones_too() -> None:
    desk = Desk(named("a"), named("b", live()), named("c", live()), named("d", over()))
    desk.resting_in = {("data", "Succeeded", "RunSucceeded"): 7, ("other", "Failed", "RunFailed"): 1}
    assert desk.count().objects == {
        ("data", "Pending", ""): 1,
        ("data", "Running", "RunStarted"): 2,
        ("data", "Succeeded", "RunSucceeded"): 8,
        ("other", "Failed", "RunFailed"): 1,
    }


def test_a_standby_counts_nothing() -> None:
    desk = Desk(named("a", live()))
    desk.resting_in = {("data", "Succeeded", "RunSucceeded"): 7}
    desk.acting = False
    assert desk.count() == Census()


def waits(desk: Desk, seconds: float) -> dict[tuple[str, str], float]:
    desk.seconds = seconds
    return {(phase, reason): age for (_, phase, reason), age in desk.count().oldest.items()}


def test_the_oldest_of_each_phase_counts() -> None:
    desk = Desk(named("a", live(Phase.CANCELLING, Reason.DELETED)))
    assert waits(desk, 100) == {("Cancelling", "Deleted"): 0}, "since when is not in the status"
    desk.runs.append(named("b", live(Phase.CANCELLING, Reason.DELETED)))
    assert waits(desk, 160) == {("Cancelling", "Deleted"): 60}


def test_an_object_that_moves_on_begins_anew() -> None:
    desk = Desk(named("a", live(Phase.CANCELLING, Reason.DELETED)))
    waits(desk, 100)
    desk.runs = [named("a", live(Phase.CANCELLING, Reason.CANCEL_REQUESTED))]
    assert waits(desk, 160) == {("Cancelling", "CancelRequested"): 0}
    desk.runs = [named("a", over())]
    assert waits(desk, 200) == {}


def test_after_a_restart_the_status_tells_since_when() -> None:
    claim = Attempt(number=1, phase=Phase.SUBMITTING, claim_time=wall(40))
    desk = Desk(
        named("new"),
        named("accepted", Status(phase=Phase.PENDING, reason=Reason.ACCEPTED)),
        named("backing off", Status(phase=Phase.PENDING, reason=Reason.RETRY_BACKOFF)),
        named("claimed", Status(phase=Phase.SUBMITTING, reason=Reason.CLAIMED, attempts=(claim,))),
        named("lost", Status(phase=Phase.SUBMITTING, reason=Reason.LOOKING_UP)),
        named("queued", live(Phase.QUEUED, Reason.RUN_QUEUED)),
        named("running", live()),
    )
    assert waits(desk, 100) == {
        ("Pending", ""): 100,
        ("Pending", "Accepted"): 100,
        ("Pending", "RetryBackoff"): 0,
        ("Submitting", "Claimed"): 60,
        ("Submitting", "LookingUp"): 0,
        ("Queued", "RunQueued"): 100,
        ("Running", "RunStarted"): 90,
    }


def reachable(status: Status, told: ConditionStatus, reason: Reason) -> Status:
    condition = Condition(
        type=ConditionType.REACHABLE,
        status=told,
        reason=reason,
        message="",
        last_transition_time=wall(0),
        observed_generation=1,
    )
    return replace(status, conditions=(condition,))


def test_what_cannot_be_reached_is_counted_by_reason() -> None:
    refused = reachable(live(), ConditionStatus.FALSE, Reason.UNAUTHORIZED)
    desk = Desk(
        named("a", refused),
        named("b", refused),
        named("c", reachable(live(), ConditionStatus.TRUE, Reason.ANSWERING)),
        named("d", reachable(over(), ConditionStatus.FALSE, Reason.UNREACHABLE)),
        named("e"),
    )
    assert desk.count().unreachable == {("data", "Unauthorized"): 2}


def test_slots_are_counted_by_namespace() -> None:
    desk = Desk(named("live", live()), named("held"), named("waits"), named("unlimited", live()))
    desk.limited = {"live": False, "held": True, "waits": False, "a mirror": True}
    assert desk.count().slots_used == {"data": 2}


def test_a_run_is_shown_beside_what_its_job_usually_takes() -> None:
    known = replace(live(), host="cloud.getdbt.com")
    desk = Desk(named("a", known), named("b", live(Phase.QUEUED, Reason.RUN_QUEUED)))
    for number in (1, 2):
        desk.history.note(ended(number, 300))
        desk.streaks.note(ended(number, 300, Phase.FAILED))
    desk.seconds = 1_010
    now = desk.count()
    assert now.running == {("data", JOB): 1_000}
    assert now.expected == {("data", JOB): 300}
    assert now.failures == {("data", JOB): 2}


def test_what_is_counted_with_each_change_is_what_a_count_from_scratch_finds() -> None:
    """Random changes of a few objects, which often meet in a group."""
    refused = reachable(live(), ConditionStatus.FALSE, Reason.UNAUTHORIZED)
    statuses = [
        None,
        live(),
        replace(live(), host="cloud.getdbt.com"),
        replace(live(), started_at=wall(5), job_id=JOB + 1),
        live(Phase.QUEUED, Reason.RUN_QUEUED),
        refused,
        over(),
    ]
    desk = Desk()
    for number in (1, 2):
        desk.history.note(ended(number, 300))
    objects: dict[str, DbtRun] = {}
    chance = random.Random(7)  # noqa: S311
    for _ in range(500):
        uid = chance.choice("abcdef")
        if chance.random() < 0.3:
            objects.pop(uid, None)
        else:
            objects[uid] = named(uid, chance.choice(statuses))
        desk.runs = list(objects.values())
        fresh = Desk(*desk.runs)
        fresh.history = fresh.counting.history = desk.history
        now, scratch = desk.count(), fresh.count()
        assert now == dataclass_replace(scratch, oldest=now.oldest)
        assert now.oldest.keys() == scratch.oldest.keys()
    desk.runs = []
    assert desk.count() == Census()


def test_the_mirror_tells_of_each_change_of_what_does_not_rest() -> None:
    desk = Desk()
    mirror = Mirror(
        lambda run: 1e12 if run.status.final else None, active=desk.counting.note, inactive=desk.counting.forget
    )

    def take(uid: str, version: int, status: Status | None) -> None:
        obj = named(uid, status)
        mirror.take(replace(obj, metadata=replace(obj.metadata, resource_version=str(version))))

    def counted() -> dict[str, int]:
        return {phase: count for (_, phase, _), count in desk.counting().objects.items()}

    take("a", 1, live())
    take("b", 1, live())
    take("c", 1, None)
    assert counted() == {"Running": 2, "Pending": 1}
    take("a", 2, over())
    assert counted() == {"Running": 1, "Pending": 1}
    mirror.gone("c")
    mirror.take(Unreadable("b", "data", "b", "3", "odd"))
    assert counted() == {}
    mirror.rouse(named("a", over()))
    take("b", 4, live())
    assert counted() == {"Running": 1}


async def scraped(metrics: Metrics) -> AsyncIterator[str]:
    """The page, again and again."""
    app = health_app(Checks(Vitals(), lambda: None), metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://watcher") as client:
        while True:
            yield (await client.get("/metrics")).text


class Asked(Collector):
    """A part that notes in which thread it is asked, and in which its answer is written."""

    def __init__(self) -> None:
        self.asked = self.written = 0

    def collect(self) -> Iterator[Metric]:
        self.asked = threading.get_ident()
        family = GaugeMetricFamily("asked", "Asked.")
        family.add_metric([], cast(Any, self))
        yield family

    def __float__(self) -> float:
        self.written = threading.get_ident()
        return 1.0


async def test_parts_are_asked_in_the_loop_and_their_answers_written_in_a_thread() -> None:
    metrics, part = Metrics(), Asked()
    metrics.registry.register(part)
    assert "asked 1.0" in await anext(scraped(metrics))
    assert part.asked == threading.get_ident() != part.written


async def test_a_scrape_of_ten_thousand_objects_does_not_hold_up_the_loop() -> None:
    """The processor time of the loop's own thread: what others do on the machine does not count."""
    desk = Desk()
    for number in range(10_000):
        desk.counting.note(named(f"u{number}", replace(live(), job_id=number % 300)))
    metrics = Metrics()
    metrics.watch_objects(desk.counting)
    pages = scraped(metrics)
    await anext(pages)  # the first one gives the jobs their labels
    took = []
    for _ in range(5):
        began = time.thread_time()
        told = await anext(pages)
        took.append(time.thread_time() - began)
    assert len(re.findall("^dbtrun_job_running_seconds{", told, re.MULTILINE)) == MAX_JOBS + 1
    assert min(took) < LONGEST_HOLD, took


def shown(metrics: Metrics) -> list[str]:
    lines: Iterable[str] = generate_latest(metrics.registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_a_job_is_counted_from_zero_as_soon_as_it_is_seen() -> None:
    """Else the first failure of a job would be a series that begins at 1, which no rate shows."""
    metrics = Metrics()
    metrics.watch_objects(lambda: Census(running={("data", 7): 3.0}))
    shown(metrics)
    assert 'dbtrun_job_finished_total{job_id="7",namespace="data",phase="Failed"} 0.0' in shown(metrics)


def test_the_labels_of_jobs_are_bounded() -> None:
    metrics = Metrics()
    jobs = range(10 * MAX_JOBS)
    metrics.watch_objects(lambda: Census(running={("data", job): float(job) for job in jobs}))
    lines = [line for line in shown(metrics) if line.startswith("dbtrun_job_running_seconds")]
    assert len(lines) == MAX_JOBS + 1
    assert f'dbtrun_job_running_seconds{{job_id="other",namespace=""}} {10 * MAX_JOBS - 1:.1f}' in lines


def test_a_resting_object_stays_counted_under_what_it_ended_in() -> None:
    mirror = Mirror(lambda run: 1e12 if run.status.phase is Phase.SUCCEEDED else None)
    place = ("data", "Succeeded", "RunSucceeded")
    for uid in ("a", "b"):
        mirror.take(named(uid, live()))
    assert dict(mirror.resting_in) == {}
    for version, uid in enumerate(("a", "b", "a"), start=2):
        done = named(uid, over())
        mirror.take(replace(done, metadata=replace(done.metadata, resource_version=str(version))))
    assert mirror.resting_in == {place: 2}
    mirror.gone("a")
    assert mirror.resting_in == {place: 1}
    mirror.rouse(named("b", live()))
    assert dict(mirror.resting_in) == {}


def test_ages_are_measured_by_the_clock_that_does_not_jump() -> None:
    desk = Desk(named("a", live(Phase.CANCELLING, Reason.DELETED)))
    waits(desk, 100)
    jumped = Instant(wall(100) + timedelta(days=1), mono(130))
    desk.clock = lambda: jumped  # type: ignore[method-assign]
    assert desk.count().oldest == {("data", "Cancelling", "Deleted"): 30}
