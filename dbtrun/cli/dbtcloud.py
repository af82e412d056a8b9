"""Requests to dbt Cloud from a user's machine: for `dbtrun doctor` and `dbtrun logs`. Nothing is sent twice."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp

from dbtrun.cli.words import ahead
from dbtrun.connection.secret import Connection
from dbtrun.text import one_line

REQUEST_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 10.0
MAX_BODY: Final = 8 * 1024 * 1024
MAX_WORDS: Final = 200


class Kind(StrEnum):
    """What came of a request."""

    ANSWERED = "answered"
    NO_SUCH_HOST = "no such host"
    NOT_CONNECTED = "not connected"
    BAD_CERTIFICATE = "bad certificate"
    NO_ANSWER = "no answer"
    CUT_OFF = "cut off"
    TOO_LARGE = "too large"
    REDIRECTED = "redirected"
    REFUSED_TOKEN = "refused token"  # noqa: S105 - the name of a kind
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not found"
    REJECTED = "rejected"
    RATE_LIMITED = "rate limited"
    SERVER_ERROR = "server error"
    NOT_DBT_CLOUD = "not dbt Cloud"
    WITHOUT_DATA = "without what was asked for"


BY_STATUS: Final = {
    HTTPStatus.UNAUTHORIZED: Kind.REFUSED_TOKEN,
    HTTPStatus.FORBIDDEN: Kind.FORBIDDEN,
    HTTPStatus.NOT_FOUND: Kind.NOT_FOUND,
    HTTPStatus.TOO_MANY_REQUESTS: Kind.RATE_LIMITED,
}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer, or why there is none."""

    kind: Kind
    words: str = ""
    """dbt Cloud's own, or those of the fault."""
    status: int = 0
    data: Any = None
    extra: Any = None
    seconds: float = 0.0
    offset: float | None = None
    """Seconds by which the clock of the server is ahead of this machine's."""

    @property
    def good(self) -> bool:
        """Whether dbt Cloud did what was asked."""
        return self.kind is Kind.ANSWERED

    def holding(self, shape: type[dict[str, Any]] | type[list[Any]]) -> Reply:
        """The reply; it counts as a fault if it reports success without data of this shape."""
        return replace(self, kind=Kind.WITHOUT_DATA) if self.good and not isinstance(self.data, shape) else self


class DbtCloud:
    """One account, as one token sees it. An async context manager.

    Args:
        connection: the account and the token.
        trusted: the certificates that are trusted if the connection names none; True: those of this machine.
    """

    def __init__(self, connection: Connection, trusted: ssl.SSLContext | bool = True) -> None:
        self._connection = connection
        trusted = ssl.create_default_context(cadata=connection.ca) if connection.ca else trusted
        self._connector_options: dict[str, Any] = {"ssl": trusted}
        self.requests = 0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(**self._connector_options),
            # The environment may name a proxy, which cannot reach this machine by its loopback address.
            trust_env=not self._connection.loopback,
            headers={"Authorization": f"Token {self._connection.token.reveal()}", "Accept": "application/json"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str = "", *, version: str = "v2", **params: str) -> Reply:
        """GET of something in the account."""
        return await self.ask("GET", path, params, version=version)

    async def ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        seconds: float | None = None,
        version: str = "v2",
    ) -> Reply:
        """One request, one reply; never raises for what the network or dbt Cloud does.

        Args:
            method: of HTTP.
            path: below the account.
            params: the query.
            body: sent as JSON.
            limit: bytes that are read of the answer; None: MAX_BODY.
            seconds: for the whole request; None: REQUEST_SECONDS.
            version: of the API.
        """
        self.requests += 1
        url = f"{self._connection.base_url}/api/{version}/accounts/{self._connection.account_id}/{path}"
        timeout = aiohttp.ClientTimeout(total=seconds or REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        began, now = time.monotonic(), datetime.now(UTC)
        try:
            # A redirect that is followed would carry the token to another host.
            answer = await self._session.request(
                method, url, params=params, json=body, allow_redirects=False, timeout=timeout
            )
            async with answer:
                content = await _content(answer.content, limit or MAX_BODY)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Reply(kind=_fault(error), words=one_line(str(error), MAX_WORDS), seconds=time.monotonic() - began)
        took = time.monotonic() - began
        offset = ahead(answer.headers.get("Date"), now, took)
        return read(answer.status, content, answer.headers, took, offset)


async def _content(stream: aiohttp.StreamReader, limit: int) -> bytes | None:
    """The body; None: it is longer than that."""
    content = bytearray()
    async for chunk in stream.iter_any():
        content += chunk
        if len(content) > limit:
            return None
    return bytes(content)


def read(status: int, content: bytes | None, headers: Mapping[str, str], seconds: float, offset: float | None) -> Reply:
    """What an answer means; content None: it is too large."""
    if content is None:
        return Reply(kind=Kind.TOO_LARGE, status=status, seconds=seconds, offset=offset)
    if 300 <= status < 400:
        words = one_line(headers.get("Location", ""), MAX_WORDS)
        return Reply(kind=Kind.REDIRECTED, words=words, status=status, seconds=seconds, offset=offset)
    try:
        decoded = json.loads(content)
    except (ValueError, RecursionError):
        decoded = None
    body = decoded if isinstance(decoded, dict) else {}
    envelope = body.get("status")
    said = envelope if isinstance(envelope, dict) else {}
    candidates = (said.get("user_message"), body.get("detail"), content[:MAX_WORDS].decode(errors="replace"))
    words = next((one for one in candidates if isinstance(one, str) and one), "")
    return Reply(
        kind=_kind(status, enveloped=bool(said)), words=one_line(words, MAX_WORDS), status=status,
        data=body.get("data"), extra=body.get("extra"), seconds=seconds, offset=offset,
    )  # fmt: skip


def _kind(status: int, *, enveloped: bool) -> Kind:
    if status >= 500:
        return Kind.SERVER_ERROR
    # A 404 without dbt Cloud's envelope is that of another server: the host is wrong, and not the number.
    if status in BY_STATUS and (enveloped or status != HTTPStatus.NOT_FOUND):
        return BY_STATUS[HTTPStatus(status)]
    if not enveloped:
        return Kind.NOT_DBT_CLOUD
    return Kind.ANSWERED if status < 300 else Kind.REJECTED


def _fault(error: Exception) -> Kind:
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
            return Kind.BAD_CERTIFICATE
        case aiohttp.ClientConnectorError(os_error=socket.gaierror()):
            return Kind.NO_SUCH_HOST
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return Kind.NOT_CONNECTED
        case TimeoutError():
            return Kind.NO_ANSWER
        case _:
            return Kind.CUT_OFF


async def pause(seconds: float) -> None:
    """Waits: the seam where tests put their own clock."""
    await asyncio.sleep(seconds)
