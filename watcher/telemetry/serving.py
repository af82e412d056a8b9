"""A small HTTP server for a few clients that need not be friendly: connections are few and short.

Each serves requests for some seconds and is then cut off, whatever it does: one that is idle, sends its headers byte by
byte or never ends its body holds nothing for long. For one connection too many, the oldest is closed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEADERS: Final = 16 * 1024
"""Bytes of a request's headers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the clients of one server may do together."""

    connections: int
    """At once; the oldest one is closed for one more."""
    seconds: float
    """From a connection's beginning to its end."""


def _bounded(limits: Limits) -> type[H11Protocol]:
    class Bounded(H11Protocol):
        """A connection that lasts for seconds, one of few: idle ones would use up the watcher's file descriptors."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            # abort, not close: close first sends what is buffered, for as long as the client does not read it.
            self.until = self.loop.call_later(limits.seconds, transport.abort)
            while len(self.connections) > limits.connections:
                oldest = min(cast("set[Bounded]", self.connections), key=lambda connection: connection.until.when())
                # abort calls connection_lost only in the next round of the loop, so this loop would find the same
                # connection again.
                self.connections.discard(oldest)
                oldest.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self.until.cancel()
            super().connection_lost(exc)

    return Bounded


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has one owner of its signals."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def serve(app: ASGIApp, listener: socket.socket, limits: Limits) -> None:
    """Serves on the socket until cancelled."""
    server = _Server(
        uvicorn.Config(
            app,
            http=_bounded(limits),
            ws="none",
            log_config=None,
            lifespan="off",
            access_log=False,
            h11_max_incomplete_event_size=MAX_HEADERS,
        )
    )
    # A task of its own: if serve() itself is cancelled, uvicorn skips its shutdown and leaves the connections open.
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        server.should_exit = True
        await task
        raise
