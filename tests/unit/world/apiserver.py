"""A Kubernetes API server in memory, behind real HTTP: objects, versions, preconditions, lists and watches.

Clients cannot tell it from a real one by what they rely on: versions that grow, refused writes with an old version,
merge patches, finalizers, metadata-only answers, pages, watches that go on from a version. It does not validate, has no
defaults, and grants every right.
`plan` has it answer requests in another way, or wait before it does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

from aiohttp import web
from aiohttp.test_utils import TestServer

from dbtrun.api import API_VERSION, GROUP, KIND, PLURAL, VERSION
from dbtrun.api.mirrors import MIRROR_KIND, MIRROR_PLURAL

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
    type: str
    place: Place
    body: Body


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
        self._changed = asyncio.Condition()
        self._watches: set[asyncio.Task[Any]] = set()
        self._plans: list[tuple[str, str, Refused | web.Response | asyncio.Event]] = []

    # ── what a test does ──

    def plan(self, method: str, part: str, answer: Refused | web.Response | asyncio.Event, times: int = 1) -> None:
        """The next requests of this method whose path and query contain `part` get this; an Event is awaited first."""
        self._plans += [(method, part, answer)] * times

    def forget_plans(self) -> None:
        """Every request gets its own answer from here on."""
        self._plans.clear()

    async def put(self, plural: str, name: str, fields: Body | None = None, *, namespace: str = "ns") -> Body:
        """Creates an object, or changes the one of that name, with these fields at its top."""
        place = Place(plural, namespace, name, "")
        known = self.objects.get(place[:3])
        body: Body = deepcopy(known) if known else self._new(place)
        body |= deepcopy(fields or {})
        return await self._keep("MODIFIED" if known else "ADDED", place, body)

    async def drop(self, plural: str, name: str, *, namespace: str = "ns") -> None:
        """Deletes an object, whatever its finalizers."""
        place = Place(plural, namespace, name, "")
        await self._keep("DELETED", place, self.objects[place[:3]])

    async def cut(self) -> None:
        """Ends all watches in the middle."""
        for watch in tuple(self._watches):
            watch.cancel()

    def go_back(self) -> None:
        """Versions begin again below those of before, as after a restore from a backup."""
        self.version = 1
        self._history.clear()
        for body in self.objects.values():
            body["metadata"]["resourceVersion"] = "1"

    def writes(self) -> list[tuple[str, str]]:
        """Method and path of all requests that change something."""
        return [(method, path) for method, path in self.asked if method != "GET"]

    # ── HTTP ──

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        asked = request.method, request.path_qs
        self.asked.append(asked)
        for planned in self._plans:
            method, part, answer = planned
            if method == request.method and part in request.path_qs:
                self._plans.remove(planned)
                if isinstance(answer, web.Response):
                    return web.Response(body=answer.body, status=answer.status, headers=answer.headers)
                if isinstance(answer, Refused):
                    return answer.response()
                await answer.wait()
                break
        try:
            return await self._answer(request)
        except Refused as refused:
            return refused.response()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        place = _place(request.path)
        if place is None:
            return web.json_response(self._discovered(request.path))
        if place.plural not in KINDS:
            raise Refused(404, "NotFound", "404 page not found")
        if request.query.get("watch"):
            return await self._watch(request, place)
        if request.method == "GET":
            found = self._read(place) if place.name else self._list(place, request.query)
            return web.json_response(_metadata_only(found) if "as=Partial" in request.headers["Accept"] else found)
        body = await request.json()
        self.bodies.append(body)
        write = {"POST": self._create, "PUT": self._replace, "PATCH": self._patch, "DELETE": self._delete}
        return web.json_response(await write[request.method](place, body))

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

    async def _watch(self, request: web.Request, place: Place) -> web.StreamResponse:
        seen = int(request.query.get("resourceVersion", "0"))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            while True:
                for change in [one for one in self._history if one.version > seen]:
                    seen = change.version
                    if _contains(place, change.place) and not self.mute:
                        await response.write(json.dumps({"type": change.type, "object": change.body}).encode() + b"\n")
                async with self._changed:
                    await self._changed.wait()
        except asyncio.CancelledError:
            return response
        finally:
            self._watches.discard(task)

    # ── objects ──

    def _new(self, place: Place) -> Body:
        api_version, kind = KINDS[place.plural]
        metadata = {
            "name": place.name, "namespace": place.namespace, "uid": f"uid-{uuid4()}", "generation": 1,
            "creationTimestamp": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }  # fmt: skip
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata}

    async def _keep(self, change: str, place: Place, body: Body) -> Body:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        if change == "DELETED":
            self.objects.pop(place[:3])
        else:
            self.objects[place[:3]] = body
        self._history.append(Change(self.version, change, place, deepcopy(body)))
        async with self._changed:
            self._changed.notify_all()
        return body

    def _read(self, place: Place) -> Body:
        if place[:3] not in self.objects:
            # Without details it would be a path that is not served.
            raise Refused(404, "NotFound", f"{place.name} not found", name=place.name, kind=place.plural)
        return self.objects[place[:3]]

    def _list(self, place: Place, query: Mapping[str, str]) -> Body:
        kind = KINDS[place.plural][1]
        selector = query.get("fieldSelector", "")
        found = [
            body
            for key, body in sorted(self.objects.items())
            if _contains(place, Place(*key, "")) and _selected(selector, body)
        ]
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "500"))
        more = {"continue": str(start + limit)} if start + limit < len(found) else {}
        page = found[start : start + limit]
        return {"kind": f"{kind}List", "metadata": {"resourceVersion": str(self.version), **more}, "items": page}

    async def _create(self, place: Place, body: Body) -> Body:
        place = place._replace(name=body["metadata"]["name"])
        if place[:3] in self.objects:
            raise Refused(409, "AlreadyExists", f'{place.plural} "{place.name}" already exists')
        new = self._new(place)
        return await self._keep("ADDED", place, body | {"metadata": body["metadata"] | new["metadata"]})

    async def _replace(self, place: Place, body: Body) -> Body:
        known = self._fresh(place, body["metadata"])
        return await self._keep("MODIFIED", place, known | body | {"metadata": known["metadata"] | body["metadata"]})

    async def _patch(self, place: Place, body: Body) -> Body:
        known = self._fresh(place, body.get("metadata", {}))
        change = {key: value for key, value in body.items() if (key == "status") is (place.sub == "status")}
        changed = _merged(known, change)
        gone = changed["metadata"].get("deletionTimestamp") and not changed["metadata"].get("finalizers")
        return await self._keep("DELETED" if gone else "MODIFIED", place, changed)

    async def _delete(self, place: Place, body: Body) -> Body:
        known = deepcopy(self._fresh(place, body.get("preconditions", {})))
        if known["metadata"].get("finalizers"):
            known["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:00Z")
            return await self._keep("MODIFIED", place, known)
        await self._keep("DELETED", place, known)
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


def _metadata_only(found: Body) -> Body:
    if "items" in found:
        items = [{"metadata": item["metadata"]} for item in found["items"]]
        return {"kind": "PartialObjectMetadataList", "metadata": found["metadata"], "items": items or None}
    return {"kind": "PartialObjectMetadata", "metadata": found["metadata"]}


def _merged(old: Any, change: Any) -> Any:
    """A merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    kept = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = _merged(kept.get(key), value)
    return kept


def _group(name: str, version: str) -> Body:
    served = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resource(plural: str, kind: str, *, namespaced: bool = True) -> Body:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}


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
    """A server on this machine; yields the kubeconfig that leads to it."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        yield kubeconfig(folder, str(server.make_url("/")))


async def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for a condition; `seconds` only end a test that would wait for ever."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110 - what a test waits for sets no event
                await asyncio.sleep(0.01)
    assert holds()
