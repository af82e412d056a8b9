"""The stream at an API server in memory, with the real kopf in its thread. Real API servers: tests/cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dbtrun.api import Phase, parse
from tests.unit.cluster.world import World, world
from tests.unit.world.apiserver import ApiServer, Refused, until
from watcher.cluster import kopf_thread, listing
from watcher.cluster.mirror import Mirror
from watcher.cluster.scope import StreamSettings
from watcher.cluster.stream import Stream, StreamBroken

QUICK = StreamSettings(retry_first=0.05, retry_most=0.1, stall_after=100.0)
"""No watch is taken for dead by mistake: kopf is imported first, which takes long on a busy machine."""
DOUBTFUL = replace(QUICK, prune_every=0.4)
JOB: dict[str, Any] = {"spec": {"job": {"id": 1}}}
RUNS = "/dbtruns?"


class Followed:
    """A running stream and what it has told."""

    def __init__(self, at: World, namespaces: tuple[str, ...], settings: StreamSettings) -> None:
        self.server = at.server
        self.mirror = Mirror()
        self.woken: list[str] = []
        self.restarts: list[str] = []
        self.restored: list[bool] = []
        self.stream = Stream(
            at.access, self.mirror, self.woken.append, namespaces=namespaces, settings=settings,
            on_restart=self.restarts.append, on_restored=lambda: self.restored.append(True),
        )  # fmt: skip

    def doubt_after(self, seconds: float) -> None:
        """From here on a watch that is open is dead when it owes something for so long."""
        for scope in self.stream.scopes.values():
            scope._settings = replace(scope._settings, stall_after=seconds)

    def names(self) -> set[str]:
        return {run.metadata.name for run in self.mirror}

    def phase(self, name: str) -> Phase | None:
        run = self.mirror.find("ns", name)
        return run.status.phase if run else None

    async def watched(self) -> None:
        """Until a change comes by the watch. The list after its opening may bring one, so it is a second one."""
        for number in range(2):
            await self.server.put("dbtruns", "probe", JOB | {"status": {"phase": "Pending", "progress": str(number)}})
            await until(partial(self._has_progress, str(number)))

    def _has_progress(self, wanted: str) -> bool:
        run = self.mirror.find("ns", "probe")
        return run is not None and run.status.progress == wanted


@asynccontextmanager
async def following(
    folder: Path, *namespaces: str, settings: StreamSettings = QUICK, before: ApiServer | None = None
) -> AsyncIterator[Followed]:
    async with world(folder) as at:
        if before is not None:
            at.server.__dict__.update(before.__dict__)
        followed = Followed(at, namespaces, settings)
        task = asyncio.create_task(followed.stream.run())
        try:
            yield followed
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, StreamBroken):
                await task


async def test_the_mirror_follows_what_is_created_changed_and_deleted(tmp_path: Path) -> None:
    before = ApiServer()
    await before.put("dbtruns", "old", JOB)
    await before.put("dbtruns", "finished", JOB | {"status": {"phase": "Succeeded"}})
    async with following(tmp_path, "ns", before=before) as followed:
        server = followed.server
        await followed.stream.synced.wait()
        assert "old" in followed.names()
        await followed.watched()
        uid = (await server.put("dbtruns", "new", JOB))["metadata"]["uid"]
        await until(lambda: uid in followed.woken)
        await server.put("dbtruns", "old", {"status": {"phase": "Running"}})
        await until(lambda: followed.phase("old") is Phase.RUNNING)
        await server.drop("dbtruns", "new")
        await until(lambda: "new" not in followed.names())
        assert followed.stream.problem is None
        assert followed.stream.unknown == ()
        assert followed.stream.silent() < 60
        assert server.writes() == [], "it only reads"


async def test_all_namespaces_are_followed_when_none_is_named(tmp_path: Path) -> None:
    async with following(tmp_path) as followed:
        await followed.watched()
        await followed.server.put("dbtruns", "other", JOB, namespace="elsewhere")
        await until(lambda: "other" in followed.names())


async def test_a_write_that_the_watch_does_not_bring_shows_that_it_is_dead(tmp_path: Path) -> None:
    async with following(tmp_path, "ns", settings=DOUBTFUL) as followed:
        await followed.watched()
        followed.doubt_after(1.0)
        followed.server.mute = True
        await followed.server.put("dbtruns", "unseen", JOB)
        await until(lambda: "unseen" in followed.names())
        await until(lambda: any("did not deliver a known version" in why for why in followed.restarts))
        followed.doubt_after(QUICK.stall_after)
        followed.server.mute = False
        await followed.watched()
        await until(lambda: followed.stream.problem is None)


async def test_our_own_write_is_expected_of_the_watch(tmp_path: Path) -> None:
    async with following(tmp_path, "ns", settings=DOUBTFUL) as followed:
        await followed.watched()
        followed.doubt_after(1.0)
        followed.server.mute = True
        body = await followed.server.put("dbtruns", "probe", {"status": {"phase": "Running"}})
        followed.mirror.record(parse(body))
        await until(lambda: any("did not deliver a known version of" in why for why in followed.restarts))


async def test_a_deletion_that_the_watch_missed_is_seen_by_a_list(tmp_path: Path) -> None:
    async with following(tmp_path, "ns", settings=replace(QUICK, prune_every=0.3)) as followed:
        await followed.server.put("dbtruns", "going", JOB)
        await followed.watched()
        followed.server.mute = True
        await followed.server.drop("dbtruns", "going")
        await until(lambda: "going" not in followed.names())


async def test_doubt_asks_for_a_complete_list(tmp_path: Path) -> None:
    async with following(tmp_path, "ns") as followed:
        await followed.server.put("dbtruns", "going", JOB)
        await followed.watched()
        followed.server.mute = True
        await followed.server.drop("dbtruns", "going")
        followed.stream.doubt("another namespace")
        followed.stream.doubt("ns")
        await until(lambda: "going" not in followed.names())


async def test_a_restored_cluster_is_believed_and_watched_again(tmp_path: Path) -> None:
    async with following(tmp_path, "ns", settings=replace(QUICK, prune_every=0.3)) as followed:
        await followed.server.put("dbtruns", "kept", JOB | {"status": {"phase": "Running"}})
        await followed.watched()
        followed.server.go_back()
        await until(lambda: followed.restored)
        await until(lambda: any("went back" in why for why in followed.restarts))
        await followed.watched()
        assert "kept" in followed.names()


async def test_a_namespace_that_is_forbidden_is_named_and_followed_later(tmp_path: Path) -> None:
    before = ApiServer()
    before.plan("GET", "namespaces/ns/dbtruns", Refused(403, "Forbidden"), times=2)
    async with following(tmp_path, "ns", before=before) as followed:
        assert followed.stream.unknown == ("ns",)
        assert followed.stream.silent() == 0.0, "it has not begun"
        await until(lambda: followed.stream.problem)
        assert "The namespace ns is not served" in str(followed.stream.problem)
        await followed.watched()
        await until(lambda: followed.stream.problem is None)


async def test_without_rights_on_all_namespaces_the_verbs_are_named(tmp_path: Path) -> None:
    before = ApiServer()
    before.plan("GET", RUNS, Refused(403, "Forbidden"), times=100)
    async with following(tmp_path, before=before) as followed:
        await until(lambda: followed.stream.problem)
        assert "needs the verbs list and watch" in str(followed.stream.problem)


@pytest.mark.parametrize("missing", [{"groups": {"groups": []}}, {"resources": {"resources": []}}])
async def test_a_missing_crd_is_named_and_waited_for(tmp_path: Path, missing: dict[str, Any]) -> None:
    before = ApiServer()
    whole = {name: getattr(before, name) for name in missing}
    before.__dict__.update(missing)
    async with following(tmp_path, "ns", before=before) as followed:
        await until(lambda: followed.stream.problem)
        assert "is not installed" in str(followed.stream.problem)
        followed.server.__dict__.update(whole)
        await followed.watched()


async def test_a_server_that_fails_is_quoted_with_the_namespace(tmp_path: Path) -> None:
    before = ApiServer()
    before.plan("GET", RUNS, Refused(500, "InternalError", "etcd is away"), times=100)
    async with following(tmp_path, "ns", before=before) as followed:
        await until(lambda: followed.stream.problem)
        assert "DbtRuns in the namespace ns cannot be listed" in str(followed.stream.problem)
        assert "etcd is away" in str(followed.stream.problem)


async def test_what_is_not_foreseen_is_told_and_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = listing.check_list

    async def broken(*_: object) -> None:
        monkeypatch.setattr("watcher.cluster.scope.check_list", asked)
        raise ZeroDivisionError

    monkeypatch.setattr("watcher.cluster.scope.check_list", broken)
    async with following(tmp_path, "ns") as followed:
        await followed.watched()
        assert "cannot be followed: ZeroDivisionError" in caplog.text


async def test_the_list_of_what_is_not_finished_may_fail(tmp_path: Path) -> None:
    """The CRD of an older release has no selectable fields. The list of everything brings what is there."""
    before = ApiServer()
    before.plan("GET", "fieldSelector=status.phase", Refused(400, "BadRequest", "no such field"))
    await before.put("dbtruns", "run", JOB)
    async with following(tmp_path, "ns", before=before) as followed:
        await until(lambda: "run" in followed.names())


async def test_an_item_without_an_identity_leaves_the_rest_alone(tmp_path: Path) -> None:
    before = ApiServer()
    await before.put("dbtruns", "run", JOB)
    before.objects["dbtruns", "ns", "odd"] = {"metadata": {"name": "odd"}}
    async with following(tmp_path, "ns", settings=DOUBTFUL, before=before) as followed:
        await until(lambda: "run" in followed.names())
        await until(lambda: any("as=" not in path for _, path in followed.server.asked))
        await until(lambda: sum("limit" in path for _, path in followed.server.asked) > 8)
        assert "run" in followed.names()


async def test_a_watch_that_is_refused_again_and_again_ends_the_stream(tmp_path: Path) -> None:
    before = ApiServer()
    before.plan("GET", "watch=true", Refused(422, "Invalid", "no watch today"), times=1000)
    async with world(tmp_path) as at:
        at.server.__dict__.update(before.__dict__)
        followed = Followed(at, ("ns",), replace(QUICK, give_up_after=2))
        with pytest.raises(StreamBroken, match="repeatedly"):
            await followed.stream.run()
        assert len(followed.restarts) >= 2


async def test_a_refused_watch_does_not_end_the_stream(tmp_path: Path) -> None:
    """No restart of the watcher gives a right."""
    before = ApiServer()
    before.plan("GET", "watch=true", Refused(403, "Forbidden", "may not watch"), times=4)  # kopf asks so often
    async with following(tmp_path, "ns", settings=replace(QUICK, give_up_after=1), before=before) as followed:
        await until(lambda: followed.restarts)
        assert "may not watch" in followed.restarts[0]
        await followed.watched()


async def test_a_thread_of_kopfs_that_hangs_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kopf_thread, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(kopf_thread, "STOP_SECONDS", 0.2)
    async with following(tmp_path, "ns", settings=replace(QUICK, stall_after=1.0)) as followed:
        await followed.watched()
        thread = followed.stream._kopf._thread
        assert thread is not None
        stuck = threading.Event()
        thread.call(stuck.wait, 60)
        followed.server.mute = True
        body = await followed.server.put("dbtruns", "probe", {"status": {"phase": "Running"}})
        followed.mirror.record(parse(body))
        await until(lambda: "does not respond" in caplog.text)
        followed.server.mute = False
        await followed.watched()
        assert followed.stream._kopf._thread is not thread
        stuck.set()


async def test_a_token_that_is_refused_is_read_again(tmp_path: Path) -> None:
    async with following(tmp_path, "ns") as followed:
        await followed.watched()
        followed.server.plan("GET", "watch=true", Refused(401, "Unauthorized"))
        await followed.server.cut()
        await followed.watched()


async def test_a_watch_that_expired_is_opened_again(tmp_path: Path) -> None:
    async with following(tmp_path, "ns") as followed:
        await followed.watched()
        gone = b'{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}\n'
        followed.server.plan("GET", "watch=true", web.Response(body=gone))
        await followed.server.put("dbtruns", "missed", JOB)
        await followed.server.cut()
        await until(lambda: "missed" in followed.names())
        await followed.watched()
