"""A Kubernetes API server in memory, behind real HTTP: objects, versions, preconditions, lists and watches.

Clients cannot tell it from a real one by what they rely on: versions that grow, refused writes with an old version,
merge patches, finalizers, metadata-only answers, pages, watches that go on from a version. It does not validate, has no
defaults, and grants every right.
`plan` has it answer requests in another way, or wait before it does. It is asked over HTTP (`listening`), or directly
(`Direct`) by what needs no more than `Requests` and `Streams`, also where time is simulated.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import patch
from urllib.parse import urlencode
from uuid import uuid4

from aiohttp import web
from aiohttp.test_utils import TestServer

from dbtrun.api import API_VERSION, GROUP, KIND, PLURAL, VERSION
from dbtrun.api.mirrors import MIRROR_KIND, MIRROR_PLURAL
from dbtrun.kube.answers import JSON
from dbtrun.kube.errors import KubeError, failure
from dbtrun.kube.turns import Urgency

Body = dict[str, Any]
KINDS: Final = {
    PLURAL: (API_VERSION, KIND), MIRROR_PLURAL: (API_VERSION, MIRROR_KIND),
    "leases": ("coordination.k8s.io/v1", "Lease"), "events": ("events.k8s.io/v1", "Event"),
    "configmaps": ("v1", "ConfigMap"), "secrets": ("v1", "Secret"),
}  # fmt: skip


class Place(NamedTuple):
    """What a path names; an empty namespace is all of them, an empty name is all objects."""

    plural: str
    namespace: str
    name: str
    sub: str


class Change(NamedTuple):
    """A change as watches report it."""

    version: int
    place: Place
    body: Body
    line: bytes
    """As it was then."""


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    query: Mapping[str, str]
    accept: str
    body: Any

    @property
    def full_path(self) -> str:
        """With the query."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


class Refused(Exception):
    """An answer that is a Status."""

    def __init__(self, code: int, reason: str, message: str = "no", **details: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.details = code, reason, details

    def response(self) -> web.Response:
        """As a Kubernetes API says it."""
        said = {"kind": "Status", "code": self.code, "reason": self.reason, "message": str(self)}
        said |= {"details": self.details} if self.details else {}
        return web.json_response(said, status=self.code)


Answer = Refused | web.Response | asyncio.Event | KubeError
"""What a test has answered. An Event is awaited first; a KubeError is for those that ask directly."""


class ApiServer:
    """Serves what is in `objects`."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Body] = {}
        self.asked: list[tuple[str, str]] = []
        """Method and path with query of each request."""
        self.bodies: list[Body] = []
        """Of the writes."""
        self.groups: Body = {"groups": [_group(GROUP, VERSION)]}
        self.resources: Body = {"groupVersion": API_VERSION, "resources": [_resource(PLURAL, KIND)]}
        self.mute = False
        """Watches bring nothing, and stay open."""
        self.version = 100
        """Of the last write."""
        self._history: list[Change] = []
        self._news: dict[asyncio.Event, list[bytes]] = {}
        """Of each watch: what wakes it, and the lines that a test has said."""
        self._watches: set[asyncio.Task[Any]] = set()
        self._listed: tuple[object, list[Body]] = (None, [])
        """What the last list was of, and all that it found: the next page is of the same."""
        self._plans: list[tuple[str, str, Answer]] = []

    # ── what a test does ──

    def plan(self, method: str, part: str, answer: Answer, times: int = 1) -> None:
        """The next requests of this method whose path and query contain `part` get this."""
        self._plans += [(method, part, answer)] * times

    def forget_plans(self) -> None:
        """Every request gets its own answer from here on."""
        self._plans.clear()

    async def put(self, plural: str, name: str, fields: Body | None = None, *, namespace: str = "ns") -> Body:
        """Creates an object, or changes the one of that name, with these fields at its top."""
        return self.store(plural, name, fields, namespace=namespace)

    def store(self, plural: str, name: str, fields: Body | None = None, *, namespace: str = "ns") -> Body:
        """As `put`, from where nothing can be awaited."""
        place = Place(plural, namespace, name, "")
        known = self.objects.get(place[:3])
        body: Body = deepcopy(known) if known else self._new(place)
        body |= deepcopy(fields or {})
        return self._keep("MODIFIED" if known else "ADDED", place, body)

    async def drop(self, plural: str, name: str, *, namespace: str = "ns") -> None:
        """Deletes an object, whatever its finalizers."""
        place = Place(plural, namespace, name, "")
        self._keep("DELETED", place, self.objects[place[:3]])

    async def cut(self) -> None:
        """Ends all watches in the middle."""
        self.hang_up()

    def hang_up(self) -> None:
        """As `cut`, from where nothing can be awaited."""
        for watch in tuple(self._watches):
            watch.cancel()

    @property
    def watched(self) -> bool:
        """Whether there is a watch."""
        return bool(self._watches)

    def say(self, line: bytes) -> None:
        """Has all watches bring this line."""
        for news, lines in self._news.items():
            lines.append(line)
            news.set()

    def go_back(self) -> None:
        """Versions begin again below those of before, as after a restore from a backup."""
        self.version = 1
        self._history.clear()
        for body in self.objects.values():
            body["metadata"]["resourceVersion"] = "1"

    def known(self, body: Body) -> Body:
        """The part of an object that the installed CRD knows: all of it."""
        return body

    def writes(self) -> list[tuple[str, str]]:
        """Method and path of all requests that change something."""
        return [(method, path) for method, path in self.asked if method != "GET"]

    # ── requests ──

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Any request over HTTP."""
        body = await request.json() if request.can_read_body else None
        asked = Asked(request.method, request.path, request.query, request.headers.get("Accept", ""), body)
        if not asked.query.get("watch"):
            return await self.answer(asked)
        planned = await self._planned(asked)
        return planned or await self._watch(request, asked)

    async def answer(self, asked: Asked) -> web.Response:
        """The answer to a request that is not a watch. It raises the KubeError that is planned."""
        planned = await self._planned(asked)
        if planned is not None:
            return planned
        try:
            return web.json_response(self._answer(asked))
        except Refused as refused:
            return refused.response()

    async def _planned(self, asked: Asked) -> web.Response | None:
        self.asked.append((asked.method, asked.full_path))
        found = next((each for each in self._plans if each[0] == asked.method and each[1] in asked.full_path), None)
        if found is None:
            return None
        self._plans.remove(found)
        answer = found[2]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            return None
        if isinstance(answer, KubeError):
            raise answer
        if isinstance(answer, Refused):
            return answer.response()
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    def _answer(self, asked: Asked) -> Body:
        place = _place(asked.path)
        if place is None:
            return self._discovered(asked.path)
        if place.plural not in KINDS:
            raise Refused(404, "NotFound", "404 page not found")
        if asked.method == "GET":
            found = self._read(place) if place.name else self._list(place, asked.query)
            return _metadata_only(found) if "as=Partial" in asked.accept else found
        self.bodies.append(asked.body)
        write = {"POST": self._create, "PUT": self._replace, "PATCH": self._patch, "DELETE": self._delete}
        return write[asked.method](place, asked.body)

    def _discovered(self, path: str) -> Body:
        answers: dict[str, Body] = {
            "/version": {"major": "1", "minor": "30"},
            "/api": {"versions": ["v1"]},
            "/api/v1": {"groupVersion": "v1", "resources": [_resource("namespaces", "Namespace", namespaced=False)]},
            "/apis": self.groups,
            f"/apis/{API_VERSION}": self.resources,
        }
        if path not in answers:
            raise Refused(404, "NotFound", "404 page not found")
        return answers[path]

    async def changes(self, asked: Asked) -> AsyncGenerator[bytes]:
        """The lines of a watch, without an end."""
        place, seen = _place(asked.path), int(asked.query.get("resourceVersion", "0"))
        selector = asked.query.get("fieldSelector", "")
        assert place is not None
        news = asyncio.Event()
        said = self._news[news] = []
        try:
            while True:
                news.clear()
                while said:
                    yield said.pop(0)
                first = bisect_right(self._history, seen, key=lambda change: change.version)
                for change in self._history[first:]:
                    seen = change.version
                    if _contains(place, change.place) and not self.mute and _selected(selector, change.body):
                        yield change.line
                await news.wait()
        finally:
            del self._news[news]

    async def _watch(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            async with aclosing(self.changes(asked)) as lines:
                async for line in lines:
                    await response.write(line)
        except asyncio.CancelledError:
            return response
        finally:
            self._watches.discard(task)
        return response

    # ── objects ──

    def _new(self, place: Place) -> Body:
        api_version, kind = KINDS[place.plural]
        metadata = {
            "name": place.name, "namespace": place.namespace, "uid": f"uid-{uuid4()}", "generation": 1,
            "creationTimestamp": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }  # fmt: skip
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata}

    def _keep(self, change: str, place: Place, body: Body) -> Body:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        if change == "DELETED":
            self.objects.pop(place[:3])
        else:
            self.objects[place[:3]] = body
        line = json.dumps({"type": change, "object": body}).encode() + b"\n"
        self._history.append(Change(self.version, place, body, line))
        for news in self._news:
            news.set()
        return body

    def _read(self, place: Place) -> Body:
        if place[:3] not in self.objects:
            # Without details it would be a path that is not served.
            raise Refused(
                404, "NotFound", f'{place.plural} "{place.name}" not found', name=place.name, kind=place.plural
            )
        return self.objects[place[:3]]

    def _list(self, place: Place, query: Mapping[str, str]) -> Body:
        kind = KINDS[place.plural][1]
        selector, labels = query.get("fieldSelector", ""), _labels(query.get("labelSelector", ""))
        wanted = (place, selector, query.get("labelSelector", ""), self.version, len(self.objects))
        if "continue" not in query or self._listed[0] != wanted:
            found = [
                body
                for key, body in sorted(self.objects.items())
                if _contains(place, Place(*key, "")) and _selected(selector, body)
                if labels.items() <= body["metadata"].get("labels", {}).items()
            ]
            self._listed = (wanted, found)
        found = self._listed[1]
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "500"))
        more = {"continue": str(start + limit)} if start + limit < len(found) else {}
        page = found[start : start + limit]
        return {"kind": f"{kind}List", "metadata": {"resourceVersion": str(self.version), **more}, "items": page}

    def _create(self, place: Place, body: Body) -> Body:
        place = place._replace(name=body["metadata"]["name"])
        if place[:3] in self.objects:
            raise Refused(409, "AlreadyExists", f'{place.plural} "{place.name}" already exists')
        new = self._new(place)
        return self._keep("ADDED", place, body | {"metadata": body["metadata"] | new["metadata"]})

    def _replace(self, place: Place, body: Body) -> Body:
        known = self._fresh(place, body["metadata"])
        return self._keep("MODIFIED", place, known | body | {"metadata": known["metadata"] | body["metadata"]})

    def _patch(self, place: Place, body: Body) -> Body:
        known = self._fresh(place, body.get("metadata", {}))
        change = {key: value for key, value in body.items() if (key == "status") is (place.sub == "status")}
        changed = merged(known, change)
        gone = changed["metadata"].get("deletionTimestamp") and not changed["metadata"].get("finalizers")
        return self._keep("DELETED" if gone else "MODIFIED", place, self.known(changed))

    def _delete(self, place: Place, body: Body) -> Body:
        known = deepcopy(self._fresh(place, body.get("preconditions", {})))
        if known["metadata"].get("finalizers"):
            known["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:00Z")
            return self._keep("MODIFIED", place, known)
        self._keep("DELETED", place, known)
        return {"kind": "Status", "status": "Success"}

    def _fresh(self, place: Place, basis: Mapping[str, Any]) -> Body:
        known = self._read(place)
        for key in ("uid", "resourceVersion"):
            if basis.get(key, known["metadata"][key]) != known["metadata"][key]:
                raise Refused(409, "Conflict", f"the object has been modified: {key}")
        return known


def _place(path: str) -> Place | None:
    """None: of discovery."""
    parts = path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if not rest:
        return None
    namespace, rest = (rest[1], rest[2:]) if rest[0] == "namespaces" and len(rest) > 2 else ("", rest)
    plural, name, sub = [*rest, "", "", ""][:3]
    return Place(plural, namespace, name, sub)


def _contains(wanted: Place, place: Place) -> bool:
    return wanted.plural == place.plural and wanted.namespace in ("", place.namespace)


def _selected(selector: str, body: Body) -> bool:
    phase = body.get("status", {}).get("phase", "")
    names = [part.removeprefix("metadata.name=") for part in selector.split(",") if part.startswith("metadata.name=")]
    return f"status.phase!={phase}" not in selector.split(",") and all(body["metadata"]["name"] == one for one in names)


def _labels(selector: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in selector.split(",") if pair)


def _metadata_only(found: Body) -> Body:
    if "items" in found:
        items = [{"metadata": item["metadata"]} for item in found["items"]]
        return {"kind": "PartialObjectMetadataList", "metadata": found["metadata"], "items": items or None}
    return {"kind": "PartialObjectMetadata", "metadata": found["metadata"]}


def merged(old: Any, change: Any) -> Any:
    """A merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    kept = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = merged(kept.get(key), value)
    return kept


def _group(name: str, version: str) -> Body:
    served = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resource(plural: str, kind: str, *, namespaced: bool = True) -> Body:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}


class Direct:
    """The way to an ApiServer for what needs only `Requests` and `Streams`: no sockets, so time may be simulated."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: object = None,
        accept: str = JSON,
        urgency: Urgency | None = Urgency.OTHER,
    ) -> bytes:
        """One request. Its errors are those that a Cluster raises for the same answer."""
        answer = await self.server.answer(_asked(method, path, query, accept, body))
        content = answer.body
        assert isinstance(content, bytes)
        if answer.status >= 400:
            raise failure(answer.status, content, answer.headers)
        return content

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str | int], silence_seconds: float) -> AsyncIterator[Lines]:
        """A watch."""
        asked = _asked("GET", path, query, JSON, None)
        planned = await self.server._planned(asked)
        if planned is not None:
            assert isinstance(planned.body, bytes)
            raise failure(planned.status, planned.body, planned.headers)
        async with aclosing(self.server.changes(asked)) as lines:
            yield Lines(lines)


class Lines:
    """A watch's body."""

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        self._lines = lines

    def iter_any(self) -> AsyncIterator[bytes]:
        """As it comes."""
        return self._lines


def _asked(method: str, path: str, query: Mapping[str, str | int] | None, accept: str, body: object) -> Asked:
    sent = None if body is None else json.loads(json.dumps(body))
    return Asked(method, path, {key: str(value) for key, value in (query or {}).items()}, accept, sent)


def kubeconfig(folder: Path, server: str, **cluster: Any) -> Path:
    """A kubeconfig that leads to the server with a token."""
    path = folder / "kubeconfig"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
    }
    path.write_text(json.dumps(config))
    return path


@asynccontextmanager
async def listening(folder: Path, handler: Callable[[web.Request], Any]) -> AsyncIterator[Path]:
    """A server on this machine, without TLS; yields the kubeconfig that leads to it.

    kubernetes-asyncio loads the system's certificates for each client all the same, which takes longer than most tests.
    """
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    with patch.object(ssl.SSLContext, "load_default_certs"):
        async with TestServer(app) as server:
            yield kubeconfig(folder, str(server.make_url("/")))


async def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for a condition; `seconds` only end a test that would wait for ever."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110 - what a test waits for sets no event
                await asyncio.sleep(0.01)
    assert holds()
