"""What a status write replaces, seen at the patch that is sent. The API server's part is in tests/cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from dbtrun.api import Attempt, Phase, Status, parse
from watcher.cluster.access import ClusterAccess
from watcher.cluster.writer import Writer, left_out

BODY = {
    "metadata": {"name": "run", "namespace": "ns", "uid": "u1", "resourceVersion": "1"},
    "spec": {"job": {"id": 1}},
    "status": {"phase": "Running", "reason": "OfALaterVersion", "progress": "1/2"},
}


class Access:
    """Takes every patch."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []

    async def request(self, *_: str, body: Mapping[str, Any], **__: object) -> bytes:
        self.sent.append(body["status"])
        return msgspec.json.encode(BODY)


async def test_what_could_not_be_read_is_replaced() -> None:
    access = Access()
    run = parse(BODY)
    await Writer(cast(ClusterAccess, access)).patch_status(run, replace(run.status, phase=Phase.QUEUED))
    assert access.sent == [{"phase": "Queued", "reason": None}]


async def test_what_could_not_be_read_is_replaced_though_nothing_else_is_new() -> None:
    access = Access()
    run = parse(BODY)
    await Writer(cast(ClusterAccess, access)).patch_status(run, run.status)
    assert access.sent == [{"reason": None}]


async def test_a_status_that_is_the_same_is_not_sent() -> None:
    access = Access()
    run = parse({**BODY, "status": {"phase": "Running"}})
    await Writer(cast(ClusterAccess, access)).patch_status(run, Status(phase=Phase.RUNNING))
    assert access.sent == []


class OlderServer(Access):
    """Its CRD has no status.host, and no attempts[].marker."""

    async def request(self, *_: str, body: Mapping[str, Any], **__: object) -> bytes:
        self.sent.append(body["status"])
        status = {key: value for key, value in body["status"].items() if key != "host"}
        status["attempts"] = [{"number": 1, "phase": "Submitting"}]
        return msgspec.json.encode({**BODY, "status": status})


async def test_what_an_older_crd_leaves_out_is_told_and_not_written_again() -> None:
    access, dropped = OlderServer(), list[frozenset[str]]()
    writer = Writer(cast(ClusterAccess, access), dropped.append)
    run = parse({**BODY, "status": {}})
    attempt = Attempt(number=1, phase=Phase.SUBMITTING, marker="dbtrun:u1/1")
    status = Status(phase=Phase.SUBMITTING, host="cloud.getdbt.com", attempts=(attempt,))
    for _ in range(2):
        written = await writer.patch_status(run, status)
        assert written.status == status, "the core sees what it wrote"
        await writer.patch_status(written, status)
    assert len(access.sent) == 2
    assert dropped == [{"status.host", "status.attempts[].marker"}] * 2


async def test_what_was_left_out_is_written_again_with_the_next_change() -> None:
    """The CRD may have been upgraded since."""
    access = OlderServer()
    writer = Writer(cast(ClusterAccess, access))
    run = parse({**BODY, "status": {}})
    attempt = Attempt(number=1, phase=Phase.SUBMITTING, marker="dbtrun:u1/1")
    status = Status(phase=Phase.SUBMITTING, host="cloud.getdbt.com", attempts=(attempt,))
    written = await writer.patch_status(run, status)
    await writer.patch_status(written, replace(written.status, progress="1/2"))
    assert access.sent[1]["host"] == "cloud.getdbt.com"
    assert access.sent[1]["progress"] == "1/2"


@pytest.mark.parametrize("got", [{"a": 2}, {"a": 1, "c": 1}, {"a": 1, "b": [1, 2]}])
def test_what_somebody_else_wrote_is_not_taken_for_a_field_that_is_missing(got: dict[str, Any]) -> None:
    assert left_out({"a": 1, "b": [1]}, got) == frozenset()
    assert left_out({"a": 1, "b": [1]}, {"a": 1}) == {"b"}
