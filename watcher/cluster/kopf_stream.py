"""What kopf's watch brings, most of it read before kopf: a millisecond of processor time for each event is too much.

Each start of a run causes five events, four of them by our own writes. An object that is new or has changed is told at
once, and kopf reads a bookmark in its place, from which it goes on after a gap. Its handler gets all that is left:
deletions, and objects that cannot be identified.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from dbtrun.api import DbtRun
from dbtrun.kube.watch import Stream, lines
from watcher.cluster.mirror import Unreadable, interpret_json, resource_version_of

CHANGES: Final = ("ADDED", "MODIFIED")


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Changes:
    """The content of a watch's response as kopf reads it, which asks for `iter_chunked`; the rest is aiohttp's.

    Args:
        changed: called with each object that is new or has changed.
    """

    def __init__(self, content: Stream, changed: Callable[[DbtRun | Unreadable], None]) -> None:
        self._content = content
        self._changed = changed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, _size: int) -> AsyncIterator[bytes]:
        """The lines of the watch, one at a time."""
        async for line in lines(self._content):
            yield (self._told(line) or bytes(line)) + b"\n"

    def _told(self, line: bytearray) -> bytes | None:
        """Tells a change; the bookmark in its place. None: it is something else."""
        try:
            event = msgspec.json.decode(line, type=_Event)
            item = interpret_json(event.object) if event.type in CHANGES else None
        except msgspec.MsgspecError:
            return None
        if item is None:
            return None
        self._changed(item)
        version = {"metadata": {"resourceVersion": resource_version_of(item)}}
        return msgspec.json.encode({"type": "BOOKMARK", "object": version})
