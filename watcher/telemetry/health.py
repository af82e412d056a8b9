"""The small HTTP server for probes and metrics: /healthz, /readyz, /metrics."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import NamedTuple

import uvicorn
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from watcher.telemetry.metrics import Metrics

Check = Callable[[], str | None]
"""None: all is well. Else one sentence that says what is not."""


class Checks(NamedTuple):
    """What the two probes ask."""

    alive: Check
    ready: Check


def health_app(checks: Checks, metrics: Metrics) -> Starlette:
    """The three pages as an ASGI app."""

    def probe(check: Check) -> Route:
        async def answer(_: Request) -> Response:
            wrong = check()
            return PlainTextResponse(wrong or "ok", status_code=200 if wrong is None else 503)

        return Route("/healthz" if check is checks.alive else "/readyz", answer)

    async def page(_: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[probe(checks.alive), probe(checks.ready), Route("/metrics", page)])


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has one owner of its signals."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def serve(app: Starlette, listener: socket.socket) -> None:
    """Serves on the socket until cancelled."""
    server = _Server(uvicorn.Config(app, log_config=None, lifespan="off", access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        server.should_exit = True
        await task
        raise
