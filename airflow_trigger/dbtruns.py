"""The DbtRuns of one namespace over HTTP: list, watch, get, create, patch.

Decoding stays out of the generated client, which would build a dictionary of every object only for us to drop it.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from airflow_trigger.cluster import Rejected, Unreachable, failure, short
from airflow_trigger.objects import Run
from airflow_trigger.reading import STRICT, TROUBLE, create, decoded, everything, known, one
from dbtrun.api import FINAL_PHASES, GROUP, PLURAL, VERSION, Phase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping

    from airflow_trigger.http import Cluster

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
        found, version = await everything(self._cluster, self._path, {"limit": str(PAGE), **selection}, _RUN)
        return Listing({run.metadata.name: run for run in found}, known(version))

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
        return one(await self._cluster.request("GET", f"{self._path}/{name}"), _RUN)

    async def create(self, body: Mapping[str, Any]) -> Run:
        """A new one; AlreadyExists if the name is taken."""
        return one(await create(self._cluster, self._path, body), _RUN)

    async def patch(self, name: str, body: Mapping[str, Any]) -> Run:
        """Merges `body` into the object."""
        return one(await self._cluster.request("PATCH", f"{self._path}/{name}", query=STRICT, body=body), _RUN)


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")


class _Bookmark(msgspec.Struct):
    metadata: _Version


class _ErrorStatus(msgspec.Struct):
    code: int = 500


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
    event = decoded(line, _EVENT)
    match event.type:
        case "BOOKMARK":
            return Progress(known(decoded(event.object, _BOOKMARK).metadata.resource_version))
        case "ERROR":
            raise failure(decoded(event.object, _ERROR).code, bytes(event.object))
        case "ADDED" | "MODIFIED" | "DELETED" as kind:
            run = _readable(event.object)
            change = Removed if kind == "DELETED" else Added
            return None if run is None else change(run, run.metadata.resource_version)
        case kind:
            raise Unreachable(f"the answer is not one of a Kubernetes API: a watch event of type {short(kind)!r}")


class Stream(Protocol):
    """The part of aiohttp's StreamReader that is used."""

    def iter_any(self) -> AsyncIterable[bytes]: ...


async def lines(stream: Stream) -> AsyncIterator[bytearray]:
    """Complete lines. aiohttp's own reader gives up at a length that one object may have.

    Raises:
        Unreachable: a line is longer than any object.
    """
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


def _readable(raw: msgspec.Raw) -> Run | None:
    try:
        return _RUN.decode(raw)
    except TROUBLE as error:
        log.warning("A DbtRun cannot be read and is left out: %s", short(str(error)))
        return None
