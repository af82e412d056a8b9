"""Two watchers' Pods: who acts can be told, and the other acts as soon as that one does not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.node.node import Node
from tests.node.release import Release
from tests.stack import Own, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def release(node: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Release]:
    node.plane.create_namespace_sync("replicas")
    node.plane.kubectl_sync("label", "namespace", "replicas", "pod-security.kubernetes.io/enforce=restricted")
    async with Release.up(node, "replicas", tmp_path_factory.mktemp("release"), values={"replicas": 2}) as release:
        await release.acts()
        yield release


async def ask(pod: dict[str, Any], path: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://{pod['status']['podIP']}:8080{path}")
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.text


async def acting_and_standby(release: Release) -> tuple[dict[str, Any], dict[str, Any]]:
    """The Pod of the Lease's holder, and the other."""
    holder = await release.acts()
    first, second = await release.pods()
    return (first, second) if holder.startswith(first["metadata"]["name"]) else (second, first)


async def test_one_acts_and_can_be_told_from_the_standby(release: Release) -> None:
    own = Own(release, "told-apart")
    await own.apply("success")
    await own.reaches("Succeeded")
    acting, standby = await acting_and_standby(release)
    holder = acting["metadata"]["name"]
    assert "dbtrun_leader 1.0" in await ask(acting, "/metrics")
    assert "dbtrun_leader 0.0" in await ask(standby, "/metrics")
    assert holder in await ask(standby, "/readyz"), "a standby names who acts"
    logs = {
        pod["metadata"]["name"]: await release.kubectl("logs", pod["metadata"]["name"]) for pod in (acting, standby)
    }
    assert [name for name, text in logs.items() if "ClaimStart" in text] == [holder]
    assert len(await own.runs()) == 1


async def test_a_killed_watcher_is_replaced_by_the_standby(release: Release) -> None:
    acting, _standby = await acting_and_standby(release)
    await handed_over_by(release, acting, signal.SIGKILL)


async def test_a_frozen_watcher_is_replaced_and_its_probe_restarts_it(release: Release) -> None:
    """Frozen, it can neither act nor say so. When kubelet gives up waiting for its end, it is killed."""
    await release.rolled_out()
    acting, _standby = await acting_and_standby(release)
    restarts = restarts_of(acting)
    await handed_over_by(release, acting, signal.SIGSTOP)
    began = time.monotonic()

    async def restarted() -> bool:
        return any(
            pod["metadata"]["uid"] == acting["metadata"]["uid"] and restarts_of(pod) > restarts
            for pod in await release.pods()
        )

    await until(restarted, 180, "kubelet restarts the frozen container", pause=1)
    print(f"kubelet restarted the frozen container {time.monotonic() - began:.0f} s later")
    await release.rolled_out()


def restarts_of(pod: dict[str, Any]) -> int:
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


async def handed_over_by(release: Release, acting: dict[str, Any], number: signal.Signals) -> None:
    """The signal to the first process of the acting Pod: the standby goes on with what runs and what comes."""
    before, during = (Own(release, f"{number.name.lower()}-{each}") for each in ("before", "during"))
    await before.apply("endless")
    await before.reaches("Running")
    container = str(acting["status"]["containerStatuses"][0]["containerID"]).removeprefix("containerd://")
    change = asyncio.create_task(release.hand_over(await release.acts()))
    first, *_ = release.node.processes_of(container)
    os.kill(first, number)
    await during.apply("endless")
    print(f"{number.name}: {await change}")
    for own in (before, during):
        await own.reaches("Running")
        await own.finish(10)
        await own.reaches("Succeeded")
        assert len(await own.runs()) == 1
