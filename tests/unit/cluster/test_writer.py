"""What a status write replaces, seen at the patch that is sent. The API server's part is in tests/cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec.structs import replace

from watcher.api import Phase, Status, parse
from watcher.cluster.access import ClusterAccess
from watcher.cluster.writer import Writer

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
