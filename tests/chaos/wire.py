"""The simulator without a socket: requests and replies pass in memory, so a test's time can jump over every wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from watcher.dbtcloud.channel import MAX_FILE

MOST: Final = MAX_FILE + 1024 * 1024
"""Bytes of a reply: no client reads on after the greatest file, and what it does not read is not kept in memory."""


class Wire(httpx.AsyncBaseTransport):
    """Calls the application as a server would: a request that arrived is served even if its sender gives up or dies."""

    def __init__(self, app: ASGIApp, others: Mapping[str, ASGIApp] | None = None) -> None:
        """`others`: what answers in place of it under other host names."""
        self._others = others or {}
        self.error: httpx.TransportError | None = None
        """What becomes of every request now, instead of an answer."""
        self.away: set[str] = set()
        """Hosts to which nothing connects."""
        self._app = app
        self._serving: set[asyncio.Task[httpx.Response]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.error is not None:
            raise self.error
        if request.url.host in self.away:
            raise httpx.ConnectError("no such host")
        cut = asyncio.Event()
        serving = asyncio.create_task(self._serve(request, cut))
        self._serving.add(serving)
        serving.add_done_callback(self._done)
        dropped = asyncio.create_task(cut.wait())
        try:
            await asyncio.wait({serving, dropped}, return_when=asyncio.FIRST_COMPLETED)
            if cut.is_set():
                raise httpx.RemoteProtocolError("The connection was closed without a reply.")
            return serving.result()
        finally:
            dropped.cancel()

    def _done(self, serving: asyncio.Task[httpx.Response]) -> None:
        self._serving.discard(serving)
        if not serving.cancelled():
            serving.exception()

    async def _serve(self, request: httpx.Request, cut: asyncio.Event) -> httpx.Response:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            sent = 0

            async def bounded(message: MutableMapping[str, Any]) -> None:
                nonlocal sent
                sent += len(message.get("body", b""))
                await send({**message, "body": b""} if sent > MOST else message)

            async def connected() -> MutableMapping[str, Any]:
                """A connection that was cut says so; one that hangs says nothing."""
                if cut.is_set():
                    return {"type": "http.disconnect"}
                return await receive()

            await answering({**scope, "state": {"abort": cut.set}}, connected, bounded)

        answering = self._others.get(request.url.host, self._app)
        transport = httpx.ASGITransport(app=app)
        response = await transport.handle_async_request(request)
        return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())
