"""What happens to Pods every week. Whatever it is: no dbt Cloud run twice, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.controlplane.components import NODE_NAME
from tests.node.handover import KILLED_SECONDS, STOPPED_SECONDS, handed_over, pace, told
from tests.node.harm import out_of_memory
from tests.node.node import Node
from tests.node.release import PREVIOUS_CHART, Release
from tests.stack import Own

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIVE = 3
"""DbtRuns that run already, and as many that are created while it happens."""


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
    acting = await release.acting()
    await release.kubectl("delete", "pod", acting.name, "--force", "--grace-period=0")


async def drain(release: Release) -> None:
    only = "--pod-selector=app.kubernetes.io/name=dbtrun"
    await release.plane.kubectl("drain", NODE_NAME, only, "--ignore-daemonsets", "--delete-emptydir-data")
    await release.plane.kubectl("uncordon", NODE_NAME)


async def starve(release: Release) -> None:
    acting = await release.acting()
    await out_of_memory(release.node, release, acting.name, "watcher", acting.container)


@dataclass(frozen=True)
class Event:
    """Something that happens to the only Pod."""

    does: Callable[[Release], Awaitable[None]]
    seconds: float
    """How long nobody may act. A successor that starts only now takes its time, as after a kill."""


EVENTS = {
    "upgrade from the previous chart": Event(upgrade, STOPPED_SECONDS),
    "rollback": Event(rollback, STOPPED_SECONDS),
    "upgrade again": Event(upgrade, STOPPED_SECONDS),
    "rolling update": Event(rolling_update, STOPPED_SECONDS),
    "forced deletion": Event(forced_deletion, KILLED_SECONDS),
    "drain": Event(drain, KILLED_SECONDS),
    "out of memory": Event(starve, KILLED_SECONDS),
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
    over, acting = asyncio.Event(), await release.acting()
    watched = asyncio.create_task(handed_over(release, acting.process, over))
    await EVENTS[name].does(release)
    for own in during:
        await own.apply("endless")
    for own in (*before, *during):
        await own.reaches("Running")
        await own.finish(10)
    for own in (*before, *during):
        await own.reaches("Succeeded")
        assert len(await own.runs()) == 1
    await release.rolled_out()
    over.set()
    gaps = await watched
    print(told(name, gaps))
    assert max(gaps) <= EVENTS[name].seconds * pace()
