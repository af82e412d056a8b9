"""The DbtRuns of one namespace over HTTP: list, watch, get, create, patch.

Decoding stays out of the generated client, which would build a dictionary of every object only for us to drop it.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from airflow_trigger.cluster import Denial, Rejected, Unreachable, failure
from airflow_trigger.objects import Run
from watcher.api import FINAL_PHASES, GROUP, PLURAL, VERSION, Phase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping

    from airflow_trigger.http import Cluster

T = TypeVar("T")
log = logging.getLogger(__name__)

PAGE: Final = 100
"""Objects that are read in one go: some 300 kB, and 1 ms in which the event loop stands still."""
WATCH_SECONDS: Final = 300
"""The server ends a watch in peace after this time, so that load balances itself over API servers."""
MAX_LINE: Final = 8 * 1024 * 1024
"""Bytes of one watch event. etcd holds 1.5 MiB an object; JSON may need a few times that."""


def _in_no(phases: Iterable[str]) -> str:
    """A field selector. There is no "one of" among them, but "none of"; a phase that is not known is let through."""
    return ",".join(f"status.phase!={phase}" for phase in sorted(phases))


ENDED: Final = _in_no({"", *Phase} - FINAL_PHASES)
"""What is over stays selected until it is deleted; "" is the phase of an object that no watcher has seen yet."""
LIVE: Final = _in_no(FINAL_PHASES)


class Unreadable(Denial):
    """The object is not what the API allows: another version of its CRD is installed."""


class Added(msgspec.Struct, frozen=True):
    """A change: `run` is there, in this form."""

    run: Run
    version: str


class Removed(msgspec.Struct, frozen=True):
    """A change: the object is gone, and `run` is how it looked last. Of one that is live only its own 404 is proof."""

    run: Run
    version: str


class Progress(msgspec.Struct, frozen=True):
    """No change up to `version`."""

    version: str


Change = Added | Removed | Progress


class Listing(msgspec.Struct, frozen=True):
    """All objects at one version."""

    runs: dict[str, Run]
    version: str


class Runs(Protocol):
    """What the hub needs of a namespace's DbtRuns: the seam where tests put their own."""

    async def list(self) -> Listing: ...

    async def live(self) -> Listing: ...

    def watch(self, version: str, silence_seconds: float) -> AsyncGenerator[Change]: ...

    async def get(self, name: str) -> Run: ...

    async def create(self, body: Mapping[str, Any]) -> Run: ...


class DbtRuns:
    """The DbtRuns of one namespace. Every method raises ClusterError of the kind that says what can be done."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"
        self._selects = True

    async def list(self) -> Listing:
        """All of them, in pages. Expired when it took so long that the server forgot the version of the first page."""
        return await self._listed({})

    async def live(self) -> Listing:
        """Those that are not over, as `list` does; where the server cannot select, all."""
        with self._selecting(LIVE) as selection:
            return await self._listed(selection)

    async def _listed(self, selection: Mapping[str, str]) -> Listing:
        runs: dict[str, Run] = {}
        query = {"limit": str(PAGE), **selection}
        while True:
            page = _decoded(await self._cluster.request("GET", self._path, query=query), _PAGE)
            runs |= {run.metadata.name: run for run in map(_readable, page.items) if run}
            if not page.metadata.continue_:
                return Listing(runs, page.metadata.resource_version)
            query["continue"] = page.metadata.continue_

    async def watch(self, version: str, silence_seconds: float) -> AsyncGenerator[Change]:
        """Changes after `version` to what is over, or thereby is, until the server ends it in peace.

        Where the server cannot select: changes to all.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        with self._selecting(ENDED) as selection:
            async with self._cluster.stream(self._path, query | selection, silence_seconds) as stream:
                async for line in lines(stream):
                    change = read_change(line)
                    if change is not None:
                        yield change

    @contextmanager
    def _selecting(self, selector: str) -> Iterator[dict[str, str]]:
        """The query for it. Of a server that refuses to select everything is asked from then on."""
        try:
            yield {"fieldSelector": selector} if self._selects else {}
        except Rejected as error:
            if not self._selects:
                raise
            self._selects = False
            log.warning("DbtRuns cannot be selected by phase, so every change is watched; is the CRD old? %s", error)
            raise Unreachable("everything will be asked for") from error

    async def get(self, name: str) -> Run:
        """One of them, as it is now."""
        return _run(await self._cluster.request("GET", f"{self._path}/{name}"))

    async def create(self, body: Mapping[str, Any]) -> Run:
        """A new one; AlreadyExists if the name is taken."""
        return _run(await self._cluster.request("POST", self._path, body=body))

    async def patch(self, name: str, body: Mapping[str, Any]) -> Run:
        """Merges `body` into the object."""
        return _run(await self._cluster.request("PATCH", f"{self._path}/{name}", body=body))


class _ListMeta(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Bookmark(msgspec.Struct):
    metadata: _ListMeta


class _ErrorStatus(msgspec.Struct):
    code: int = 500


_PAGE = msgspec.json.Decoder(_Page)
_RUN = msgspec.json.Decoder(Run)
_EVENT = msgspec.json.Decoder(_Event)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_ERROR = msgspec.json.Decoder(_ErrorStatus)


def read_change(line: bytes | bytearray) -> Change | None:
    """One line of a watch; None for an object that this version cannot read.

    Raises:
        ClusterError: the server ended the watch with an error, Expired if the version is too old.
        Unreachable: the line is not a watch event.
    """
    event = _decoded(line, _EVENT)
    match event.type:
        case "BOOKMARK":
            return Progress(_decoded(event.object, _BOOKMARK).metadata.resource_version)
        case "ERROR":
            raise failure(_decoded(event.object, _ERROR).code, bytes(event.object))
        case kind:
            run = _readable(event.object)
            change = Removed if kind == "DELETED" else Added
            return None if run is None else change(run, run.metadata.resource_version)


class Stream(Protocol):
    """The part of aiohttp's StreamReader that is used."""

    def iter_any(self) -> AsyncIterable[bytes]: ...


async def lines(stream: Stream) -> AsyncIterator[bytearray]:
    """Complete lines. aiohttp's own reader gives up at a length that one object may have."""
    buffer = bytearray()
    async for chunk in stream.iter_any():
        scanned = len(buffer)
        buffer += chunk
        while (end := buffer.find(b"\n", scanned)) >= 0:
            yield buffer[:end]
            del buffer[: end + 1]
            scanned = 0
        if len(buffer) > MAX_LINE:
            raise Unreachable(f"a watch event is longer than {MAX_LINE} bytes")


def _decoded(body: bytes | bytearray | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"the answer is not one of a Kubernetes API: {error}") from None


def _run(body: bytes) -> Run:
    try:
        return _RUN.decode(body)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"The DbtRun cannot be read: {error}; is the chart's CRD of another version?") from None


def _readable(raw: msgspec.Raw) -> Run | None:
    try:
        return _RUN.decode(raw)
    except msgspec.MsgspecError as error:
        log.warning("A DbtRun cannot be read and is left out: %s", error)
        return None
