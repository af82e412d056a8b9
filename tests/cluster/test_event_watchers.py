"""The watchers of assets against a real API server: two hundred share one watch, and lose nothing when it restarts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.cluster.event_support import Watchers, end
from tests.cluster.trigger_support import Namespace, administering, eventually, install_crd, watches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane import ControlPlane

NAMESPACE = "events"
WATCHERS = 200
RUNS = 20


@pytest.fixture(scope="module")
def served(stormy_plane: ControlPlane) -> ControlPlane:
    install_crd(stormy_plane)
    stormy_plane.create_namespace_sync(NAMESPACE)
    return stormy_plane


@pytest.fixture
async def objects(served: ControlPlane) -> AsyncIterator[Namespace]:
    async with administering(served, NAMESPACE) as objects:
        yield objects


async def test_two_hundred_watchers_share_one_watch_and_lose_nothing_when_the_api_server_restarts(
    served: ControlPlane, objects: Namespace
) -> None:
    before = await watches(served)
    async with Watchers.of(served, objects, WATCHERS) as watchers:

        async def watched() -> bool:
            return await watches(served) > before

        await eventually(watched, "the watch that follows the list is open", pause=0.3)
        assert await watches(served) == before + 1
        for number in range(1, RUNS // 2 + 1):
            await end(objects, number)
        await served.kill_apiserver()
        await served.start_apiserver()
        for number in range(RUNS // 2 + 1, RUNS + 1):
            await end(objects, number)

        def told() -> Counter[tuple[int, str]]:
            """What each watcher told, without the nudges that come when this lasts for some seconds."""
            events = watchers.triggerer.events
            return Counter((number, payload["key"]) for number, payload in events if not payload.get("nudge"))

        async def all_told() -> bool:
            return told().total() >= WATCHERS * RUNS // 2

        await eventually(all_told, "all are told")
        assert told() == {
            (number, f"1/{run}"): 1
            for number in range(WATCHERS)
            for run in range(1, RUNS + 1)
            if watchers.due(number, run)
        }

        async def one_is_open() -> bool:
            return await watches(served) == 1

        await eventually(one_is_open, "one watch is left", pause=0.3)
