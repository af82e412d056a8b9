"""The DbtRuns of a namespace, or of all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from dbtrun.api import GROUP, PLURAL, VERSION
from dbtrun.cli.cluster import Api
from dbtrun.cli.view import Run, UnreadableRun, read
from dbtrun.kube.errors import Expired, KubeError, NotFound, NotInstalled, Unreachable, failure

PAGE: Final = "500"
STRICT: Final = {"fieldValidation": "Strict"}
"""A field that the installed CRD does not know is refused, instead of being dropped in silence."""
WATCH_SECONDS: Final = "300"
PAUSES: Final = (1.0, 2.0, 5.0, 10.0)
"""Seconds between two tries to reach an API server that does not answer."""


class Found(NamedTuple):
    """DbtRuns as the API server sends them, and the version of the list."""

    items: list[msgspec.Raw]
    version: str


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    metadata: _ListMeta


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Code(msgspec.Struct):
    code: int = 500


class _VersionMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Versioned(msgspec.Struct):
    metadata: _VersionMeta


_PAGE = msgspec.json.Decoder(_Page)
_EVENT = msgspec.json.Decoder(_Event)


def decoded(body: bytes, kind: type[Any]) -> Any:
    """An answer as one of the types here.

    Raises:
        Unreachable: it is something else, as a page of a proxy.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"The answer is not one of a Kubernetes API: {error}") from None


class Runs:
    """The DbtRuns of one namespace; None: of all. Every method raises KubeError."""

    def __init__(self, api: Api, namespace: str | None) -> None:
        self.api = api
        self.namespace = namespace
        place = "" if namespace is None else f"/namespaces/{namespace}"
        self._path = f"/apis/{GROUP}/{VERSION}{place}/{PLURAL}"

    async def list(self, **selection: str) -> Found:
        """All of them, page by page; `selection` are further parameters, as fieldSelector."""
        items: list[msgspec.Raw] = []
        query = {"limit": PAGE, **selection}
        while True:
            page = decoded(await self.api.request("GET", self._path, query=query), _Page)
            items += page.items
            if not page.metadata.continue_:
                return Found(items, page.metadata.resource_version)
            query["continue"] = page.metadata.continue_

    async def get(self, name: str) -> bytes:
        """One of them."""
        return await self.api.request("GET", f"{self._path}/{name}")

    async def create(self, body: Mapping[str, Any]) -> bytes:
        """A new one."""
        return await self.api.request("POST", self._path, query=STRICT, body=body)

    async def patch(self, name: str, body: Mapping[str, Any]) -> bytes:
        """Merges `body` into one of them."""
        return await self.api.request("PATCH", f"{self._path}/{name}", query=STRICT, body=body)

    async def changes(self, version: str, **selection: str) -> AsyncIterator[tuple[str, msgspec.Raw]]:
        """Changes after a version, as kind (ADDED, MODIFIED, DELETED, BOOKMARK) and object, until the server ends it.

        Raises:
            Expired: the version is too old.
        """
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        query |= {"timeoutSeconds": WATCH_SECONDS, **selection}
        async for line in self.api.lines(self._path, query):
            event = decoded(line, _Event)
            if event.type == "ERROR":
                raise failure(decoded(event.object, _Code).code, bytes(event.object))
            yield event.type, event.object


def bare(name: str) -> str:
    """The name of `nightly`, `dr/nightly` or `dbtrun.dbtrun.dev/nightly`, as kubectl prints it."""
    return name.rpartition("/")[2]


async def follow(
    runs: Runs, names: Collection[str], trouble: Callable[[KubeError], object]
) -> AsyncIterator[tuple[str, Run | None]]:
    """Each of the DbtRuns as it is, and after each change, until all are over. None: it was deleted.

    Args:
        runs: of their namespace.
        names: theirs.
        trouble: told when the API server does not answer; it is asked again.

    Raises:
        NotFound: one of them is not there at the beginning.
        KubeError: asking again would not help.
    """
    following = _Following(runs, names)
    tries = 0
    while following.left:
        try:
            async for seen in following.turn():
                tries = 0
                yield seen
        except Expired:
            continue
        except Unreachable as error:
            trouble(error)
            await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1


class _Following:
    """What of the DbtRuns has been seen."""

    def __init__(self, runs: Runs, names: Collection[str]) -> None:
        self._runs = runs
        self.left = set(names)
        self._seen: dict[str, str] = {}
        self._selection = {"fieldSelector": f"metadata.name={next(iter(names))}"} if len(names) == 1 else {}

    async def turn(self) -> AsyncIterator[tuple[str, Run | None]]:
        """What has changed since the last turn, and what changes until the watch ends."""
        found = await self._runs.list(**self._selection)
        present = {run.name: run for run in map(_readable, found.items) if run is not None}
        for name in sorted(self.left - present.keys()):
            if name not in self._seen:
                raise NotFound(f"There is no DbtRun {name} in the namespace {self._runs.namespace}.")
            self.left.discard(name)
            yield name, None
        for name in sorted(self.left & present.keys()):
            for seen in self._told(present[name], deleted=False):
                yield seen
        if not self.left:
            return
        async for kind, body in self._runs.changes(found.version, **self._selection):
            run = None if kind == "BOOKMARK" else _readable(body)
            if run is not None and run.name in self.left:
                for seen in self._told(run, deleted=kind == "DELETED"):
                    yield seen
            if not self.left:
                return

    def _told(self, run: Run, *, deleted: bool) -> list[tuple[str, Run | None]]:
        if deleted or run.final:
            self.left.discard(run.name)
        if self._seen.get(run.name) == run.metadata.resource_version and not deleted:
            return []
        self._seen[run.name] = run.metadata.resource_version
        return [(run.name, None if deleted and not run.final else run)]


def _readable(body: msgspec.Raw) -> Run | None:
    try:
        return read(body)
    except UnreadableRun:
        return None


__all__ = ["Found", "NotInstalled", "Runs", "bare", "decoded", "follow"]
