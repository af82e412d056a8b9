"""What a person must mend is told soon: to the waiting task, by an Event, in the watcher's log and as a metric."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest
import pytest_asyncio

from airflow_trigger.trigger import DbtRunTrigger
from tests.controlplane import ControlPlane
from tests.stack import Own, Stack, until
from tests.stack.scrape import scrape

IN_THE_TASK: Final = 10.0
"""Seconds from the beginning of the wait until the task's log says it."""
ELSEWHERE: Final = 30.0
"""Until the Event, the log's warning and the metric say it."""
SLOW: Final = 3
"""A machine that does other things beside is given so many times as long; the figures are printed."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, "told")
    async with Stack.up(plane, "told", tmp_path_factory.mktemp("told")) as stack:
        await stack.apply(stack.secret("refused", stack.keys("dbtc_" + "0" * 40)))
        own = Own(stack, "first")
        await own.apply("success")
        await own.reaches("Succeeded")  # the watcher has started, which is not what is measured
        yield stack


@dataclass
class Watch:
    """When each place has told of one object."""

    stack: Stack
    own: Own
    reason: str
    words: str
    began: float

    async def seconds(self, told: Callable[[], Awaitable[object]], limit: float, where: str) -> float:
        await until(told, limit * SLOW, f"{where} tells {self.reason}")
        return time.monotonic() - self.began

    async def in_the_event(self) -> bool:
        return any(reason == self.reason for reason, _ in await self.stack.events(self.own.name))

    async def in_the_metric(self) -> bool:
        told = await scrape(self.stack.watcher)
        return (told.value("dbtrun_unreachable_objects", {"reason": self.reason}) or 0) >= 1

    async def in_the_log(self) -> bool:
        warned = (line for line in self.stack.watcher.text().splitlines() if '"WARNING"' in line)
        return any(self.words in line for line in warned)


class TaskLog:
    """What Airflow's logging writes for the trigger."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def says(self, words: str) -> bool:
        self._text += self._capsys.readouterr().out
        return words in self._text


CASES: Final[dict[str, tuple[dict[str, Any], str, str]]] = {
    "a mistyped connection": (
        {"connectionRef": {"name": "no-such"}},
        "InvalidConnection",
        "There is no Secret 'no-such'",
    ),
    "a refused token": ({"connectionRef": {"name": "refused"}}, "Unauthorized", "401"),
    "a wrong type": ({"connectionRef": {"name": "opaque"}}, "InvalidConnection", "is of type Opaque"),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_cannot_be_started_is_told_in_time(
    stack: Stack, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, reason, words = CASES[case]
    await stack.apply(stack.secret("opaque", stack.keys(), kind="Opaque"))
    own = Own(stack, case.replace(" ", "-"))
    await own.apply("success", **spec)
    log = TaskLog(capsys)
    waiting = asyncio.create_task(
        first(DbtRunTrigger(name=own.name, namespace=stack.namespace, config_file=str(stack.plane.kubeconfig)))
    )
    watch = Watch(stack, own, reason, words, time.monotonic())

    async def in_the_task() -> bool:
        return log.says(f"({reason})") and log.says(words)

    try:
        figures = {
            "task": await watch.seconds(in_the_task, IN_THE_TASK, "the task's log"),
            "event": await watch.seconds(watch.in_the_event, ELSEWHERE, "an Event"),
            "metric": await watch.seconds(watch.in_the_metric, ELSEWHERE, "a metric"),
            "log": await watch.seconds(watch.in_the_log, ELSEWHERE, "the watcher's log"),
        }
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])
    with capsys.disabled():
        print(case, {where: round(seconds, 2) for where, seconds in figures.items()})
    await own.delete()


async def test_a_live_run_that_cannot_be_read_is_in_the_tasks_log(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Own(stack, "live")
    await own.apply("endless")
    await own.reaches("Running")
    log = TaskLog(capsys)
    waiting = asyncio.create_task(
        first(DbtRunTrigger(name=own.name, namespace=stack.namespace, config_file=str(stack.plane.kubeconfig)))
    )

    async def told(words: str) -> bool:
        return log.says(words)

    try:
        await until(lambda: told("is Running (RunStarted)"), 30)
        await stack.ask("POST", "/faults", {"effect": {"type": "reply", "status": 502, "body": "html"}})
        await until(lambda: told("dbt Cloud cannot be reached (ServerError)"), 60, "the task's log tells of the outage")
    finally:
        await stack.ask("DELETE", "/faults")
        waiting.cancel()
        await asyncio.wait([waiting])


async def first(trigger: DbtRunTrigger) -> object:
    """The trigger's event, as Airflow's triggerer waits for it."""
    async for event in trigger.run():
        return event
    raise AssertionError("no event")
