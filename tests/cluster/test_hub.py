"""The shared watch against a real API server: its cost, and what it makes of trouble."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from airflow_trigger.shared.objects import Denied, Gone, Seen, State
from airflow_trigger.waiting.hub import Hub, Subscription, subscribe
from airflow_trigger.waiting.runs import Change, HubRuns, Runs
from dbtrun.api import API_VERSION, GROUP, KIND, PLURAL
from dbtrun.kube.cluster import Cluster
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.errors import Expired, NotFound, NotInstalled, Rejected, Unreachable
from dbtrun.kube.watch import Added, Progress, Removed
from tests.cluster.trigger_support import (
    QUICK,
    SECONDS,
    Namespace,
    administering,
    eventually,
    install_crd,
    watches,
)
from tests.patience import patience

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from tests.controlplane import ControlPlane
from tests.stack.proxy import Proxy


@pytest.fixture(scope="module")
def served(plane: ControlPlane) -> ControlPlane:
    install_crd(plane)
    return plane


@pytest.fixture
async def objects(served: ControlPlane, namespace: str) -> AsyncIterator[Namespace]:
    async with administering(served, namespace) as objects:
        yield objects


@pytest.fixture
def config(served: ControlPlane) -> ClusterConfig:
    return ClusterConfig(config_file=str(served.kubeconfig))


async def told(states: Subscription) -> State:
    async with asyncio.timeout(patience(SECONDS)):
        return await anext(states)


async def phase(states: Subscription, wanted: str) -> None:
    """Waits until that phase is told; what else is told must be the object, too."""
    async with asyncio.timeout(patience(SECONDS)):
        async for state in states:
            assert isinstance(state, Seen), state
            if state.run.status.phase == wanted:
                return


async def test_all_waiters_share_one_watch_that_ends_after_the_last(
    served: ControlPlane, objects: Namespace, config: ClusterConfig
) -> None:
    before = await watches(served)
    await objects.create("a")
    await objects.create("b")

    async def served_watches(count: int) -> bool:
        return await watches(served) == before + count

    async with contextlib.AsyncExitStack() as stack:
        for name in ("a", "a", "b"):
            await told(await stack.enter_async_context(subscribe(config, objects.name, name, QUICK)))
        await eventually(lambda: served_watches(1), "one watch for three waiters", pause=0.3)
    await eventually(lambda: served_watches(0), "no watch after the last waiter", pause=0.3)


async def test_a_deleted_object_is_gone_with_its_last_status(objects: Namespace, config: ClusterConfig) -> None:
    await objects.create("a")
    await objects.set_status("a", "Cancelled", runId=5)
    async with subscribe(config, objects.name, "a", QUICK) as states:
        await told(states)
        await objects.delete("a")
        state = await told(states)
    assert isinstance(state, Gone)
    assert state.last is not None
    assert state.last.run_id == 5


@pytest.mark.parametrize("status", [{"phase": "Running"}, {}], ids=["running", "seen by no watcher"])
async def test_a_deletion_in_the_middle_is_told(
    objects: Namespace, config: ClusterConfig, status: dict[str, str]
) -> None:
    await objects.create("a")
    if status:
        await objects.set_status("a", **status)
    async with subscribe(config, objects.name, "a", QUICK) as states:
        assert isinstance(await told(states), Seen)
        await objects.delete("a")
        assert isinstance(await told(states), Gone)


async def test_one_made_again_under_the_same_name_is_told_as_another(objects: Namespace, config: ClusterConfig) -> None:
    await objects.create("a")
    await objects.set_status("a", "Running")
    async with subscribe(config, objects.name, "a", QUICK) as states:
        before = await told(states)
        await objects.delete("a")
        await objects.create("a")
        after = await told(states)
        while not isinstance(after, Seen):
            after = await told(states)
    assert isinstance(before, Seen)
    assert before.run.metadata.uid != after.run.metadata.uid


async def test_the_watch_tells_of_ends_and_deletions_alone(objects: Namespace) -> None:
    await objects.create("a")
    version = (await objects.runs.list()).version
    for phase in ("Pending", "Submitting", "Queued", "Running", "Cancelling", "Cancelled"):
        await objects.set_status("a", phase)
    await objects.delete("a")
    told = objects.runs.watch(version, 10.0)
    async with asyncio.timeout(patience(SECONDS)), contextlib.aclosing(told):
        seen = [await anext(told), await anext(told)]
    assert [(type(change), change.run.status.phase) for change in seen if not isinstance(change, Progress)] == [
        (Added, "Cancelled"),
        (Removed, "Cancelled"),
    ]


async def test_a_crd_without_the_selectable_phase_is_watched_whole(own_plane: ControlPlane) -> None:
    install_crd(own_plane)
    await own_plane.kubectl(
        *("patch", f"crd/{PLURAL}.{GROUP}", "--type=json", "-p"),
        json.dumps([{"op": "remove", "path": "/spec/versions/0/selectableFields"}]),
    )
    config = ClusterConfig(config_file=str(own_plane.kubeconfig))
    async with administering(own_plane, "default") as objects:
        await eventually(lambda: cannot_select(objects), "the API server selects no more")
        await objects.create("a")
        await objects.set_status("a", "Running")
        async with subscribe(config, "default", "a", QUICK) as states:
            await phase(states, "Running")
            await objects.set_status("a", "Succeeded")
            await phase(states, "Succeeded")


async def test_a_missing_object_is_told_apart_from_a_missing_api(objects: Namespace) -> None:
    with pytest.raises(NotFound):
        await objects.runs.get("absent")
    with pytest.raises(NotInstalled, match="is the chart installed"):
        await objects.cluster.request("GET", "/apis/dbtrun.dev/v9/namespaces/x/dbtruns")


async def test_a_field_that_the_installed_crd_does_not_know_is_refused(objects: Namespace) -> None:
    """Else a run would start without what was asked for."""
    metadata = {"name": "newer"}
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"job": {"id": 1}, "newer": 1}}
    with pytest.raises(Rejected, match=r'installed CRD is older .*unknown field "spec\.newer"'):
        await objects.runs.create(body)


async def test_a_list_of_several_pages_is_whole(objects: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c", "d", "e"):
        await objects.create(name)
    monkeypatch.setattr("airflow_trigger.waiting.runs.PAGE", 2)
    assert sorted((await objects.runs.list()).runs) == ["a", "b", "c", "d", "e"]


async def test_a_cut_connection_is_made_anew(proxy: Proxy, through: Path, objects: Namespace) -> None:
    await objects.create("a")
    await objects.set_status("a", "Queued")
    async with subscribe(ClusterConfig(config_file=str(through)), objects.name, "a", QUICK) as states:
        await phase(states, "Queued")
        proxy.cut()
        await objects.set_status("a", "Running")
        await phase(states, "Running")
        await objects.set_status("a", "Succeeded")
        await phase(states, "Succeeded")


async def test_a_silent_watch_is_noticed(proxy: Proxy, through: Path, objects: Namespace) -> None:
    await objects.create("a")
    await objects.set_status("a", "Queued")
    config = ClusterConfig(config_file=str(through))
    async with subscribe(config, objects.name, "a", replace(QUICK, silence=1.0)) as states:
        await phase(states, "Queued")
        proxy.freeze()
        await objects.set_status("a", "Running")
        await phase(states, "Running")


async def test_a_restarted_api_server_is_found_again(stormy_plane: ControlPlane) -> None:
    install_crd(stormy_plane)
    stormy_plane.create_namespace_sync("restarted")
    config = ClusterConfig(config_file=str(stormy_plane.kubeconfig))
    async with (
        administering(stormy_plane, "restarted") as objects,
        subscribe(config, "restarted", "a", QUICK) as states,
    ):
        assert isinstance(await told(states), Gone)
        await objects.create("a")
        await objects.set_status("a", "Running")
        await phase(states, "Running")
        await stormy_plane.kill_apiserver()
        await stormy_plane.start_apiserver()
        await objects.set_status("a", "Succeeded")
        await phase(states, "Succeeded")


async def test_a_version_that_the_server_forgot_costs_a_list_and_no_news(stormy_plane: ControlPlane) -> None:
    install_crd(stormy_plane)
    stormy_plane.create_namespace_sync("forgotten")
    async with administering(stormy_plane, "forgotten") as objects:
        await objects.create("a")
        await objects.set_status("a", "Running")
        await stormy_plane.compact()
        await stormy_plane.stop_apiserver()
        await stormy_plane.start_apiserver()
        await eventually(lambda: is_forgotten(objects, "1"), "the API server has forgotten version 1")
        runs = Forgotten(objects.cluster, objects.name)
        async with watching(runs) as hub:
            states = Subscription(hub, "a")
            hub.join(states)
            await phase(states, "Running")
            await eventually(runs.recovered, "the hub lists again after 410")
            await objects.set_status("a", "Succeeded")
            await phase(states, "Succeeded")


async def test_a_missing_crd_is_told_and_the_wait_goes_on_when_it_is_there(own_plane: ControlPlane) -> None:
    config = ClusterConfig(config_file=str(own_plane.kubeconfig))
    async with subscribe(config, "default", "a", QUICK) as states:
        state = await told(states)
        assert isinstance(state, Denied)
        assert "is the chart installed" in state.message
        await asyncio.to_thread(install_crd, own_plane)
        async with administering(own_plane, "default") as objects, asyncio.timeout(patience(SECONDS)):
            await objects.create("a")
            while not isinstance(await anext(states), Seen):
                pass


async def cannot_select(objects: Namespace) -> bool:
    try:
        await objects.runs.live()
    except Unreachable:
        return True
    return False


async def is_forgotten(objects: Namespace, version: str) -> bool:
    try:
        await anext(objects.runs.watch(version, 10.0))
    except Expired:
        return True
    except Unreachable:  # it has just been started
        return False
    raise AssertionError(f"the API server still knows what happened since {version}")


class Forgotten(HubRuns):
    """Its first watch asks for a version that is long gone."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        super().__init__(cluster, namespace)
        self.watched: list[str] = []

    async def watch(self, version: str, silence_seconds: float) -> AsyncGenerator[Change]:
        self.watched.append(version if self.watched else "1")
        async for change in super().watch(self.watched[-1], silence_seconds):
            yield change

    async def recovered(self) -> bool:
        return len(self.watched) > 1


@asynccontextmanager
async def watching(runs: Runs) -> AsyncIterator[Hub]:
    @asynccontextmanager
    async def source() -> AsyncIterator[Runs]:
        yield runs

    hub = Hub(source, QUICK)
    try:
        yield hub
    finally:
        await hub.close()
