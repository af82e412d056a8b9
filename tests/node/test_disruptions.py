"""What happens to Pods every week. Whatever it is: no dbt Cloud run twice, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.controlplane.components import NODE_NAME
from tests.node.node import Node
from tests.node.release import PREVIOUS_CHART, Release
from tests.stack import Own

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIVE = 3
"""DbtRuns that run already, and as many that are created while it happens."""

Event = Callable[[Release], Awaitable[None]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def release(node: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Release]:
    """Installed from the previous chart: the first test upgrades it."""
    node.plane.create_namespace_sync("disruptions")
    node.plane.kubectl_sync("label", "namespace", "disruptions", "pod-security.kubernetes.io/enforce=restricted")
    async with Release.up(node, "disruptions", tmp_path_factory.mktemp("release"), chart=PREVIOUS_CHART) as release:
        yield release


async def upgrade(release: Release) -> None:
    await release.helm("upgrade")


async def rollback(release: Release) -> None:
    await release.plane.helm("rollback", "dbtrun", "-n", release.namespace)


async def rolling_update(release: Release) -> None:
    await release.kubectl("rollout", "restart", "deployment/dbtrun")


async def forced_deletion(release: Release) -> None:
    (pod,) = await release.pods()
    await release.kubectl("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")


async def drain(release: Release) -> None:
    only = "--pod-selector=app.kubernetes.io/name=dbtrun"
    await release.plane.kubectl("drain", NODE_NAME, only, "--ignore-daemonsets", "--delete-emptydir-data")
    await release.plane.kubectl("uncordon", NODE_NAME)


async def out_of_memory(release: Release) -> None:
    """Its memory limit falls to what it has; with one more process in it, the kernel kills the larger: the watcher."""
    (container,), (pod,) = await release.containers(), await release.pods()
    await asyncio.to_thread(release.node.starve, container)
    await release.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", "bytearray(10**7)", check=False)


EVENTS: dict[str, Event] = {
    "upgrade from the previous chart": upgrade,
    "rollback": rollback,
    "upgrade again": upgrade,
    "rolling update": rolling_update,
    "forced deletion": forced_deletion,
    "drain": drain,
    "out of memory": out_of_memory,
}


@pytest.mark.parametrize("name", EVENTS)
async def test_no_run_twice_and_none_lost(release: Release, name: str) -> None:
    slug = name.replace(" ", "-")
    before = [Own(release, f"{slug}-before-{number}") for number in range(LIVE)]
    during = [Own(release, f"{slug}-during-{number}") for number in range(LIVE)]
    for own in before:
        await own.apply("endless")
    for own in before:
        await own.reaches("Running")
    holder = await release.acts()
    change = asyncio.create_task(release.hand_over(holder))
    await EVENTS[name](release)
    for own in during:
        await own.apply("endless")
    print(f"{name}: {await change}")
    for own in (*before, *during):
        await own.reaches("Running")
        await own.finish(10)
    for own in (*before, *during):
        await own.reaches("Succeeded")
        assert len(await own.runs()) == 1
    await release.rolled_out()
