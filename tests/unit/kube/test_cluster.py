"""Against a small HTTP server, for what a real API server does too rarely to wait for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from airflow_trigger.waiting.runs import HubRuns, read
from dbtrun.api import FINAL_PHASES
from dbtrun.kube import cluster as clusters
from dbtrun.kube import watch
from dbtrun.kube.cluster import Cluster
from dbtrun.kube.config import ClusterConfig, own_namespace
from dbtrun.kube.connect import connect
from dbtrun.kube.credentials import credentials, service_account
from dbtrun.kube.errors import (
    AlreadyExists,
    Conflict,
    Expired,
    Forbidden,
    KubeError,
    Misconfigured,
    NotFound,
    NotInstalled,
    QuotaExceeded,
    Rejected,
    Unauthorized,
    Unreachable,
    Unreadable,
    failure,
)
from dbtrun.kube.watch import Added, Progress, Removed, lines, read_change
from tests.unit.world.apiserver import kubeconfig, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(folder: Path, handler: Handler) -> AsyncIterator[Cluster]:
    async with listening(folder, handler) as path, connect(ClusterConfig(config_file=str(path))) as cluster:
        yield cluster


def wire(name: str, version: str = "7", **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": "u", "resourceVersion": version, "managedFields": [{"a": "b"}]}
    return {"metadata": metadata, "spec": {"runId": 5}, "status": {**status, "conditions": [{"type": "Other"}]}}


def status(code: int, message: str = "no", reason: str = "", **details: Any) -> bytes:
    said = {"kind": "Status", "code": code, "message": message, "reason": reason, "details": details}
    return json.dumps(said).encode()


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (401, status(401, "Unauthorized"), Unauthorized),
        (403, status(403), Forbidden),
        (404, status(404, name="nightly", kind="dbtruns"), NotFound),
        (404, status(404, name="team", kind="namespaces"), NotInstalled),
        (409, status(409, reason="AlreadyExists"), AlreadyExists),
        (409, status(409, reason="Conflict"), Conflict),
        (403, status(403, "exceeded quota: few, requested: count/dbtruns=1"), QuotaExceeded),
        (401, b"Unauthorized", Unreachable),
        (403, b"<html>Forbidden</html>", Unreachable),
        (404, b"404 page not found\n", Unreachable),
        (409, b"{}", Unreachable),
        (413, b"<html>Too large</html>", Unreachable),
        (410, status(410), Expired),
        (422, status(422), Rejected),
        (400, status(400), Rejected),
        (429, status(429), Unreachable),
        (500, b"<html>oops</html>", Unreachable),
        (503, b"", Unreachable),
    ],
)
def test_an_error_is_known_by_what_can_be_done_about_it(code: int, body: bytes, kind: type[KubeError]) -> None:
    error = failure(code, body)
    assert type(error) is kind
    assert str(error)


def test_an_api_server_without_the_group_is_told_from_a_proxy_by_its_headers() -> None:
    assert type(failure(404, b"404 page not found\n", {"Audit-Id": "7"})) is NotInstalled


def test_a_refusal_repeats_who_may_not_do_what() -> None:
    said = 'dbtruns.dbtrun.dev is forbidden: User "system:serviceaccount:a:b" cannot list resource "dbtruns"'
    assert said in str(failure(403, status(403, said)))


def test_the_pause_that_the_server_asks_for_is_kept() -> None:
    for error in (failure(429, status(429, retryAfterSeconds=7)), failure(503, b"", {"Retry-After": "7"})):
        assert isinstance(error, Unreachable)
        assert error.retry_after == 7.0


@pytest.mark.parametrize("header", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "٣"])
def test_a_pause_that_is_no_number_of_seconds_is_not_kept(header: str) -> None:
    assert failure(503, b"", {"Retry-After": header}).retry_after == 0.0


def test_an_endless_error_page_becomes_a_sentence() -> None:
    assert len(str(failure(500, b"<p>\n" * 100_000))) < 600


def test_a_watch_line_is_read() -> None:
    added = read_change(json.dumps({"type": "MODIFIED", "object": wire("a", phase="Running")}).encode(), read)
    assert isinstance(added, Added)
    assert (added.run.metadata.name, added.run.status.phase, added.version) == ("a", "Running", "7")
    assert isinstance(read_change(json.dumps({"type": "DELETED", "object": wire("a")}).encode(), read), Removed)
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "12"}, "spec": {}}}
    assert read_change(json.dumps(bookmark).encode(), read) == Progress("12")


def test_a_version_that_the_server_forgot_is_told_inside_of_a_watch() -> None:
    line = json.dumps({"type": "ERROR", "object": json.loads(status(410, "too old"))})
    with pytest.raises(Expired, match="too old"):
        read_change(line.encode(), read)


@pytest.mark.parametrize("line", [b"", b"<html>", b"{}", b'{"type":"BOOKMARK","object":{}}'])
def test_a_line_that_is_no_watch_event_is_trouble(line: bytes) -> None:
    with pytest.raises(Unreachable):
        read_change(line, read)


def test_one_unreadable_object_does_not_blind_the_watch() -> None:
    broken = wire("a") | {"status": {"phase": 5}}
    assert read_change(json.dumps({"type": "ADDED", "object": broken}).encode(), read) is None


async def test_a_list_of_many_pages_is_whole(tmp_path: Path) -> None:
    async def pages(request: web.Request) -> web.Response:
        last = request.query.get("continue") == "more"
        meta = {"resourceVersion": "9"} if last else {"resourceVersion": "9", "continue": "more"}
        return web.json_response({"metadata": meta, "items": [wire("b" if last else "a"), {"metadata": "broken"}]})

    async with serving(tmp_path, pages) as cluster:
        listing = await HubRuns(cluster, "team").list()
    assert sorted(listing.runs) == ["a", "b"]
    assert listing.version == "9"


async def test_only_what_is_over_is_watched_and_only_what_is_live_is_looked_at(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.query.get("fieldSelector", "everything"))
        return web.json_response({"metadata": {"resourceVersion": "9"}, "items": []})

    async with serving(tmp_path, answer) as cluster:
        runs = HubRuns(cluster, "team")
        await runs.live()
        assert [change async for change in runs.watch("9", 5.0)] == []
        await runs.list()
    live, ended, everything = asked
    live_phases = {"Pending", "Submitting", "Queued", "Running", "Cancelling"}
    assert set(live.split(",")) == {f"status.phase!={phase}" for phase in FINAL_PHASES}
    assert set(ended.split(",")) == {"status.phase!=", *(f"status.phase!={phase}" for phase in live_phases)}
    assert everything == "everything"


async def test_a_server_that_cannot_select_by_phase_is_asked_for_everything(tmp_path: Path) -> None:
    async def old(request: web.Request) -> web.Response:
        if "fieldSelector" in request.query:
            return web.Response(status=400, body=status(400, "field label not supported: status.phase"))
        return web.json_response({"metadata": {"resourceVersion": "9"}, "items": [wire("a")]})

    async with serving(tmp_path, old) as cluster:
        runs = HubRuns(cluster, "team")
        with pytest.raises(Unreachable):
            await runs.live()
        assert list((await runs.live()).runs) == ["a"]


async def test_watch_lines_may_come_in_any_pieces_and_be_long(tmp_path: Path) -> None:
    sent = b"".join(
        json.dumps({"type": "ADDED", "object": wire(f"r{i}", message="x" * 400_000)}).encode() + b"\n" for i in range(3)
    )

    async def pieces(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for start in range(0, len(sent), 70_001):
            await answer.write(sent[start : start + 70_001])
        return answer

    async with serving(tmp_path, pieces) as cluster:
        changes = [change async for change in HubRuns(cluster, "team").watch("1", 5.0)]
    assert [change.run.metadata.name for change in changes if isinstance(change, Added)] == ["r0", "r1", "r2"]


class Pieces:
    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def iter_any(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line)), st.lists(st.integers(0, 200)))
async def test_lines_are_whole_wherever_the_network_cuts_them(wanted: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(line + b"\n" for line in wanted)
    at = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:end] for start, end in pairwise(at)]
    assert [bytes(line) async for line in lines(Pieces(*pieces))] == wanted


async def test_a_line_without_end_is_trouble_not_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_LINE", 100_000)

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 50_000)

    async with serving(tmp_path, endless) as cluster:
        with pytest.raises(Unreachable, match="longer than"):
            await anext(HubRuns(cluster, "team").watch("1", 5.0))


async def test_a_stream_that_falls_silent_is_trouble(tmp_path: Path) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(json.dumps({"type": "ADDED", "object": wire("a")}).encode() + b"\n")
        await asyncio.Event().wait()
        return answer

    async with serving(tmp_path, silent) as cluster:
        watch = HubRuns(cluster, "team").watch("1", 0.2)
        assert isinstance(await anext(watch), Added)
        with pytest.raises(Unreachable):
            await anext(watch)


async def test_rotated_credentials_are_read_again_before_anybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "RENEW_SECONDS", 0.0)

    async def guarded(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer new":
            return web.Response(status=401, body=status(401, "Unauthorized"))
        return web.json_response(wire("a"))

    async with serving(tmp_path, guarded) as cluster:
        runs = HubRuns(cluster, "team")
        with pytest.raises(Unauthorized, match="Unauthorized"):
            await runs.get("a")
        path = tmp_path / "kubeconfig"
        path.write_text(path.read_text().replace("t0ken", "new"))
        assert (await runs.get("a")).metadata.name == "a"


@pytest.mark.parametrize(
    ("changed", "renewed"),
    [
        ({}, False),
        ({"host": "http://elsewhere.invalid"}, True),
        ({"ssl_ca_cert": "other.pem"}, True),
        ({"verify_ssl": False}, True),
        ({"proxy": "http://proxy.invalid"}, True),
        ({"tls_server_name": "elsewhere"}, True),
        ({"cert_file": "client.pem"}, True),
    ],
)
async def test_only_a_new_token_is_used_without_a_new_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], renewed: bool
) -> None:
    async def guarded(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer new":
            return web.Response(status=401, body=status(401, "Unauthorized"))
        return web.json_response(wire("a"))

    async with serving(tmp_path, guarded) as cluster:
        fresh = await cluster.credentials.read()
        fresh.refresh_api_key_hook = None
        fresh.api_key = {"BearerToken": "Bearer new"}
        await cluster.open()
        for name, value in changed.items():
            setattr(fresh, name, value)
        made: list[object] = []

        async def read() -> Any:
            return fresh

        def client(configuration: object) -> Any:
            made.append(configuration)
            raise OSError  # that it is made is enough to know

        object.__setattr__(cluster.credentials, "read", read)
        monkeypatch.setattr(clusters, "_client", client)
        if renewed:
            with pytest.raises(Misconfigured):
                await HubRuns(cluster, "team").get("a")
        else:
            assert (await HubRuns(cluster, "team").get("a")).metadata.name == "a"
        assert made == [fresh] * renewed


async def test_a_patch_is_sent_as_a_merge_patch(tmp_path: Path) -> None:
    sent: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        sent.append((request.method, request.headers["Content-Type"]))
        return web.json_response({})

    async with serving(tmp_path, answer) as cluster:
        for method in ("PATCH", "POST"):
            await cluster.request(method, "/a", body={})
    assert sent == [("PATCH", "application/merge-patch+json"), ("POST", "application/json")]


async def test_an_object_of_another_api_version_is_named(tmp_path: Path) -> None:
    async def odd(_request: web.Request) -> web.Response:
        return web.json_response({"apiVersion": "dbtrun.dev/v9", "kind": "DbtRun", "metadata": {"name": "a"}})

    async with serving(tmp_path, odd) as cluster:
        with pytest.raises(Unreadable, match="CRD"):
            await HubRuns(cluster, "team").get("a")


async def test_proxy_variables_and_netrc_play_no_part(tmp_path: Path) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(wire("a"))

    async with serving(tmp_path, answer) as cluster:
        await HubRuns(cluster, "team").get("a")
        client = await cluster._opened()
        assert client.rest_client.pool_manager.trust_env is False


async def test_the_default_kubeconfigs_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, "http://poisoned.invalid")))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(Misconfigured, match="name a kubeconfig with config_file"):
        await credentials(ClusterConfig()).read()


@pytest.mark.parametrize("content", ["", "{}", "not: [yaml", '{"contexts": 5}'])
async def test_a_broken_kubeconfig_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken"
    path.write_text(content)
    with pytest.raises(Misconfigured, match=r"^The kubeconfig .*broken cannot be used: ") as caught:
        await credentials(ClusterConfig(config_file=str(path))).read()
    assert "\n" not in str(caught.value)


async def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"gone does not exist"):
        await credentials(ClusterConfig(config_file=str(tmp_path / "gone"))).read()


async def test_a_pod_is_itself(tmp_path: Path) -> None:
    for name, text in {"token": "pod-token", "ca.crt": "a certificate", "namespace": "team\n"}.items():
        (tmp_path / name).write_text(text)
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    configuration = await service_account("config_file", tmp_path, environ).read()
    assert configuration.host == "https://10.0.0.1:443"
    assert configuration.ssl_ca_cert == str(tmp_path / "ca.crt")
    assert own_namespace(tmp_path) == "team"


def test_outside_of_a_pod_the_namespace_is_default(tmp_path: Path) -> None:
    assert own_namespace(tmp_path) == "default"
