"""The queue in front of Kubernetes Events; that they are accepted is shown on the real API server."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from dbtrun.api import parse
from watcher.cluster.access import ClusterAccess
from watcher.cluster.events import PATIENCE_SECONDS, PATIENT, QUEUE, Events

RUN = parse(
    {
        "apiVersion": "dbtrun.dev/v1alpha1",
        "kind": "DbtRun",
        "metadata": {"name": "run", "namespace": "data-team", "uid": "u", "resourceVersion": "1"},
        "spec": {"job": {"id": 1}},
    }
)


class Sent:
    """An API server that takes everything."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def request(self, *_: Any, body: dict[str, Any], **__: Any) -> bytes:
        self.reasons.append(body["reason"])
        return b""


async def sent(events: Events, server: Sent) -> list[str]:
    """The reasons that are told now."""
    server.reasons.clear()
    sending = asyncio.create_task(events.run())
    await events.flush()
    sending.cancel()
    return server.reasons


def waiting(server: Sent, count: int) -> Events:
    """So many Events that nothing has sent yet."""
    events = Events(cast(ClusterAccess, server))
    for number in range(count):
        events.emit(RUN, "Normal", "Started", f"{number}", "Submit")
    return events


async def test_a_warning_is_told_first_however_much_waits() -> None:
    server = Sent()
    events = waiting(server, QUEUE + 1)
    events.emit(RUN, "Warning", "ReconcileFailed", "why", "Reconcile")
    assert await sent(events, server) == ["ReconcileFailed", *["Started"] * QUEUE]


async def test_what_is_normal_keeps_its_order() -> None:
    server = Sent()
    events = waiting(server, 0)
    for reason in ("Connected", "Submitted", "Started"):
        events.emit(RUN, "Normal", reason, "so it is", "Submit")
    assert await sent(events, server) == ["Connected", "Submitted", "Started"]


async def test_warnings_do_not_pile_up_either() -> None:
    server = Sent()
    events = waiting(server, 0)
    for number in range(2 * QUEUE + 1):
        events.emit(RUN, "Warning", "ReconcileFailed", f"{number}", "Reconcile")
    assert len(await sent(events, server)) == 2 * QUEUE


async def test_what_was_dropped_is_told_when_it_happens_again() -> None:
    server = Sent()
    events = waiting(server, QUEUE)
    events.emit(RUN, "Normal", "Retried", "too much", "Retry")
    assert "Retried" not in await sent(events, server)
    events.emit(RUN, "Normal", "Retried", "too much", "Retry")
    assert await sent(events, server) == ["Retried"]


def held(server: Sent) -> Events:
    """As long as runs wait to be started."""
    return Events(cast(ClusterAccess, server), crowded=lambda: True)


@pytest.mark.looptime
async def test_what_is_normal_waits_for_starts_and_not_for_ever() -> None:
    server = Sent()
    events = held(server)
    events.emit(RUN, "Normal", "Started", "", "Submit")
    sending = asyncio.create_task(events.run())
    await asyncio.sleep(PATIENCE_SECONDS - 1)
    assert server.reasons == []
    await asyncio.sleep(1.1)
    assert server.reasons == ["Started"]
    sending.cancel()


@pytest.mark.looptime
async def test_a_warning_does_not_wait_with_what_is_normal() -> None:
    server = Sent()
    events = held(server)
    events.emit(RUN, "Normal", "Started", "", "Submit")
    sending = asyncio.create_task(events.run())
    await asyncio.sleep(1)
    events.emit(RUN, "Warning", "ReconcileFailed", "", "Reconcile")
    await asyncio.sleep(1)
    assert server.reasons == ["ReconcileFailed"]
    sending.cancel()


async def test_nothing_waits_for_starts_at_the_end() -> None:
    server = Sent()
    events = held(server)
    events.emit(RUN, "Normal", "Started", "", "Submit")
    assert await sent(events, server) == ["Started"]


@pytest.mark.looptime
async def test_only_so_many_wait_for_starts() -> None:
    server = Sent()
    events = held(server)
    for number in range(PATIENT + 5):
        events.emit(RUN, "Normal", "Started", f"{number}", "Submit")
    sending = asyncio.create_task(events.run())
    await asyncio.sleep(1)
    assert len(server.reasons) == 5
    sending.cancel()
