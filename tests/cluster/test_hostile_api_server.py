"""The trigger and the real API server, with something between them that answers in its place: no wait ends wrongly."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from dbtrun.api import API_VERSION, KIND, PLURAL
from dbtrun.kube import cluster, errors
from tests.cluster.objects import kubeconfig_to
from tests.cluster.trigger_support import Namespace, QuickTrigger, administering, eventually
from tests.controlplane import ControlPlane
from tests.patience import patience
from tests.unit.airflow_trigger.test_hostile import ATTACKS, ODD, Attack, payload

MANY: Final = 200
FIRST: Final = 10
"""Requests that each meet an attack: on a fast machine there are few more, as all triggers share a watch."""
CROWD: Final = 10_000
PAGE: Final = 500
LIST: Final = f"/{PLURAL}"
AT_ONCE: Final = 16
LONG: Final = 280.0
ENDS: Final = {"Succeeded": "success", "Failed": "error", "Cancelled": "cancelled", "TimedOut": "timeout"}


class Between:
    """A reverse proxy: `attack` may answer in the API server's place, `odd` and a crowd stand in every list."""

    def __init__(self, plane: ControlPlane) -> None:
        self._server = plane.server
        self._trusted = ssl.create_default_context(cafile=str(plane.ca))
        self.attack: Callable[[web.Request], Attack | None] = lambda _request: None
        self.odd: list[Any] = []
        self.crowd = 0
        self.asked = 0

    @asynccontextmanager
    async def up(self, plane: ControlPlane, folder: Path) -> AsyncIterator[Path]:
        """The kubeconfig of an administrator whose way leads through it."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        async with aiohttp.ClientSession() as self._http, TestServer(app) as server:
            yield kubeconfig_to(str(server.make_url("")), plane.kubeconfig, folder)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        attack, watches = self.attack(request), "watch" in request.query
        if attack is not None:
            return attack(request, b"" if watches else (await self._forwarded(request))[1])
        if watches:
            return await self._stream(request)
        made_up = self._of_the_crowd(request)
        status, body = (200, made_up) if made_up is not None else await self._forwarded(request)
        if status == 200 and self.odd and request.method == "GET" and request.path.endswith(LIST):
            listed = json.loads(body)
            body = json.dumps({**listed, "items": [*self.odd, *listed["items"]]}).encode()
        return web.Response(status=status, body=body, content_type="application/json")

    def _of_the_crowd(self, request: web.Request) -> bytes | None:
        """A page of objects that nobody waits for; the real ones come after the last of these pages."""
        if not self.crowd or request.method != "GET" or not request.path.endswith(LIST):
            return None
        begin = int(request.query.get("continue", "crowd-0").removeprefix("crowd-"))
        if begin >= self.crowd:
            return None
        names = [f"crowd-{number}" for number in range(begin, begin + PAGE)]
        return json.dumps(
            {"metadata": {"resourceVersion": "1", "continue": f"crowd-{begin + PAGE}"}, "items": [*map(_other, names)]}
        ).encode()

    @asynccontextmanager
    async def _asked(self, request: web.Request) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type", "Accept")}
        query = {key: value for key, value in request.query.items() if not value.startswith("crowd-")}
        async with self._http.request(
            request.method,
            f"{self._server}{request.path}",
            params=query,
            headers=headers,
            data=await request.read(),
            ssl=self._trusted,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            yield answer

    async def _forwarded(self, request: web.Request) -> tuple[int, bytes]:
        async with self._asked(request) as answer:
            return answer.status, await answer.read()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        async with self._asked(request) as answer:
            told = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
            await told.prepare(request)
            async for chunk in answer.content.iter_any():
                await told.write(chunk)
            return told


def _other(name: str) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"u-{name}", "resourceVersion": "1"}
    status = {"phase": "Succeeded", "reason": "RunSucceeded"}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"job": {"id": 1}}, "status": status}


@pytest.fixture
async def objects(served: ControlPlane, namespace: str) -> AsyncIterator[Namespace]:
    async with administering(served, namespace) as objects:
        yield objects


@pytest.fixture
def between(served: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Between:
    monkeypatch.setattr(cluster, "MAX_ANSWER", 4_000_000)
    monkeypatch.setattr(errors, "QUOTA_SECONDS", 0.05)
    return Between(served)


def waiting(objects: Namespace, where: Path, name: str) -> asyncio.Task[dict[str, Any]]:
    """Without any patience with a refusal: an answer that is taken for one fires at once."""
    trigger = QuickTrigger(name=name, namespace=objects.name, config_file=str(where), denied_grace=0.0)
    return asyncio.create_task(payload(trigger))


async def at_once(work: Any) -> None:
    few = asyncio.Semaphore(AT_ONCE)

    async def one(each: Any) -> None:
        async with few:
            await each

    await asyncio.gather(*map(one, work))


@pytest.mark.parametrize("attack", ATTACKS)
async def test_no_answer_of_something_in_between_fires_a_trigger(
    served: ControlPlane, objects: Namespace, between: Between, tmp_path: Path, attack: str
) -> None:
    await objects.create("nightly")
    await objects.set_status("nightly", "Running", runId=5)
    between.attack = lambda _request: ATTACKS[attack]
    async with between.up(served, tmp_path) as where, asyncio.timeout(patience(LONG)):
        waits = waiting(objects, where, "nightly")

        async def asked() -> bool:
            return between.asked >= 5 or waits.done()

        await eventually(asked, "it asks again and again", 60)
        assert not waits.done(), waits.result()
        between.attack = lambda _request: None
        await objects.set_status("nightly", "Succeeded", "RunSucceeded", runId=5)
        told = await waits
    assert (told["status"], told["run_id"]) == ("success", 5)


async def test_hundreds_of_triggers_end_right_whatever_stands_between(
    served: ControlPlane,
    objects: Namespace,
    between: Between,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chance = random.Random(4)  # noqa: S311 - which request meets which attack
    wanted = {f"run-{number}": chance.choice(list(ENDS)) for number in range(MANY)}
    between.odd = [item for item in ODD.values() if item is not None]
    met = 0

    def attack(_request: web.Request) -> Attack | None:
        nonlocal met
        if met >= FIRST and chance.random() > 0.3:
            return None
        met += 1
        return chance.choice(list(ATTACKS.values()))

    between.attack = attack
    await at_once(objects.create(name) for name in wanted)
    async with between.up(served, tmp_path) as where, asyncio.timeout(patience(LONG)):
        waits = {name: waiting(objects, where, name) for name in wanted}
        await at_once(objects.set_status(name, end, "Because", runId=5) for name, end in wanted.items())
        told = {name: await wait for name, wait in waits.items()}
    assert {name: event["status"] for name, event in told.items()} == {name: ENDS[end] for name, end in wanted.items()}
    assert met >= FIRST, "too few requests met an attack"
    assert "nexpected error" not in caplog.text


async def test_ten_thousand_other_objects_keep_no_trigger_from_its_own(
    served: ControlPlane, objects: Namespace, between: Between, tmp_path: Path
) -> None:
    between.crowd = CROWD
    await objects.create("nightly")
    async with between.up(served, tmp_path) as where, asyncio.timeout(patience(LONG)):
        waits = waiting(objects, where, "nightly")

        async def listed() -> bool:
            return between.asked > CROWD // PAGE

        await eventually(listed, "every page is read", LONG)
        await objects.set_status("nightly", "Failed", "RunFailed", runId=5)
        assert (await waits)["status"] == "error"
