"""What happens to pods on a real node, with two triggerers: no run is started twice, none is lost, one watcher acts.

Several happen at the same time, each in a namespace of its own, for most of it is waiting.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import pytest
import pytest_asyncio

from tests.node import Node
from tests.node.beside import SIDECAR, Beside, pod_of, state_of
from tests.node.handover import KILLED_SECONDS, STOPPED_SECONDS, handed_over, pace, told
from tests.node.harm import evict, out_of_memory
from tests.node.load import Load
from tests.node.official import Json
from tests.patience import patience

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

TRIGGERERS: Final = 2
AT_ONCE: Final = 3


@dataclass(frozen=True)
class Event:
    """Something that happens to the pod whose watcher acts."""

    does: Callable[[Beside, Json], Awaitable[None]]
    clean: bool
    """Whether the watcher is told to stop, so that it can let go of the Lease."""


def _name(pod: Json) -> str:
    return str(pod["metadata"]["name"])


async def roll(beside: Beside, _pod: Json) -> None:
    await beside.kubectl("rollout", "restart", "statefulset/airflow-triggerer")


async def delete_by_force(beside: Beside, pod: Json) -> None:
    await beside.kubectl("delete", "pod", _name(pod), "--force", "--grace-period=0")


async def let_evict(beside: Beside, pod: Json) -> None:
    await evict(beside, _name(pod))


async def freeze(beside: Beside, pod: Json) -> None:
    os.kill(beside.process(pod), signal.SIGSTOP)


async def starve(beside: Beside, pod: Json) -> None:
    await out_of_memory(beside.node, beside, _name(pod), SIDECAR, beside.container(pod))


EVENTS: Final = {
    # First, for Kubernetes takes its time to restart what hangs.
    "frozen": Event(freeze, clean=False),
    "rolling-update": Event(roll, clean=True),
    "deleted-by-force": Event(delete_by_force, clean=False),
    "evicted": Event(let_evict, clean=True),
    "out-of-memory": Event(starve, clean=False),
}


@dataclass
class Outcome:
    """How long nobody held the Lease, each time that it changed hands."""

    gaps: list[float]
    restarts: int
    """Of the watcher in the pod that it happened to, if it is still there."""
    reason: str
    """Why the watcher before it ended, as Kubernetes says."""


async def happens(node: Node, name: str, folder: Path, turns: asyncio.Semaphore) -> Outcome:
    """An event, under load. The load says whether a run was lost or started twice."""
    event = EVENTS[name]
    async with turns, Beside.up(node, f"event-{name}", folder) as beside:
        await beside.start(TRIGGERERS)
        await beside.ready()
        async with Load(beside).going():
            pod = await beside.pod(pod_of(await beside.until_held()))
            assert pod is not None
            over = asyncio.Event()
            watched = asyncio.create_task(handed_over(beside, psutil.Process(beside.process(pod)), over))
            await event.does(beside, pod)
            if name == "frozen":
                await beside.until_restarted(pod)
            await beside.ready()
            over.set()
            gaps = await asyncio.wait_for(watched, patience(60))
        after = await beside.pod(_name(pod))
        assert after is not None
        state = state_of(after, SIDECAR)
        reason = state.get("lastState", {}).get("terminated", {}).get("reason", "")
        return Outcome(gaps, state["restartCount"], reason)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def happening(
    request: pytest.FixtureRequest, node: Node, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, asyncio.Task[Outcome]]]:
    """Every event that has been asked for, under way."""
    chosen = [name for name in EVENTS if any(f"[{name}]" in item.name for item in request.session.items)]
    turns = asyncio.Semaphore(AT_ONCE)
    tasks = {name: asyncio.create_task(happens(node, name, tmp_path_factory.mktemp(name), turns)) for name in chosen}
    try:
        yield tasks
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values())


@pytest.mark.parametrize("name", EVENTS)
async def test_no_run_is_lost_or_started_twice(happening: dict[str, asyncio.Task[Outcome]], name: str) -> None:
    outcome = await happening[name]
    print(told(name, outcome.gaps))
    bar = STOPPED_SECONDS if EVENTS[name].clean else KILLED_SECONDS
    assert max(outcome.gaps) <= bar * pace()
    if name == "out-of-memory":
        assert (outcome.restarts, outcome.reason) == (1, "OOMKilled")
    if name == "frozen":
        assert outcome.restarts == 1
