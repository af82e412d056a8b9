"""The writer against the real API server: what it writes, and that it never overwrites anybody."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from dbtrun.api import FINALIZER, DbtRun, Phase, Reason, Status
from dbtrun.kube.errors import Conflict, Forbidden, KubeError, NotFound, NotInstalled, Rejected
from dbtrun.kube.paths import api_path
from tests.cluster.objects import create, raw
from tests.controlplane import ControlPlane
from watcher.cluster.access import ClusterAccess
from watcher.cluster.mirror import read
from watcher.cluster.writer import Writer
from watcher.lifecycle.keeping import MAX_BYTES

STATUS = Status(phase=Phase.RUNNING, reason=Reason.RUN_STARTED, run_id=70_000_000_000_001, progress="1/2")


@pytest.fixture
def writer(admin: ClusterAccess) -> Writer:
    return Writer(admin)


@pytest.fixture
async def run(admin: ClusterAccess, namespace: str) -> DbtRun:
    return read(await create(admin, namespace, "run"))


async def test_a_status_is_written_and_the_new_object_returned(writer: Writer, run: DbtRun) -> None:
    written = await writer.patch_status(run, STATUS)
    assert written.status == STATUS
    assert written == await writer.get(run.metadata.namespace, run.metadata.name)


async def test_what_the_new_status_lacks_is_removed(admin: ClusterAccess, writer: Writer, run: DbtRun) -> None:
    written = await writer.patch_status(run, STATUS)
    running = Status(observed_generation=1, phase=Phase.RUNNING, started_at=datetime(2024, 5, 1, tzinfo=UTC))
    await writer.patch_status(written, running)
    assert (await raw(admin, run.metadata.namespace, run.metadata.name))["status"] == {
        "observedGeneration": 1,
        "phase": "Running",
        "startedAt": "2024-05-01T00:00:00Z",
    }


async def test_an_equal_status_is_not_written(writer: Writer, run: DbtRun) -> None:
    written = await writer.patch_status(run, STATUS)
    again = await writer.patch_status(written, STATUS)
    assert again.metadata.resource_version == written.metadata.resource_version


async def test_a_stale_version_is_a_conflict_and_writes_nothing(writer: Writer, run: DbtRun) -> None:
    written = await writer.patch_status(run, STATUS)
    with pytest.raises(Conflict):
        await writer.patch_status(run, Status(phase=Phase.ERROR))
    assert await writer.get(run.metadata.namespace, run.metadata.name) == written


async def test_of_two_writers_one_wins(writer: Writer, run: DbtRun) -> None:
    claims = [Status(phase=Phase.SUBMITTING, message=who) for who in ("one", "two")]
    answers = await asyncio.gather(*(writer.patch_status(run, claim) for claim in claims), return_exceptions=True)
    assert [type(answer) for answer in answers if not isinstance(answer, DbtRun)] == [Conflict]


async def test_a_deleted_object_is_gone(writer: Writer, run: DbtRun) -> None:
    assert await writer.delete(run) is None
    with pytest.raises(NotFound):
        await writer.patch_status(run, STATUS)
    with pytest.raises(NotFound):
        await writer.get(run.metadata.namespace, run.metadata.name)


async def test_a_namesake_is_never_written_to(admin: ClusterAccess, writer: Writer, run: DbtRun) -> None:
    await writer.delete(run)
    namesake = read(await create(admin, run.metadata.namespace, run.metadata.name))
    with pytest.raises(Conflict):
        await writer.patch_status(run, STATUS)
    with pytest.raises(Conflict):
        await writer.delete(run)
    assert await writer.get(run.metadata.namespace, run.metadata.name) == namesake


async def test_an_object_that_changed_is_not_deleted(writer: Writer, run: DbtRun) -> None:
    await writer.patch_status(run, STATUS)
    with pytest.raises(Conflict):
        await writer.delete(run)
    assert (await writer.get(run.metadata.namespace, run.metadata.name)).status == STATUS


async def test_our_finalizer_comes_and_goes_and_others_stay(
    admin: ClusterAccess, writer: Writer, namespace: str
) -> None:
    run = read(await create(admin, namespace, "kept", finalizers=["example.com/one", "example.com/two"]))
    added = await writer.add_finalizer(run)
    assert added.metadata.finalizers == ("example.com/one", "example.com/two", FINALIZER)
    assert await writer.add_finalizer(added) is added
    removed = await writer.remove_finalizer(added)
    assert removed.metadata.finalizers == run.metadata.finalizers
    assert await writer.remove_finalizer(removed) is removed


async def test_our_finalizer_holds_a_deleted_object_until_it_is_taken_away(writer: Writer, run: DbtRun) -> None:
    held = await writer.add_finalizer(run)
    left = await writer.delete(held)
    held = await writer.get(run.metadata.namespace, run.metadata.name)
    assert left == held
    assert held.deleting
    await writer.remove_finalizer(held)
    with pytest.raises(NotFound):
        await writer.get(run.metadata.namespace, run.metadata.name)


async def test_finalizers_that_changed_meanwhile_are_a_conflict(writer: Writer, run: DbtRun) -> None:
    await writer.patch_status(run, STATUS)
    with pytest.raises(Conflict):
        await writer.add_finalizer(run)


async def test_a_status_that_the_crd_refuses_says_which_field(writer: Writer, run: DbtRun) -> None:
    with pytest.raises(Rejected, match="runId"):
        await writer.patch_status(run, Status(run_id="seven"))  # type: ignore[arg-type]


# ── ConfigMaps ──

TEXT = 'Ünïcode, "quotes",\r\nand a tab\t\x00'.encode()
BINARY = bytes(range(256))


async def config_map(admin: ClusterAccess, run: DbtRun, name: str) -> dict[str, Any]:
    path = api_path("api/v1", run.metadata.namespace, "configmaps", name)
    found: dict[str, Any] = msgspec.json.decode(await admin.request("GET", path))
    return found


def content(stored: dict[str, Any]) -> dict[str, bytes]:
    texts = {key: text.encode() for key, text in stored.get("data", {}).items()}
    return texts | {key: b64decode(text) for key, text in stored.get("binaryData", {}).items()}


async def test_files_are_kept_byte_for_byte_and_belong_to_the_run(
    admin: ClusterAccess, writer: Writer, run: DbtRun
) -> None:
    await writer.keep_artifacts(run, "files", {"text": TEXT, "binary": BINARY, "empty": b""})
    stored = await config_map(admin, run, "files")
    assert content(stored) == {"text": TEXT, "binary": BINARY, "empty": b""}
    assert set(stored["data"]) == {"text", "empty"}
    (owner,) = stored["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("DbtRun", run.uid, True)


async def test_keeping_again_adds_and_replaces(admin: ClusterAccess, writer: Writer, run: DbtRun) -> None:
    for files in ({"a": b"1", "b": b"2"}, {"b": b"3", "c": BINARY}):
        await writer.keep_artifacts(run, "files", files)
    assert content(await config_map(admin, run, "files")) == {"a": b"1", "b": b"3", "c": BINARY}


async def test_as_much_as_is_promised_fits(admin: ClusterAccess, writer: Writer, run: DbtRun) -> None:
    files = {"quotes": b'"' * (MAX_BYTES // 2), "bytes": b"\xff" * (MAX_BYTES // 2)}
    await writer.keep_artifacts(run, "files", files)
    assert content(await config_map(admin, run, "files")) == files


async def test_a_config_map_of_somebody_else_is_not_touched(admin: ClusterAccess, writer: Writer, run: DbtRun) -> None:
    path = api_path("api/v1", run.metadata.namespace, "configmaps")
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": {"a": "theirs"}}
    await admin.request("POST", path, body=theirs)
    with pytest.raises(Rejected, match="ConfigMap files that does not belong to this DbtRun"):
        await writer.keep_artifacts(run, "files", {"a": b"ours"})
    assert content(await config_map(admin, run, "files")) == {"a": b"theirs"}


async def test_who_may_not_write_is_told_the_verb(served: ControlPlane, namespace: str, run: DbtRun) -> None:
    powerless = await ClusterAccess.load(await served.kubeconfig_for(namespace, "default"))
    try:
        with pytest.raises(Forbidden, match='cannot patch resource "dbtruns/status"'):
            await Writer(powerless).patch_status(run, STATUS)
    finally:
        await powerless.close()


async def test_a_resource_that_is_not_served_is_not_an_object_that_is_gone(admin: ClusterAccess) -> None:
    with pytest.raises(NotInstalled):
        await admin.request("GET", api_path("apis/dbtrun.dev/v9", "default", "dbtruns", "run"))


async def test_a_server_that_does_not_answer_is_trouble(served: ControlPlane, run: DbtRun, tmp_path: Path) -> None:
    config = yaml.safe_load(served.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    elsewhere = tmp_path / "kubeconfig"
    elsewhere.write_text(yaml.safe_dump(config))
    access = await ClusterAccess.load(elsewhere)
    try:
        with pytest.raises(KubeError, match=r"127\.0\.0\.1:1"):
            await Writer(access).patch_status(run, STATUS)
    finally:
        await access.close()
