"""The small HTTP server for probes and metrics: /healthz, /readyz, /metrics.

It runs in the loop of all parts, so a probe times out when that loop is blocked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, NamedTuple, cast

import uvicorn
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from watcher.telemetry.metrics import Metrics
from watcher.telemetry.vitals import Vitals

MAX_CONNECTIONS: Final = 32
"""At once; the oldest one is closed for one more. Probes and scrapes need a handful."""
CONNECTION_SECONDS: Final = 10.0
"""From a connection's beginning to its end: twice as long as the chart's probes wait."""
MAX_HEADERS: Final = 16 * 1024
"""Bytes of a request's headers."""


class Checks(NamedTuple):
    """What the two probes ask."""

    vitals: Vitals
    ready: Callable[[], str | None]
    """None, or one sentence that says what is missing."""
    notes: Callable[[], str | None] = lambda: None
    """What a ready watcher does not do, in sentences."""


def health_app(checks: Checks, metrics: Metrics) -> Starlette:
    """The three pages as an ASGI app."""

    async def alive(_: Request) -> Response:
        late = checks.vitals.late()
        silent = {part.name: round(seconds, 1) for part, seconds in checks.vitals}
        return JSONResponse({"late": late, "silentSeconds": silent}, status_code=503 if late else 200)

    async def ready(_: Request) -> Response:
        missing = checks.ready()
        if missing is not None:
            return PlainTextResponse(missing, status_code=503)
        notes = checks.notes()
        return PlainTextResponse("ok" if notes is None else f"ok\n{notes}")

    async def page(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", alive), Route("/readyz", ready), Route("/metrics", page)])


class _Bounded(H11Protocol):
    """A connection that lasts for seconds, one of few: idle ones would use up the watcher's file descriptors."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.until = self.loop.call_later(CONNECTION_SECONDS, transport.abort)
        while len(self.connections) > MAX_CONNECTIONS:
            oldest = min(cast("set[_Bounded]", self.connections), key=lambda connection: connection.until.when())
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.until.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has one owner of its signals."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def serve(app: Starlette, listener: socket.socket) -> None:
    """Serves on the socket until cancelled."""
    server = _Server(
        uvicorn.Config(
            app,
            http=_Bounded,
            ws="none",
            log_config=None,
            lifespan="off",
            access_log=False,
            h11_max_incomplete_event_size=MAX_HEADERS,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        server.should_exit = True
        await task
        raise
