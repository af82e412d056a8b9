"""Commands in containers, against a small server that speaks as the API server does; tests/node has a real one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dbtrun.kube.credentials import Credentials, kubeconfig
from dbtrun.kube.errors import Forbidden, KubeError, NotFound, TooLarge, Unauthorized, Unreachable
from dbtrun.kube.execute import NOT_STARTED, PROTOCOL, Executed, Place, execute
from tests.unit.kube.test_cluster import Handler
from tests.unit.world.apiserver import kubeconfig as written

PLACE = Place("data", "dbtrun-7", "watcher")
GOOD = b'{"status": "Success"}'


@asynccontextmanager
async def serving(folder: Path, handler: Handler) -> AsyncIterator[Credentials]:
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/data/pods/dbtrun-7/exec", handler)
    async with TestServer(app) as server:
        yield kubeconfig(written(folder, str(server.make_url(""))), None)


async def run(folder: Path, *messages: bytes, limit: int = 1000) -> Executed:
    """What is read of a command that sends these messages."""

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=[PROTOCOL])
        await socket.prepare(request)
        for message in messages:
            await socket.send_bytes(message)
        await socket.close()
        return socket

    async with serving(folder, handler) as credentials:
        return await execute(credentials, PLACE, ["dbtrun", "check"], limit=limit)


def failed(reason: str, message: str) -> bytes:
    details = {"causes": [{"reason": reason, "message": message}]}
    return b"\x03" + json.dumps({"status": "Failure", "message": "it failed", "details": details}).encode()


async def test_a_command_is_asked_for_with_credentials_and_its_words_apart(tmp_path: Path) -> None:
    asked: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        socket = web.WebSocketResponse(protocols=[PROTOCOL])
        await socket.prepare(request)
        await socket.send_bytes(b"\x03" + GOOD)
        await socket.close()
        return socket

    async with serving(tmp_path, handler) as credentials:
        await execute(credentials, PLACE, ["say", "a b & c"], limit=1000)
    (request,) = asked
    assert request.query.getall("command") == ["say", "a b & c"]
    assert request.query["container"] == "watcher"
    assert "stdin" not in request.query
    assert request.headers["Authorization"] == "Bearer t0ken"


async def test_what_it_prints_comes_in_pieces_and_by_stream(tmp_path: Path) -> None:
    ended = await run(tmp_path, b"\x01", b"\x01one ", b"\x02oh", b"\x01two", b"\x03" + GOOD)
    assert ended == Executed(0, b"one two", "oh")


async def test_an_exit_code_is_told(tmp_path: Path) -> None:
    assert await run(tmp_path, b"\x02no such command", failed("ExitCode", "2")) == Executed(2, b"", "no such command")
    for odd in ("²", "-1", "", "9" * 50):
        assert (await run(tmp_path, failed("ExitCode", odd))).code == NOT_STARTED


async def test_a_command_that_cannot_be_started_is_told_from_one_that_fails(tmp_path: Path) -> None:
    assert await run(tmp_path, failed("InternalError", "x")) == Executed(NOT_STARTED, b"", "it failed")


async def test_a_connection_that_is_lost_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="lost before the command had ended"):
        await run(tmp_path, b"\x01half")


async def test_an_unknown_end_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="in an unknown form"):
        await run(tmp_path, b"\x03<html>")


@pytest.mark.parametrize("pieces", [1, 20])
async def test_no_more_is_read_than_allowed(tmp_path: Path, pieces: int) -> None:
    words = [b"\x01" + b"x" * (2000 // pieces)] * pieces
    with pytest.raises((TooLarge, Unreachable)):
        await run(tmp_path, *words, b"\x03" + GOOD, limit=1000)


@pytest.mark.parametrize(
    ("code", "kind"), [(401, Unauthorized), (403, Forbidden), (404, NotFound), (400, Unreachable), (500, Unreachable)]
)
async def test_a_refusal_is_known_by_what_can_be_done_about_it(
    tmp_path: Path, code: int, kind: type[KubeError]
) -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=code)

    async with serving(tmp_path, handler) as credentials:
        with pytest.raises(kind) as caught:
            await execute(credentials, PLACE, ["x"], limit=1000)
    assert type(caught.value) is kind


async def test_no_api_server_is_one_sentence(tmp_path: Path) -> None:
    credentials = kubeconfig(written(tmp_path, "http://127.0.0.1:9"), None)
    with pytest.raises(Unreachable, match=r"No answer from http://127\.0\.0\.1:9"):
        await execute(credentials, PLACE, ["x"], limit=1000)
