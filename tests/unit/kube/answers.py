"""What an API server, or something on the way to it, can answer to a request, and what each answer means."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from dbtrun.api import API_VERSION, KIND
from dbtrun.kube.errors import (
    AlreadyExists,
    Conflict,
    Expired,
    Forbidden,
    KubeError,
    NotFound,
    NotInstalled,
    QuotaExceeded,
    Rejected,
    TooLarge,
    Unauthorized,
    Unreachable,
    Unreadable,
)

LIMIT: Final = 200_000
"""Bytes of an answer that the tests let be read."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer, and the error it is for a request of one object; None: it is one."""

    meaning: type[KubeError] | None
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    listed: type[KubeError] | str | None = "same"
    """The error that it is for a list, where that is another."""
    retry_after: float = 0.0
    cut: bool = False
    """The connection is reset before an answer."""
    silent: bool = False
    """No answer comes."""

    @property
    def of_a_list(self) -> type[KubeError] | None:
        """The error that it is for a list."""
        return self.meaning if isinstance(self.listed, str) else self.listed

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """As a server."""
        if self.silent:
            await asyncio.Event().wait()
        if self.cut:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=self.status, body=self.body, headers=dict(self.headers))


def status(code: int, message: str, reason: str = "", **details: Any) -> bytes:
    """A metav1.Status."""
    said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return json.dumps({**said, "reason": reason, "details": details}).encode()


def dbtrun(name: str = "nightly", version: str = "7") -> dict[str, Any]:
    """A DbtRun as the API server stores it, which every reader can read."""
    metadata = {"name": name, "namespace": "team", "uid": f"u-{name}", "resourceVersion": version}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {**metadata, "managedFields": [{"manager": "kubectl"}]},
        "spec": {"job": {"id": 5}},
        "status": {"phase": "Running", "runId": 7},
    }


def page(*items: Any, more: str = "", kind: str = "DbtRunList") -> dict[str, Any]:
    """One page of a list."""
    return {"kind": kind, "metadata": {"resourceVersion": "9", "continue": more}, "items": list(items)}


RUN: Final = json.dumps(dbtrun()).encode()
OF_ANOTHER_VERSION: Final = {"apiVersion": "dbtrun.dev/v9", "kind": KIND, "metadata": {"name": "nightly"}, "spec": []}
QUOTA: Final = 'dbtruns.dbtrun.dev "x" is forbidden: exceeded quota: few, requested: count/dbtruns.dbtrun.dev=1'
CANNOT: Final = 'dbtruns.dbtrun.dev is forbidden: User "system:serviceaccount:a:b" cannot get resource "dbtruns"'

ANSWERS: Final[dict[str, Answer]] = {
    "a page of HTML": Answer(meaning=Unreachable, body=b"<html>Log in</html>"),
    "nothing": Answer(meaning=Unreachable),
    "half of the JSON": Answer(meaning=Unreachable, body=RUN[: len(RUN) // 2]),
    "bytes that are not text": Answer(meaning=Unreachable, body=b'{"metadata": "\xff\xfe"}'),
    "JSON that is deep": Answer(meaning=Unreachable, body=b'{"metadata":' + b"[" * 50_000),
    "a number": Answer(meaning=Unreachable, body=b"5"),
    "an empty object": Answer(meaning=Unreachable, body=b"{}"),
    "a Pod": Answer(meaning=Unreachable, body=json.dumps({**dbtrun(), "kind": "Pod", "apiVersion": "v1"}).encode()),
    "a list of Pods": Answer(meaning=Unreachable, body=json.dumps(page(kind="PodList")).encode()),
    "a table": Answer(meaning=Unreachable, body=json.dumps(page(kind="Table")).encode()),
    "a Status with 200": Answer(meaning=Unreachable, body=status(200, "fine")),
    "an object of another version": Answer(
        meaning=Unreadable, listed=Unreachable, body=json.dumps(OF_ANOTHER_VERSION).encode()
    ),
    "a huge answer": Answer(meaning=TooLarge, body=b" " * 2 * LIMIT),
    "an answer that unpacks without an end": Answer(
        meaning=TooLarge, body=gzip.compress(b" " * 20 * LIMIT), headers={"Content-Encoding": "gzip"}
    ),
    "400": Answer(meaning=Rejected, status=400, body=status(400, "bad selector")),
    "400 for an unknown field": Answer(meaning=Rejected, status=400, body=status(400, "strict decoding error: x")),
    "401": Answer(meaning=Unauthorized, status=401, body=status(401, "Unauthorized")),
    "401 in plain text": Answer(meaning=Unreachable, status=401, body=b"Unauthorized"),
    "403": Answer(meaning=Forbidden, status=403, body=status(403, CANNOT, "Forbidden")),
    "403 for a quota": Answer(
        meaning=QuotaExceeded, status=403, body=status(403, QUOTA, "Forbidden"), retry_after=10.0
    ),
    "403 of a proxy": Answer(meaning=Unreachable, status=403, body=b"<html>Forbidden</html>"),
    "404": Answer(
        meaning=NotFound, status=404, body=status(404, "not found", "NotFound", name="nightly", kind="dbtruns")
    ),
    "404 of a namespace": Answer(
        meaning=NotInstalled, status=404, body=status(404, "not found", "NotFound", name="team", kind="namespaces")
    ),
    "404 of a server without the CRD": Answer(
        meaning=NotInstalled, status=404, body=b"404 page not found\n", headers={"Audit-Id": "7"}
    ),
    "404 of a proxy": Answer(meaning=Unreachable, status=404, body=b"404 page not found\n"),
    "409 of a name": Answer(meaning=AlreadyExists, status=409, body=status(409, "exists", "AlreadyExists")),
    "409 of a version": Answer(meaning=Conflict, status=409, body=status(409, "modified", "Conflict")),
    "409 of a proxy": Answer(meaning=Unreachable, status=409, body=b"{}"),
    "410": Answer(meaning=Expired, listed=Unreachable, status=410, body=status(410, "too old", "Expired")),
    "413 of a proxy": Answer(meaning=Unreachable, status=413, body=b"<html>Too large</html>"),
    "422": Answer(meaning=Rejected, status=422, body=status(422, "spec.job: Required value", "Invalid")),
    "429 with a header": Answer(
        meaning=Unreachable, status=429, body=b"Too many requests", headers={"Retry-After": "7"}, retry_after=7.0
    ),
    "429 with details": Answer(
        meaning=Unreachable, status=429, body=status(429, "slow down", retryAfterSeconds=3), retry_after=3.0
    ),
    "429 for a year": Answer(
        meaning=Unreachable, status=429, body=b"", headers={"Retry-After": "31536000"}, retry_after=60.0
    ),
    "500": Answer(meaning=Unreachable, status=500, body=status(500, "etcd", "InternalError")),
    "502 of a proxy": Answer(meaning=Unreachable, status=502, body=b"<html>Bad gateway</html>"),
    "503 without a word": Answer(meaning=Unreachable, status=503),
    "504": Answer(meaning=Unreachable, status=504, body=status(504, "timeout", "Timeout")),
    "a connection that is reset": Answer(meaning=Unreachable, cut=True),
    "silence": Answer(meaning=Unreachable, silent=True),
}
