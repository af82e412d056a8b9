"""The trigger beside an API server that misbehaves, or something on the way to it that answers in its place.

No answer of that kind fires a trigger, and nothing that one object is made of keeps the events of the others.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

import tests.stack
from airflow_trigger.trigger import DbtRunTrigger
from airflow_trigger.waiting.hub import Pace
from dbtrun.api import KIND, PLURAL
from dbtrun.kube import cluster, errors
from tests.patience import patience
from tests.unit.world.apiserver import ApiServer, Asked, Body, Place, listening

QUICK: Final = Pace(linger=0.0, silence=30.0, recheck=0.2, first_retry=0.01, longest_retry=0.05, denied_retry=0.01)
Attack = Callable[[web.Request, bytes], web.Response]


class QuickTrigger(DbtRunTrigger):
    """With short pauses, and no patience at all with a refusal: an answer that is taken for one fires at once."""

    pace = QUICK

    def __init__(self, name: str, where: Path, **arguments: Any) -> None:
        super().__init__(name=name, namespace="team", config_file=str(where), denied_grace=0.0, **arguments)


class Server(ApiServer):
    """An API server of one namespace; `attack` may answer in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: list[Any] = []
        """Items that stand in every list, before all others."""
        self.attack: Callable[[web.Request], Attack | None] = lambda request: None

    def has(self, name: str, phase: str = "Running", **status: Any) -> None:
        """A DbtRun."""
        told = {"phase": phase, "reason": "Because", "runId": 5, **status}
        self.store(PLURAL, name, {"spec": {"job": {"id": 1}}, "status": told}, namespace="team")

    @asynccontextmanager
    async def up(self, folder: Path) -> AsyncIterator[Path]:
        """The kubeconfig that leads to it."""
        async with listening(folder, self.serve) as path:
            try:
                yield path
            finally:
                self.hang_up()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Any request, or what the attack makes of its answer."""
        attack = self.attack(request)
        if attack is None:
            return await super().serve(request)
        body = await request.json() if request.can_read_body else None
        answer = await self.answer(Asked(request.method, request.path, request.query, "", body))
        return attack(request, answer.body if isinstance(answer.body, bytes) else b"")

    def _list(self, place: Place, query: Mapping[str, str]) -> Body:
        found = super()._list(place, query)
        return found | {"items": [*self.odd, *found["items"]]}


def status_body(code: int, message: str, reason: str = "", **more: Any) -> bytes:
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return json.dumps({**said, "reason": reason, **more}).encode()


def fixed(status: int, body: bytes, kind: str = "application/json", **headers: str) -> Attack:
    return lambda _request, _body: web.Response(status=status, body=body, content_type=kind, headers=headers)


def reset(request: web.Request, _body: bytes) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


QUOTA = 'dbtruns.dbtrun.dev "x" is forbidden: exceeded quota: few, requested: count/dbtruns.dbtrun.dev=1'
ATTACKS: Final[dict[str, Attack]] = {
    "a page of HTML": fixed(200, b"<html>Log in</html>", "text/html"),
    "nothing": fixed(200, b""),
    "half of the answer": lambda _request, body: web.Response(body=body[: len(body) // 2]),
    "another list": fixed(200, json.dumps({"kind": "PodList", "metadata": {}, "items": {}}).encode()),
    "a table": fixed(200, json.dumps({"kind": "Table", "rows": []}).encode()),
    "a status with 200": fixed(200, status_body(200, "fine")),
    "JSON that is deep": fixed(200, b'{"metadata":' + b"[" * 100_000),
    "bytes that are no text": fixed(200, b'{"metadata": "\xff\xfe"}'),
    "a version that is no number": fixed(200, b'{"metadata": {"resourceVersion": "abc"}, "items": []}'),
    "an answer without an end": fixed(200, b" " * 3_000_000),
    "an answer that unpacks without an end": fixed(
        200, gzip.compress(b" " * 30_000_000), **{"Content-Encoding": "gzip"}
    ),
    "401 in plain text": fixed(401, b"Unauthorized", "text/plain"),
    "403 of a proxy": fixed(403, b"<html>Forbidden</html>", "text/html"),
    "403 for a quota": fixed(403, status_body(403, QUOTA, "Forbidden")),
    "404 of a proxy": fixed(404, b"404 page not found\n", "text/plain"),
    "409 for another reason": fixed(409, status_body(409, "the object has been modified", "Conflict")),
    "410": fixed(410, status_body(410, "too old resource version", "Expired")),
    "413 of a proxy": fixed(413, b"<html>Too large</html>", "text/html"),
    "429": fixed(429, status_body(429, "slow down", "TooManyRequests"), **{"Retry-After": "0"}),
    "500": fixed(500, status_body(500, "etcd", "InternalError")),
    "502 of a proxy": fixed(502, b"<html>Bad gateway</html>", "text/html"),
    "504": fixed(504, status_body(504, "timeout", "Timeout")),
    "a connection that is cut": reset,
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(cluster, "MAX_ANSWER", 2_000_000)
    monkeypatch.setattr(errors, "QUOTA_SECONDS", 0.05)
    return Server()


async def payload(trigger: DbtRunTrigger) -> dict[str, Any]:
    """Of the trigger's one event."""
    (event,) = [event async for event in trigger.run()]
    return dict(event.payload)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async def there() -> bool:
        return condition()

    await tests.stack.until(there, seconds, pause=0.01)


@pytest.mark.parametrize("when", ["from the beginning", "in the middle"])
@pytest.mark.parametrize("attack", ATTACKS)
async def test_no_answer_that_is_not_one_fires_a_trigger(
    tmp_path: Path, server: Server, attack: str, when: str
) -> None:
    server.has("nightly")
    async with server.up(tmp_path) as where, asyncio.timeout(120):
        if when == "in the middle":
            waits = asyncio.create_task(payload(QuickTrigger("nightly", where)))
            await until(lambda: server.watched)
            server.attack = lambda _request: ATTACKS[attack]
            server.hang_up()
        else:
            server.attack = lambda _request: ATTACKS[attack]
            waits = asyncio.create_task(payload(QuickTrigger("nightly", where)))
        asked = len(server.asked)
        await until(lambda: len(server.asked) >= asked + 5 or waits.done())
        assert not waits.done(), waits.result()
        server.attack = lambda _request: None
        server.has("nightly", "Succeeded")
        told = await waits
    assert (told["status"], told["run_id"]) == ("success", 5)


async def test_a_real_refusal_does_fire(tmp_path: Path, server: Server) -> None:
    """Else the tests above would pass with a trigger that never fires."""
    server.attack = lambda _request: fixed(403, status_body(403, "dbtruns is forbidden", "Forbidden"))
    async with server.up(tmp_path) as where, asyncio.timeout(60):
        told = await payload(QuickTrigger("nightly", where))
    assert (told["status"], told["reason"]) == ("error", "NoAccess")


ODD: Final[dict[str, Any]] = {
    "of a newer version": {"apiVersion": "dbtrun.dev/v9", "kind": KIND, "metadata": {"name": "odd"}, "spec": []},
    "without metadata": {"spec": {}},
    "with a version that is no number": {
        "metadata": {"name": "odd", "uid": "o", "resourceVersion": "abc"}, "spec": {}
    },
    "with a version that int() refuses": {
        "metadata": {"name": "odd", "uid": "o", "resourceVersion": "9" * 5_000}, "spec": {}
    },
    "with a date that is none": {
        "metadata": {"name": "odd", "uid": "o", "resourceVersion": "1"}, "spec": {}, "status": {"startedAt": "99999"}
    },
    "that is no object": 5,
    "that is deep": None,
}  # fmt: skip
DEEP: Final = b'{"metadata":' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.parametrize("odd", ODD)
async def test_nothing_that_one_object_is_made_of_keeps_the_events_of_the_others(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture, odd: str
) -> None:
    body = DEEP if ODD[odd] is None else json.dumps(ODD[odd]).encode()
    server.odd = [] if ODD[odd] is None else [ODD[odd]]
    server.has("nightly")
    async with server.up(tmp_path) as where, asyncio.timeout(60):
        waits = asyncio.create_task(payload(QuickTrigger("nightly", where)))
        await until(lambda: server.watched)
        server.say(b'{"type": "MODIFIED", "object": ' + body + b"}\n")
        server.has("nightly", "Failed")
        told = await waits
    assert told["status"] == "error"
    assert "nexpected error" not in caplog.text
    assert "is left out" in caplog.text or "may have missed changes" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        b"<html>\n",
        b'{"type": "MODIFIED"\n',
        b'{"type": "FOUND", "object": {}}\n',
        b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "x"}}}\n',
        b'{"type": "ERROR", "object": {"kind": "Status", "code": 410}}\n',
        b'{"type": "ERROR", "object": 5}\n',
        b"\xff\xfe\n",
        DEEP + b"\n",
    ],
    ids=lambda line: line[:24].decode("latin-1"),
)
async def test_nothing_in_a_watch_fires_a_trigger(tmp_path: Path, server: Server, line: bytes) -> None:
    server.has("nightly")
    async with server.up(tmp_path) as where, asyncio.timeout(60):
        waits = asyncio.create_task(payload(QuickTrigger("nightly", where)))
        await until(lambda: server.watched)
        server.say(line)
        await asyncio.sleep(0.05)
        assert not waits.done(), waits.result()
        server.has("nightly", "Succeeded")
        told = await waits
    assert told["status"] == "success"


async def test_a_quota_that_is_used_up_is_waited_for_and_named(tmp_path: Path, server: Server) -> None:
    used_up = ATTACKS["403 for a quota"]
    server.attack = lambda request: used_up if request.method == "POST" else None
    async with server.up(tmp_path) as where, asyncio.timeout(patience(60)):
        trigger = QuickTrigger("", where, run_id=5, end_time=time.time() + patience(1.0))
        told = await payload(trigger)
    assert told["status"] == "timeout"
    assert "exceeded quota: few" in told["message"]


MANY: Final = 1_000


async def test_a_thousand_triggers_end_right_beside_a_server_that_misbehaves(tmp_path: Path, server: Server) -> None:
    chance = random.Random(4)  # noqa: S311 - which request meets which attack
    ends = {"Succeeded": "success", "Failed": "error", "Cancelled": "cancelled", "TimedOut": "timeout"}
    wanted = {f"run-{number}": chance.choice(list(ends)) for number in range(MANY)}
    attacks = list(ATTACKS.values())
    server.odd = [item for item in ODD.values() if item is not None]
    for name in wanted:
        server.has(name)
    async with server.up(tmp_path) as where, asyncio.timeout(280):
        met: list[Attack] = []

        def attack(_request: web.Request) -> Attack | None:
            if chance.random() > 0.3:
                return None
            met.append(chance.choice(attacks))
            return met[-1]

        server.attack = attack
        waits = {name: asyncio.create_task(payload(QuickTrigger(name, where))) for name in wanted}
        for number, name in enumerate(chance.sample(list(wanted), MANY)):
            server.has(name, wanted[name])
            if number % 50 == 0:
                server.hang_up()
                await asyncio.sleep(0.02)
        told = {name: await wait for name, wait in waits.items()}
    assert {name: event["status"] for name, event in told.items()} == {name: ends[end] for name, end in wanted.items()}
    assert len(met) > 20


async def test_many_objects_are_listed_page_by_page(tmp_path: Path, server: Server) -> None:
    for number in range(5_000):
        server.has(f"old-{number}", "Succeeded")
    server.has("nightly")
    async with server.up(tmp_path) as where, asyncio.timeout(280):
        waits = asyncio.create_task(payload(QuickTrigger("nightly", where)))
        await until(lambda: server.watched, 240)
        server.has("nightly", "Failed")
        told = await waits
    assert told["status"] == "error"
