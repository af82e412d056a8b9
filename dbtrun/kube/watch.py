"""What a watch brings, line by line. Decoding stays out of the generated client, which would build dictionaries."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from dbtrun.kube.answers import FOREIGN, Read, comparable, decode
from dbtrun.kube.errors import UNREADABLE, Unreachable, failure, short

log = logging.getLogger(__name__)

MAX_LINE: Final = 8 * 1024 * 1024
"""Bytes of one watch event. etcd holds 1.5 MiB an object; JSON may need a few times that."""


class Versioned(Protocol):
    """The part of an object's metadata that has its version."""

    @property
    def resource_version(self) -> str: ...


class Stored(Protocol):
    """An object that can be watched."""

    @property
    def metadata(self) -> Versioned: ...


T = TypeVar("T")
S = TypeVar("S", bound=Stored)


class Added(msgspec.Struct, Generic[T], frozen=True):
    """A change: `run` exists, in this form."""

    run: T
    version: str


class Removed(msgspec.Struct, Generic[T], frozen=True):
    """A change: the object is gone, and `run` is how it looked last. Of one that is live only its own 404 is proof."""

    run: T
    version: str


class Progress(msgspec.Struct, frozen=True):
    """No change up to `version`."""

    version: str


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")


class _Bookmark(msgspec.Struct):
    metadata: _Version


class _ErrorStatus(msgspec.Struct):
    code: int = 500


def read_change(line: bytes | bytearray, read: Read[S]) -> Added[S] | Removed[S] | Progress | None:
    """One line of a watch; None for an object that this version cannot read.

    Raises:
        KubeError: the server ended the watch with an error, Expired if the version is too old.
        Unreachable: the line is not a watch event.
    """
    event = decode(line, _Event)
    match event.type:
        case "BOOKMARK":
            return Progress(comparable(decode(event.object, _Bookmark).metadata.resource_version))
        case "ERROR":
            # Observed: a version that is too old is answered with 200 and this event, and not with 410.
            raise failure(decode(event.object, _ErrorStatus).code, bytes(event.object))
        case "ADDED" | "MODIFIED" | "DELETED" as kind:
            try:
                run = read(event.object)
            except UNREADABLE as error:
                log.warning("A DbtRun cannot be read and is left out: %s", short(str(error)))
                return None
            # With a field selector, an object that no longer matches comes as DELETED, too.
            change = Removed if kind == "DELETED" else Added
            return change(run, comparable(run.metadata.resource_version))
        case kind:
            raise Unreachable(f"{FOREIGN}: a watch event of type {short(kind)!r}")


class Stream(Protocol):
    """The part of aiohttp's StreamReader that is used."""

    def iter_any(self) -> AsyncIterable[bytes]: ...


async def lines(stream: Stream) -> AsyncIterator[bytearray]:
    """Complete lines. aiohttp's own reader gives up at a length that one object may have.

    Raises:
        Unreachable: a line is longer than MAX_LINE.
    """
    buffer = bytearray()
    async for chunk in stream.iter_any():
        scanned = len(buffer)
        buffer += chunk
        # From where the last search ended: a long line in many pieces would else be searched again for each.
        while (end := buffer.find(b"\n", scanned)) >= 0:
            yield buffer[:end]
            del buffer[: end + 1]
            scanned = 0
        if len(buffer) > MAX_LINE:
            raise Unreachable(f"a watch event is longer than {MAX_LINE} bytes")
