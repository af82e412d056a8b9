"""The simulator on a socket: http, or https with a CA of its own."""

from __future__ import annotations

import contextlib
import socket
import ssl
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import trustme
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from watcher.simulator.control import Control
from watcher.simulator.faults import json_response
from watcher.simulator.routes import Api
from watcher.simulator.wire import SERVER_ERROR, not_found

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from watcher.simulator.state import Simulator

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def application(simulator: Simulator, *, remote_control: bool = False) -> ASGIApp:
    """The API and the control surface as one ASGI application."""

    def failure(_request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        if code == 404:
            return json_response(not_found().body, code)
        detail = f'Method "{_request.method}" not allowed.' if code == 405 else SERVER_ERROR
        return json_response(
            {"detail": detail}, code, {"Date": formatdate(simulator.clock.stamp(simulator.clock.now()))}
        )

    inner = Starlette(
        routes=[Route("/", _front), *Api(simulator).routes, *Control(simulator, remote=remote_control).routes],
        exception_handlers={HTTPException: failure, Exception: failure},
    )
    # Starlette would redirect the form that it does not know. Each start would be two requests.
    inner.router.redirect_slashes = False

    async def slashless(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # Faults are matched against the path as the client sent it.
            scope["original_path"] = scope["path"]
            scope["path"] = scope["path"].rstrip("/") or "/"
        await inner(scope, receive, send)

    return slashless


async def _front(_request: Request) -> Response:
    """The front page: Airflow's connection test asks for nothing else."""
    return HTMLResponse("<!DOCTYPE html><html><head><title>dbt Cloud simulator</title></head></html>")


class AbortableProtocol(H11Protocol):
    """Lets the application tear its connection down: a lost reply cannot be said in ASGI."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Lets the application abort the connection."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}


class Server(uvicorn.Server):
    """A server that says when it is ready and leaves the signals to its caller."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; then says that it is ready."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Clients that still wait (a hang, a slow body) are cut off, because they would delay the shutdown."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, AbortableProtocol):
                connection.transport.abort()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none: the caller handles signals."""
        yield


def make_server(app: ASGIApp, tls: ssl.SSLContext | None, ready: Callable[[], object]) -> Server:
    """A server of the application that writes no log of its own."""
    options: dict[str, Any] = {"ssl_context_factory": lambda _config, _default: tls} if tls else {}
    config = uvicorn.Config(
        app,
        http=AbortableProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
        **options,
    )
    return Server(config, ready)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    :raises OSError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio does not switch Nagle's algorithm off and every reply takes 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


def certificate(directory: Path, names: tuple[str, ...]) -> tuple[ssl.SSLContext, Path]:
    """A server context and the path of the CA that clients must trust. A CA that is there already is kept."""
    directory.mkdir(parents=True, exist_ok=True)
    ca_file, key_file = directory / "ca.pem", directory / "ca.key"
    if ca_file.exists() and key_file.exists():
        authority = trustme.CA.from_pem(ca_file.read_bytes(), key_file.read_bytes())
    else:
        authority = trustme.CA()
        # Before there is anything to read: a file that is written first has the umask's rights for a moment.
        key_file.touch(mode=0o600)
        key_file.write_bytes(authority.private_key_pem.bytes())
        ca_file.write_bytes(authority.cert_pem.bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*dict.fromkeys((*LOCAL_NAMES, *names))).configure_cert(context)
    return context, ca_file
