"""What kopf reads of a watch, and what is told before."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from kopf._cogs.clients.api import iter_jsonlines

from dbtrun.api import API_VERSION, KIND, DbtRun
from watcher.cluster.kopf_stream import Changes
from watcher.cluster.mirror import Unreadable


class Content:
    """A response's content, which comes in these pieces."""

    total_bytes = 17

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    async def iter_any(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def obj(version: str = "7", spec: Any = None) -> dict[str, Any]:
    metadata = {"name": "run", "namespace": "data", "uid": f"uid-{version}", "resourceVersion": version}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec or {"job": {"id": 1}}}


def event(kind: str, body: Any) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def bookmark(version: str) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}


async def read(*pieces: bytes) -> tuple[list[DbtRun | Unreadable], list[Any]]:
    """What is told, and what kopf reads by its own reader."""
    told: list[DbtRun | Unreadable] = []
    content: Any = Changes(Content(pieces), told.append)
    return told, [json.loads(line) async for line in iter_jsonlines(content)]


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED"])
async def test_a_change_is_told_and_kopf_reads_a_bookmark_of_its_version(kind: str) -> None:
    told, left = await read(event(kind, obj("7")))
    assert [run.metadata.resource_version for run in told if isinstance(run, DbtRun)] == ["7"]
    assert left == [bookmark("7")]


async def test_an_object_that_cannot_be_read_is_told_as_such() -> None:
    told, left = await read(event("MODIFIED", obj("8", spec={"job": "no job"})))
    assert [(type(item), item.uid) for item in told] == [(Unreadable, "uid-8")]
    assert left == [bookmark("8")]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param("DELETED", obj(), id="deletion"),
        pytest.param("BOOKMARK", {"metadata": {"resourceVersion": "9"}}, id="bookmark"),
        pytest.param("ERROR", {"kind": "Status", "code": 410}, id="error"),
        pytest.param("ADDED", {"metadata": {"name": "run"}}, id="no identity"),
        pytest.param("MODIFIED", None, id="no object"),
        pytest.param("FUTURE", obj(), id="unknown type"),
    ],
)
async def test_anything_else_is_left_to_kopf(kind: str, body: Any) -> None:
    told, left = await read(event(kind, body))
    assert told == []
    assert left == [{"type": kind, "object": body}]


async def test_what_is_not_a_watch_event_is_left_to_kopf() -> None:
    assert await read(b'{"half": 1}\n') == ([], [{"half": 1}])


async def test_the_order_is_kept_however_the_bytes_arrive() -> None:
    whole = event("ADDED", obj("1")) + event("DELETED", obj("2")) + event("MODIFIED", obj("3"))
    told, left = await read(*(whole[at : at + 50] for at in range(0, len(whole), 50)))
    assert [item.uid for item in told] == ["uid-1", "uid-3"]
    assert left == [bookmark("1"), {"type": "DELETED", "object": obj("2")}, bookmark("3")]


def test_the_rest_of_the_content_is_the_response_s() -> None:
    assert Changes(Content([]), lambda _item: None).total_bytes == 17
