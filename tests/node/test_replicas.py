"""Two watchers' Pods: who acts can be told, and the other acts as soon as that one does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.node.handover import KILLED_SECONDS, STOPPED_SECONDS, handed_over, pace, told
from tests.node.harm import evict
from tests.node.node import Node
from tests.node.release import Acting, Release, ask
from tests.stack import Own, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def release(node: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Release]:
    node.plane.create_namespace_sync("replicas")
    node.plane.kubectl_sync("label", "namespace", "replicas", "pod-security.kubernetes.io/enforce=restricted")
    async with Release.up(node, "replicas", tmp_path_factory.mktemp("release"), values={"replicas": 2}) as release:
        await release.acting()
        yield release


async def acting_and_standby(release: Release) -> tuple[Acting, dict[str, Any]]:
    """The watcher that acts, and the Pod of the other."""
    acting = await release.acting()
    (standby,) = [pod for pod in await release.pods() if pod["metadata"]["name"] != acting.name]
    return acting, standby


async def test_one_acts_and_can_be_told_from_the_standby(release: Release) -> None:
    own = Own(release, "told-apart")
    await own.apply("success")
    await own.reaches("Succeeded")
    acting, standby = await acting_and_standby(release)
    assert "dbtrun_leader 1.0" in await ask(acting.pod, "/metrics")
    assert "dbtrun_leader 0.0" in await ask(standby, "/metrics")
    assert acting.name in await ask(standby, "/readyz"), "a standby names who acts"
    names = (acting.name, standby["metadata"]["name"])
    logs = {name: await release.kubectl("logs", name) for name in names}
    assert [name for name, text in logs.items() if "Submitting (Claimed)" in text] == [acting.name]
    assert len(await own.runs()) == 1


async def test_a_killed_watcher_is_replaced_by_the_standby(release: Release) -> None:
    async def kill(acting: Acting) -> None:
        acting.process.kill()

    await handed_over_by(release, "kill", kill, KILLED_SECONDS)


async def test_an_evicted_watcher_is_replaced_by_the_standby(release: Release) -> None:
    async def does(acting: Acting) -> None:
        await evict(release, acting.name)

    await handed_over_by(release, "eviction", does, STOPPED_SECONDS)


async def test_a_frozen_watcher_is_replaced_and_its_probe_restarts_it(release: Release) -> None:
    """Frozen, it can neither act nor say so. When kubelet gives up waiting for its end, it is killed."""

    async def freeze(acting: Acting) -> None:
        acting.process.suspend()

    frozen = (await handed_over_by(release, "freeze", freeze, KILLED_SECONDS)).pod
    began = time.monotonic()

    async def restarted() -> bool:
        return any(
            pod["metadata"]["uid"] == frozen["metadata"]["uid"] and restarts_of(pod) > restarts_of(frozen)
            for pod in await release.pods()
        )

    await until(restarted, 180, "kubelet restarts the frozen container", pause=1)
    print(f"kubelet restarted the frozen container {time.monotonic() - began:.0f} s later")
    await release.rolled_out()


def restarts_of(pod: dict[str, Any]) -> int:
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


async def handed_over_by(
    release: Release, name: str, does: Callable[[Acting], Awaitable[None]], seconds: float
) -> Acting:
    """Something happens to the watcher that acts: the standby goes on with what runs and what comes."""
    await release.rolled_out()
    before, during = (Own(release, f"{name}-{each}") for each in ("before", "during"))
    await before.apply("endless")
    await before.reaches("Running")
    over, acting = asyncio.Event(), await release.acting()
    watched = asyncio.create_task(handed_over(release, acting.process, over))
    await does(acting)
    await during.apply("endless")
    for own in (before, during):
        await own.reaches("Running")
        await own.finish(10)
        await own.reaches("Succeeded")
        assert len(await own.runs()) == 1
    over.set()
    gaps = await watched
    print(told(name, gaps))
    assert max(gaps) <= seconds * pace()
    return acting
