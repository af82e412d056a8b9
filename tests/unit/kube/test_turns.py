"""The queue in front of the API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from kubernetes_asyncio.client import Configuration

from dbtrun.kube.cluster import AT_ONCE, Cluster
from dbtrun.kube.credentials import Credentials
from dbtrun.kube.turns import Turns, Urgency
from watcher.cluster.access import ClusterAccess
from watcher.cluster.listing import list_versions


class Line:
    """Askers on one Turns; each holds its turn until it is let go."""

    def __init__(self, at_once: int) -> None:
        self.turns = Turns(at_once)
        self.served: list[str] = []
        self._go: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, urgency: Urgency = Urgency.OTHER) -> asyncio.Task[None]:
        go = self._go[name] = asyncio.Event()

        async def hold() -> None:
            async with self.turns.turn(urgency):
                self.served.append(name)
                await go.wait()

        task = asyncio.create_task(hold())
        await settle()
        return task

    async def let_go(self, name: str) -> None:
        self._go[name].set()
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_so_many_go_at_once() -> None:
    line = Line(2)
    for name in "abc":
        await line.ask(name)
    assert line.served == ["a", "b"]
    await line.let_go("b")
    assert line.served == ["a", "b", "c"]


async def test_a_status_goes_before_what_came_earlier() -> None:
    line = Line(1)
    await line.ask("first")
    await line.ask("event", Urgency.EVENT)
    await line.ask("finalizer")
    await line.ask("status", Urgency.START)
    for name in ("first", "status", "finalizer"):
        await line.let_go(name)
    assert line.served == ["first", "status", "finalizer", "event"]


async def test_a_turn_is_not_lost_with_one_who_gave_up_waiting() -> None:
    line = Line(1)
    await line.ask("first")
    gone = await line.ask("gone")
    await line.ask("last")
    gone.cancel()
    await line.let_go("first")
    assert line.served == ["first", "last"]


async def test_a_turn_is_not_lost_with_one_who_gave_up_when_called() -> None:
    turns, served = Turns(1), []

    async def ask(name: str) -> None:
        async with turns.turn(Urgency.OTHER):
            served.append(name)

    async with turns.turn(Urgency.OTHER):
        gone = asyncio.create_task(ask("gone"))
        last = asyncio.create_task(ask("last"))
        await settle()
    gone.cancel()  # it was called by the block's end, and has not run since
    await asyncio.wait_for(last, 1)
    assert served == ["last"]


async def test_a_list_does_not_wait_for_thousands_of_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unread() -> Configuration:
        raise AssertionError("nothing asks for new credentials")

    async def answer(_: object, method: str, *_rest: Any) -> bytes:
        if method == "PATCH":
            await asyncio.Event().wait()
        return b'{"metadata": {}, "items": []}'

    monkeypatch.setattr(Cluster, "_whole", answer)
    access = ClusterAccess(Credentials("nowhere", unread))
    writes = [asyncio.create_task(access.request("PATCH", f"/{number}")) for number in range(2 * AT_ONCE)]
    await settle()
    async with asyncio.timeout(5):
        assert await list_versions(access, None, 500) == {}
    for write in writes:
        write.cancel()
    await asyncio.wait(writes)
    await access.close()
