"""DbtRunMirrors at the API server in memory: the watch and what is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import json
from msgspec.structs import replace

from dbtrun.api import API_VERSION
from dbtrun.api.mirrors import DbtRunMirror
from dbtrun.kube.errors import AlreadyExists, Conflict
from tests.unit.cluster.world import World, world
from tests.unit.world.apiserver import Refused, until
from watcher.cluster import mirrors as module
from watcher.cluster.mirrors import MirrorWatch, MirrorWriter, NameTaken, read_mirror

ALL: dict[str, Any] = {"spec": {"select": {"allJobs": True}}}
EVERYWHERE = f"/apis/{API_VERSION}/dbtrunmirrors"


class Seen:
    """What a watch reported."""

    def __init__(self) -> None:
        self.mirrors: dict[str, DbtRunMirror] = {}
        self.lags: list[float | None] = []
        self.again: list[str] = []

    def changed(self, mirror: DbtRunMirror) -> None:
        self.mirrors[mirror.uid] = mirror
        self.lags.append(mirror.status.lag_seconds)

    def found_again(self, mirror: DbtRunMirror) -> None:
        self.mirrors[mirror.uid] = mirror
        self.again.append(mirror.metadata.name)

    def gone(self, uid: str) -> None:
        del self.mirrors[uid]

    @property
    def names(self) -> set[str]:
        return {mirror.metadata.name for mirror in self.mirrors.values()}


@asynccontextmanager
async def watching(at: World, *namespaces: str) -> AsyncIterator[Seen]:
    seen = Seen()
    task = asyncio.create_task(MirrorWatch(at.access, namespaces, seen.changed, seen.gone, seen.found_again).run())
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.02))


async def created(at: World, name: str = "all", namespace: str = "ns") -> DbtRunMirror:
    return read_mirror(json.encode(await at.server.put("dbtrunmirrors", name, ALL, namespace=namespace)))


async def test_each_mirror_is_reported_when_it_is_new_changes_and_goes(tmp_path: Path) -> None:
    async with world(tmp_path) as at, watching(at) as seen:
        await created(at, "first")
        await until(lambda: seen.names == {"first"})
        await created(at, "second", namespace="other")
        await until(lambda: seen.names == {"first", "second"})
        await at.server.put("dbtrunmirrors", "first", {"status": {"lagSeconds": 7}})
        await until(lambda: 7 in seen.lags)
        await at.server.drop("dbtrunmirrors", "first")
        await until(lambda: seen.names == {"second"})


async def test_what_went_while_no_watch_was_open_is_reported(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await created(at, "stays")
        await created(at, "goes")
        async with watching(at) as seen:
            await until(lambda: seen.names == {"stays", "goes"})
            gap = asyncio.Event()
            at.server.plan("GET", EVERYWHERE, gap)
            await at.server.cut()
            await at.server.drop("dbtrunmirrors", "goes")
            gap.set()
            await until(lambda: seen.names == {"stays"})


async def test_what_is_listed_after_the_api_server_was_away_may_come_from_a_backup(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await created(at)
        async with watching(at) as seen:
            await until(lambda: seen.names == {"all"})
            assert seen.again == []
            at.server.plan("GET", EVERYWHERE, Refused(500, "InternalError"), times=2)
            await at.server.cut()
            await until(lambda: seen.again == ["all"])
            await at.server.put("dbtrunmirrors", "all", {"status": {"lagSeconds": 7}})
            await until(lambda: 7 in seen.lags)


@pytest.mark.parametrize(
    "refused",
    [Refused(404, "NotFound"), Refused(403, "Forbidden"), Refused(410, "Expired"), Refused(500, "InternalError")],
    ids=str,
)
async def test_a_watch_that_is_refused_is_opened_again(tmp_path: Path, refused: Refused) -> None:
    async with world(tmp_path) as at:
        await created(at)
        at.server.plan("GET", EVERYWHERE, refused, times=3)
        async with watching(at) as seen:
            await until(lambda: seen.names == {"all"})


async def test_namespaces_are_watched_one_by_one(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        for namespace in ("a", "b", "c"):
            await created(at, f"of-{namespace}", namespace)
        at.server.plan("GET", "/namespaces/a/dbtrunmirrors", Refused(403, "Forbidden"), times=1_000)
        async with watching(at, "a", "b") as seen:
            await until(lambda: seen.names == {"of-b"})
            at.server.forget_plans()
            await until(lambda: seen.names == {"of-a", "of-b"})


async def test_a_status_is_written_to_the_version_that_it_was_decided_upon(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        mirror, writer = await created(at), MirrorWriter(at.access)
        status = replace(mirror.status, lag_seconds=3)
        written = await writer.patch_status(mirror, status)
        assert written.status == status
        with pytest.raises(Conflict):
            await writer.patch_status(mirror, replace(status, lag_seconds=4))
        assert at.server.objects["dbtrunmirrors", "ns", "all"]["status"] == {"lagSeconds": 3}


async def test_a_run_is_created_once_and_deleted_by_its_uid(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        writer = MirrorWriter(at.access)
        body = showing_run_7("uid-of-all")
        run = await writer.create("ns", body)
        with pytest.raises(AlreadyExists):
            await writer.create("ns", body)
        with pytest.raises(Conflict):
            await writer.delete("ns", "all-7", "another")
        await writer.delete("ns", "all-7", run.uid)
        await writer.delete("ns", "all-7", run.uid)
        assert not at.server.objects


def showing_run_7(mirror: str, **spec: Any) -> dict[str, Any]:
    """The DbtRun `all-7` of the mirror with this uid."""
    owners = [{"apiVersion": API_VERSION, "kind": "DbtRunMirror", "name": "all", "uid": mirror}]
    return {"metadata": {"name": "all-7", "ownerReferences": owners}, "spec": {"runId": 7, "accountId": 1} | spec}


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (showing_run_7("an-earlier-mirror"), "deleted DbtRunMirror of the same name"),
        (showing_run_7("uid-of-all", runId=8), "another run"),
        (showing_run_7("uid-of-all", accountId=2), "another run"),
        ({"metadata": {"name": "all-7"}, "spec": {"job": {"id": 7}}}, "another run"),
    ],
)
async def test_an_object_that_does_not_show_the_run_for_this_mirror_is_not_taken_for_it(
    tmp_path: Path, there: dict[str, Any], why: str
) -> None:
    async with world(tmp_path) as at:
        writer = MirrorWriter(at.access)
        await writer.create("ns", there)
        with pytest.raises(NameTaken, match=why):
            await writer.create("ns", showing_run_7("uid-of-all"))


async def test_an_object_that_was_left_by_a_deleted_mirror_shows_the_run(tmp_path: Path) -> None:
    """`kubectl delete --cascade=orphan` takes its owner away."""
    async with world(tmp_path) as at:
        writer, there = MirrorWriter(at.access), showing_run_7("an-earlier-mirror")
        await writer.create("ns", {**there, "metadata": {"name": "all-7"}})
        with pytest.raises(AlreadyExists):
            await writer.create("ns", showing_run_7("uid-of-all"))


async def test_an_object_that_goes_between_two_requests_is_none_of_the_mirrors(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        writer, there = MirrorWriter(at.access), showing_run_7("uid-of-all")
        at.server.plan("POST", "/dbtruns", Refused(409, "AlreadyExists"))
        with pytest.raises(NameTaken, match="just now"):
            await writer.create("ns", there)
