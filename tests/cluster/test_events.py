"""Events on the real API server, as kubectl shows them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from dbtrun.api import DbtRun
from tests.cluster.objects import create
from tests.controlplane import ControlPlane
from tests.patience import patience
from watcher.cluster.access import ClusterAccess
from watcher.cluster.events import Events
from watcher.cluster.mirror import read


@pytest.fixture
async def run(admin: ClusterAccess, namespace: str) -> DbtRun:
    return read(await create(admin, namespace, "run"))


@pytest.fixture
async def events(admin: ClusterAccess) -> AsyncIterator[Events]:
    events = Events(admin, "pod-1")
    async with sending(events):
        yield events


class sending:  # noqa: N801 - reads as a verb
    def __init__(self, events: Events) -> None:
        self._events = events

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._events.run())

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def told(plane: ControlPlane, run: DbtRun) -> list[dict[str, Any]]:
    shown = await plane.kubectl("-n", run.metadata.namespace, "get", "events.events.k8s.io", "-o", "json")
    items: list[dict[str, Any]] = json.loads(shown.stdout)["items"]
    return items


async def test_an_event_is_about_its_object(events: Events, served: ControlPlane, run: DbtRun) -> None:
    events.emit(run, "Normal", "Started", "dbt Cloud run 7 has begun.", "Submit")
    await events.flush()
    (event,) = await told(served, run)
    assert (event["type"], event["reason"], event["action"]) == ("Normal", "Started", "Submit")
    assert event["note"] == "dbt Cloud run 7 has begun."
    assert event["reportingController"] == "dbtrun.dev/watcher"
    assert event["reportingInstance"] == "pod-1"
    assert event["regarding"]["uid"] == run.uid
    shown = await served.kubectl("-n", run.metadata.namespace, "events", "--for", "dbtrun/run")
    assert "dbt Cloud run 7 has begun." in shown.stdout


async def test_the_same_is_said_once(events: Events, served: ControlPlane, run: DbtRun) -> None:
    for note in ("one", "one", "two"):
        events.emit(run, "Warning", "Retried", note, "Retry")
    await events.flush()
    assert sorted(event["note"] for event in await told(served, run)) == ["one", "two"]


@pytest.mark.parametrize("letter", ["x", "€"])
async def test_a_long_note_is_cut_to_what_is_accepted(
    events: Events, served: ControlPlane, run: DbtRun, letter: str
) -> None:
    events.emit(run, "Normal", "Failed", letter * 5_000, "Finish")
    await events.flush()
    (event,) = await told(served, run)
    assert event["note"].endswith("…")
    assert 1_000 < len(event["note"].encode()) <= 1_024


async def test_an_event_that_is_refused_does_not_stop_the_next(
    events: Events, served: ControlPlane, run: DbtRun
) -> None:
    events.emit(run, "Normal", "", "no reason", "Submit")
    events.emit(run, "Normal", "Started", "fine", "Submit")
    await events.flush()
    assert [event["note"] for event in await told(served, run)] == ["fine"]


async def test_emitting_never_waits_even_when_nothing_is_sent(admin: ClusterAccess, run: DbtRun) -> None:
    events = Events(admin)
    for n in range(1_500):
        events.emit(run, "Normal", "Started", f"{n}", "Submit")
    await asyncio.wait_for(events.flush(0.01), patience(1))
