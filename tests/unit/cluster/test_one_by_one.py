"""Writes, Secrets, Events and access at the API server in memory. Their meaning for a real one is in tests/cluster."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from dbtrun.api import FINALIZER, DbtRun, Phase, parse
from dbtrun.kube.errors import Conflict, KubeError, Misconfigured, NotFound, Rejected, Unreachable
from tests.unit.cluster.world import World, world
from tests.unit.world.apiserver import Refused, kubeconfig, until
from watcher.cluster import events
from watcher.cluster.access import ClusterAccess
from watcher.cluster.events import Events
from watcher.cluster.listing import list_versions
from watcher.cluster.secrets import SecretForbidden, SecretMissing, SecretReader
from watcher.cluster.writer import Writer

JOB: dict[str, Any] = {"spec": {"job": {"id": 1}}}
TOKEN = base64.b64encode(b"t0ken").decode()
SECRET: dict[str, Any] = {"type": "dbtrun.dev/connection", "data": {"token": TOKEN}}


async def created(at: World, name: str = "run") -> DbtRun:
    return parse(await at.server.put("dbtruns", name, JOB))


# ── the writer ──


async def test_a_write_names_the_version_that_it_was_decided_upon(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        run, writer = await created(at), Writer(at.access)
        status = replace(run.status, phase=Phase.PENDING)
        written = await writer.patch_status(run, status)
        assert written.status.phase is Phase.PENDING
        assert await writer.get("ns", "run") == written
        with pytest.raises(Conflict):
            await writer.patch_status(run, replace(status, phase=Phase.QUEUED))
        assert (await writer.get("ns", "run")).status.phase is Phase.PENDING


async def test_our_finalizer_joins_and_leaves_those_of_others(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        writer = Writer(at.access)
        await created(at)
        body = at.server.objects["dbtruns", "ns", "run"]
        body["metadata"]["finalizers"] = ["other/one"]
        marked = await writer.add_finalizer(parse(body))
        assert marked.metadata.finalizers == ("other/one", FINALIZER)
        assert marked.metadata.annotations == {"dbtrun.dev/uid": marked.uid}
        assert await writer.add_finalizer(marked) is marked
        left = await writer.remove_finalizer(marked)
        assert left.metadata.finalizers == ("other/one",)
        writes = len(at.server.writes())
        assert await writer.remove_finalizer(left) is left
        assert len(at.server.writes()) == writes


async def test_only_this_version_of_this_object_is_deleted(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        run, writer = await created(at), Writer(at.access)
        changed = await writer.patch_status(run, replace(run.status, phase=Phase.PENDING))
        with pytest.raises(Conflict):
            await writer.delete(run)
        kept = await writer.add_finalizer(changed)
        going = await writer.delete(kept)
        assert going is not None
        assert going.deleting
        await writer.remove_finalizer(going)
        with pytest.raises(NotFound):
            await writer.get("ns", "run")


async def test_an_object_without_finalizers_is_gone_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        assert await Writer(at.access).delete(await created(at)) is None


async def test_files_are_added_to_our_own_config_map_only(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        run, writer = await created(at), Writer(at.access)
        await writer.keep_artifacts(run, "run-artifacts", {"a.json": b"{}"})
        await writer.keep_artifacts(run, "run-artifacts", {"b.bin": b"\xff"})
        kept = at.server.objects["configmaps", "ns", "run-artifacts"]
        assert kept["data"] == {"a.json": "{}"}
        assert kept["binaryData"] == {"b.bin": "/w=="}
        assert kept["metadata"]["ownerReferences"][0]["uid"] == run.uid
        await at.server.put("configmaps", "foreign", {"data": {"theirs": "x"}})
        with pytest.raises(Rejected, match="not belong to this DbtRun"):
            await writer.keep_artifacts(run, "foreign", {"a.json": b"{}"})
        assert at.server.objects["configmaps", "ns", "foreign"]["data"] == {"theirs": "x"}


# ── Secrets ──


async def test_readers_share_a_read_until_the_secret_is_forgotten(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await at.server.put("secrets", "dbt", SECRET)
        reader = SecretReader(at.access)
        both = await asyncio.gather(reader.read("ns", "dbt"), reader.read("ns", "dbt"))
        assert both[0].data == {"token": b"t0ken"}
        assert "t0ken" not in repr(both[0])
        assert len(at.server.asked) == 1
        reader.forget("ns", "dbt")
        await reader.read("ns", "dbt")
        assert len(at.server.asked) == 2
        stale = SecretReader(at.access, fresh_seconds=0.0)
        await stale.read("ns", "dbt")
        await stale.read("ns", "dbt")
        assert len(at.server.asked) == 4


async def test_what_prevents_a_read_is_a_sentence_and_not_remembered(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        reader = SecretReader(at.access)
        with pytest.raises(SecretMissing, match="There is no Secret 'dbt' in the namespace ns"):
            await reader.read("ns", "dbt")
        await at.server.put("secrets", "dbt", SECRET | {"data": {"token": "no base64!"}})
        at.server.plan("GET", "secrets/dbt", Refused(403, "Forbidden"))
        with pytest.raises(SecretForbidden, match="secretNamespaces"):
            await reader.read("ns", "dbt")
        with pytest.raises(Unreachable, match="is not base64"):
            await reader.read("ns", "dbt")


async def test_a_failure_does_not_remove_the_read_of_a_later_reader(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        reader, late = SecretReader(at.access), asyncio.Event()
        at.server.plan("GET", "secrets/dbt", late)
        first = asyncio.create_task(reader.read("ns", "dbt"))
        await until(lambda: at.server.asked)
        reader.forget("ns", "dbt")
        await at.server.put("secrets", "other", SECRET)
        at.server.plan("GET", "secrets/dbt", web.json_response({"metadata": {"resourceVersion": "9"}, "data": None}))
        assert (await reader.read("ns", "dbt")).data == {}
        late.set()
        with pytest.raises(SecretMissing):
            await first
        await reader.read("ns", "dbt")
        assert len(at.server.asked) == 2, "the second read is remembered"


# ── Events ──


async def test_an_event_that_is_refused_does_not_hold_up_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as at:
        run, sender = await created(at), Events(at.access, "here")
        at.server.plan("POST", "events", Refused(403, "Forbidden", "no right"))
        work = asyncio.create_task(sender.run())
        sender.emit(run, "Warning", "First", "one", "Did")
        sender.emit(run, "Normal", "Second", "two", "Did")
        sender.emit(run, "Normal", "Second", "two", "Did")
        await sender.flush()
        sent = [body for key, body in at.server.objects.items() if key[0] == "events"]
        assert [body["reason"] for body in sent] == ["Second"]
        assert sent[0]["regarding"]["uid"] == run.uid
        assert "An Event was not accepted: First" in caplog.text
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def test_events_that_are_not_sent_in_time_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with world(tmp_path) as at:
        sender = Events(at.access)
        sender.emit(await created(at), "Normal", "Never", "sent", "Did")
        await sender.flush(0.01)
        assert "1 Events were not sent before the end" in caplog.text


async def test_a_full_queue_drops_normal_events_before_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "QUEUE", 1)
    async with world(tmp_path) as at:
        run, sender = await created(at), Events(at.access)
        for number in range(2):
            sender.emit(run, "Normal", f"Normal{number}", "x", "Did")
            sender.emit(run, "Warning", f"Warning{number}", "x", "Did")
        assert [line.split()[-1] for line in caplog.messages] == ["Normal1", "Warning1"]


# ── lists ──


async def test_a_list_of_versions_with_an_item_without_identity_is_not_believed(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        run = await created(at)
        assert await list_versions(at.access, "ns", 500) == {run.uid: run.metadata.resource_version}
        at.server.objects["dbtruns", "ns", "odd"] = {"metadata": {"name": "odd"}}
        with pytest.raises(Unreachable, match="no uid"):
            await list_versions(at.access, "ns", 500)


# ── access ──


async def test_the_clock_is_set_by_each_reply_and_another_client_has_the_same_identity(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        await at.access.request("GET", "/version")
        assert at.access.clock() is not None
        other = await at.access.another()
        try:
            await other.request("GET", "/version")
        finally:
            await other.close()
        login = await at.access.kopf_login()
        assert (login.scheme, login.token) == ("Bearer", "t0ken")


async def test_a_kubeconfig_that_kopf_cannot_use_is_refused(tmp_path: Path) -> None:
    config = kubeconfig(tmp_path, "https://127.0.0.1:1", **{"tls-server-name": "other"})
    with pytest.raises(Misconfigured, match="tls-server-name"):
        await ClusterAccess.load(config)


async def test_a_context_needs_a_file_and_a_pod_its_service_account(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="'prod' needs a kubeconfig"):
        await ClusterAccess.load(context="prod")
    with pytest.raises(Misconfigured, match="not a pod"):
        await ClusterAccess.load(folder=tmp_path, environ={})


async def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    async with world(tmp_path, total=0.2) as at:
        at.server.plan("GET", "/version", asyncio.Event())
        with pytest.raises(KubeError, match="No answer"):
            await at.access.request("GET", "/version")
