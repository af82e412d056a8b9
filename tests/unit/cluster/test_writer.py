"""What a status write replaces, seen at the patch that is sent. The API server's part is in tests/cluster."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, cast

import pytest
from msgspec.structs import replace

from dbtrun.api import PLURAL, Attempt, DbtRun, Phase, Status, parse
from tests.unit.world.apiserver import ApiServer, Body, Direct
from watcher.cluster.access import ClusterAccess
from watcher.cluster.writer import Writer, left_out

BODY: dict[str, Any] = {
    "metadata": {"name": "run", "namespace": "ns", "uid": "u1", "resourceVersion": "1"},
    "spec": {"job": {"id": 1}},
    "status": {"phase": "Running", "reason": "OfALaterVersion", "progress": "1/2"},
}


def holding(body: dict[str, Any]) -> tuple[ApiServer, Writer]:
    """An API server that has this object, and the writer beside it."""
    server = ApiServer()
    server.objects[PLURAL, "ns", "run"] = deepcopy(body)
    return server, Writer(cast(ClusterAccess, Direct(server)))


def sent(server: ApiServer) -> list[dict[str, Any]]:
    return [body["status"] for body in server.bodies]


async def test_what_could_not_be_read_is_replaced() -> None:
    server, writer = holding(BODY)
    run = parse(BODY)
    await writer.patch_status(run, replace(run.status, phase=Phase.QUEUED))
    assert sent(server) == [{"phase": "Queued", "reason": None}]
    assert server.objects[PLURAL, "ns", "run"]["status"] == {"phase": "Queued", "progress": "1/2"}


async def test_what_could_not_be_read_is_replaced_though_nothing_else_is_new() -> None:
    server, writer = holding(BODY)
    run = parse(BODY)
    await writer.patch_status(run, run.status)
    assert sent(server) == [{"reason": None}]


async def test_a_status_that_is_the_same_is_not_sent() -> None:
    body = {**BODY, "status": {"phase": "Running"}}
    server, writer = holding(body)
    await writer.patch_status(parse(body), Status(phase=Phase.RUNNING))
    assert sent(server) == []


class OlderServer(ApiServer):
    """Its CRD has no status.host, and no attempts[].marker."""

    def known(self, body: Body) -> Body:
        status = deepcopy({key: value for key, value in body["status"].items() if key != "host"})
        for attempt in status.get("attempts", []):
            attempt.pop("marker", None)
        return {**body, "status": status}


def older() -> tuple[OlderServer, Writer, list[frozenset[str]], DbtRun]:
    """Such a server, the writer beside it, what the writer finds left out, and an object without a status."""
    server, dropped = OlderServer(), list[frozenset[str]]()
    body: dict[str, Any] = {**BODY, "status": {}}
    server.objects[PLURAL, "ns", "run"] = deepcopy(body)
    return server, Writer(cast(ClusterAccess, Direct(server)), dropped.append), dropped, parse(body)


ATTEMPT = Attempt(number=1, phase=Phase.SUBMITTING, marker="dbtrun:u1/1")
SUBMITTING = Status(phase=Phase.SUBMITTING, host="cloud.getdbt.com", attempts=(ATTEMPT,))


async def test_what_an_older_crd_leaves_out_is_told_and_not_written_again() -> None:
    server, writer, dropped, run = older()
    for _ in range(2):
        written = await writer.patch_status(run, SUBMITTING)
        assert written.status == SUBMITTING, "the core sees what it wrote"
        run = await writer.patch_status(written, SUBMITTING)
        run = replace(run, status=Status())
    assert len(sent(server)) == 2
    assert dropped == [{"status.host", "status.attempts[].marker"}] * 2


async def test_what_was_left_out_is_written_again_with_the_next_change() -> None:
    """The CRD may have been upgraded since."""
    server, writer, _, run = older()
    written = await writer.patch_status(run, SUBMITTING)
    await writer.patch_status(written, replace(written.status, progress="1/2"))
    assert sent(server)[1]["host"] == "cloud.getdbt.com"
    assert sent(server)[1]["progress"] == "1/2"


@pytest.mark.parametrize("got", [{"a": 2}, {"a": 1, "c": 1}, {"a": 1, "b": [1, 2]}])
def test_what_somebody_else_wrote_is_not_taken_for_a_field_that_is_missing(got: dict[str, Any]) -> None:
    assert left_out({"a": 1, "b": [1]}, got) == frozenset()
    assert left_out({"a": 1, "b": [1]}, {"a": 1}) == {"b"}
