"""What a waiting task's log says after the first look: each change once, deferred or not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from airflow_trigger import trigger as module
from airflow_trigger.trigger import DbtRunTrigger
from airflow_trigger.waiting.hub import DEFAULT_PACE, Hub, Pace, Subscription
from dbtrun.api import WATCHED_ANNOTATION
from dbtrun.kube.errors import QuotaExceeded, Unauthorized, Unreachable
from tests.unit.airflow_trigger.fakes import FakeRuns, dbtrun
from tests.unit.airflow_trigger.tasks import FakeTaskRuns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_trigger.waiting.runs import Runs

pytestmark = pytest.mark.looptime

TOLD_SECONDS = 10.0
"""From a change of the status to the line in the task's log."""
NO_ROUTE = {"type": "Reachable", "status": "False", "reason": "Unreachable", "message": "No route to host."}
REFUSED = {"type": "Reachable", "status": "False", "reason": "Unauthorized", "message": "401: Invalid token."}
ANSWERS = {"type": "Reachable", "status": "True", "reason": "Answering", "message": "dbt Cloud answers."}


class Log:
    """A task's log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, words: str, *values: object) -> None:
        self.lines.append(words % values)

    warning = info


class Namespace:
    """One DbtRun, and the log of the task that waits for it."""

    def __init__(self, log: Log) -> None:
        self.runs = FakeRuns()
        self.log = log
        self._version = 1

    def says(self, phase: str, reason: str, message: str, *conditions: dict[str, str], **status: Any) -> None:
        """A write of the status, of which no watch tells."""
        self._version += 1
        told = {"phase": phase, "reason": reason, "message": message, "conditions": list(conditions), **status}
        self.runs.put(dbtrun(version=self._version, **told), told=False)

    async def within(self, seconds: float = TOLD_SECONDS) -> list[str]:
        """The lines that come in this time."""
        before = len(self.log.lines)
        await asyncio.sleep(seconds)
        return self.log.lines[before:]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()
    monkeypatch.setattr(DbtRunTrigger, "log", log, raising=False)
    return log


@pytest.fixture
def namespace(log: Log, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    namespace = Namespace(log)

    @asynccontextmanager
    async def source() -> AsyncIterator[Runs]:
        yield namespace.runs

    @asynccontextmanager
    async def subscribe(_config: object, _namespace: str, name: str, pace: Pace) -> AsyncIterator[Subscription]:
        hub = Hub(source, pace)
        states = Subscription(hub, name)
        hub.join(states)
        try:
            yield states
        finally:
            await hub.close()

    monkeypatch.setattr(module, "subscribe", subscribe)
    return namespace


@asynccontextmanager
async def waiting(**arguments: Any) -> AsyncIterator[asyncio.Task[Any]]:
    given: dict[str, Any] = {"name": "nightly", "namespace": "team"}
    trigger = DbtRunTrigger(**given | arguments)
    task = asyncio.create_task(trigger.outcome())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_each_change_is_logged_once_and_nothing_else_is(namespace: Namespace) -> None:
    stories = [
        ("Pending", "WaitingForSlot", "Waiting for a run slot."),
        ("Submitting", "Claimed", "Starting job 1."),
        ("Queued", "RunQueued", "Run 7 is queued."),
        ("Running", "RunStarted", "Run 7 is running."),
        ("Cancelling", "CancelRequested", "Cancelling run 7: spec.cancel is true."),
    ]
    namespace.says(*stories[0])
    async with waiting():
        assert len(await namespace.within()) == 1
        for story in stories[1:]:
            namespace.says(*story)
            assert await namespace.within() == [f"DbtRun nightly is {story[0]} ({story[1]}): {story[2]}"]
            assert await namespace.within(300) == []


async def test_a_quota_without_room_is_logged_once(namespace: Namespace) -> None:
    namespace.runs.fail("create", *(QuotaExceeded("exceeded quota: few") for _ in range(3)))
    async with waiting(name=None, run_id=5):
        told = await namespace.within(300)
    assert namespace.runs.creates == 4
    assert [line for line in told if "quota" in line] == [
        "Waiting until DbtRun run-5 can be created: exceeded quota: few"
    ]


async def test_a_live_runs_progress_is_no_news(namespace: Namespace) -> None:
    namespace.says("Running", "RunStarted", "Run 7 is running.", progress="1/5")
    async with waiting():
        assert len(await namespace.within()) == 1
        namespace.says("Running", "RunStarted", "Run 7 is running.", progress="2/5")
        assert await namespace.within(300) == []


async def test_a_live_run_that_cannot_be_reached_is_told_soon_and_so_is_its_recovery(namespace: Namespace) -> None:
    running = ("Running", "RunStarted", "Run 7 is running.")
    namespace.says(*running, ANSWERS)
    async with waiting():
        assert len(await namespace.within()) == 1
        namespace.says(*running, NO_ROUTE)
        assert await namespace.within() == [
            "DbtRun nightly is Running (RunStarted): Run 7 is running. "
            "dbt Cloud cannot be reached (Unreachable): No route to host."
        ]
        assert await namespace.within(300) == []
        namespace.says(*running, REFUSED)
        assert await namespace.within() == [
            "DbtRun nightly is Running (RunStarted): Run 7 is running. "
            "dbt Cloud cannot be reached (Unauthorized): 401: Invalid token."
        ]
        namespace.says(*running, ANSWERS)
        assert await namespace.within() == ["DbtRun nightly is Running (RunStarted): Run 7 is running."]
        assert await namespace.within(300) == []


@pytest.mark.parametrize(
    ("live", "seconds"), [(0, 5.0), (100, 5.0), (200, 10.0), (1_000, 50.0), (1_200, 60.0), (50_000, 60.0)]
)
def test_the_more_runs_are_live_the_more_seldom_all_are_looked_at(live: int, seconds: float) -> None:
    assert DEFAULT_PACE.recheck_of(live) == seconds


async def test_the_looks_are_as_seldom_as_the_number_of_live_runs_asks_for(namespace: Namespace) -> None:
    for number in range(1_000):
        namespace.runs.put(dbtrun(f"other-{number}", version=2, uid=f"o{number}", phase="Running"), told=False)
    namespace.says("Running", "RunStarted", "Run 7 is running.")
    async with waiting():
        await asyncio.sleep(80)
        before = namespace.runs.looks
        await asyncio.sleep(500)
        assert namespace.runs.looks - before == 10


async def test_steps_are_logged_for_a_task_that_asks_for_it_and_nothing_is_written_for_any_other(
    namespace: Namespace, log: Log
) -> None:
    objects = FakeTaskRuns()
    objects.put({"metadata": {"name": "nightly", "labels": {}}, "spec": {"job": {"id": 1}}})
    objects.says("nightly", steps=[{"index": 1, "name": "dbt deps", "status": "Running"}])
    namespace.says("Running", "RunStarted", "Run 7 is running.")
    faults = [Unreachable("no route"), Unauthorized("expired")]

    class Trigger(DbtRunTrigger):
        @asynccontextmanager
        async def task_runs(self, wait: object) -> AsyncIterator[FakeTaskRuns]:
            if faults:
                raise faults.pop()
            yield objects

    plain = asyncio.create_task(Trigger(name="nightly", namespace="team").outcome())
    await asyncio.sleep(60)
    assert objects.calls == []
    plain.cancel()
    log.lines.clear()
    trigger = Trigger(name="nightly", namespace="team", log_steps=True)
    assert trigger.serialize()[1]["log_steps"] is True
    asking = asyncio.create_task(trigger.outcome())
    await asyncio.sleep(5)
    assert "Step 1: dbt deps: Running" in log.lines
    assert WATCHED_ANNOTATION in objects.objects["nightly"]["metadata"]["annotations"]
    namespace.says("Succeeded", "RunSucceeded", "Run 7 has succeeded.")
    await asyncio.sleep(TOLD_SECONDS)
    assert asking.done(), "the event does not wait for the steps"
    before = len(objects.calls)
    await asyncio.sleep(60)
    assert len(objects.calls) == before, "nobody looks at the steps any more"
