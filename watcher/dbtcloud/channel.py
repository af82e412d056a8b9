"""HTTP to one account of dbt Cloud: one request, one bounded reply, never repeated, never redirected."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import math
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import httpx
import msgspec

from watcher.clock import Clock, clock_offset
from watcher.dbtcloud import wire
from watcher.dbtcloud.budget import Budget, Priority
from watcher.dbtcloud.connection import MASK, Connection
from watcher.dbtcloud.errors import COOL_DOWN, DbtCloudError, ServerFault, TooLarge, Unreachable
from watcher.dbtcloud.replies import Received
from watcher.lifecycle.text import clean

CONNECT_SECONDS: Final = 10.0
"""For the name, the connection and TLS; a host that takes longer is taken for gone."""
READ_SECONDS: Final = 25.0
"""Between two pieces of a reply; a list of 100 runs takes dbt Cloud a few seconds."""
TOTAL_SECONDS: Final = 30.0
"""For connecting, asking and reading to the end, so that a reply that drips cannot hold a poll for ever."""
MAX_BODY: Final = 32 * 1024 * 1024
"""Bytes of a reply. The largest that we ask for is the run_results.json of a big project."""
MAX_CONNECTIONS: Final = 32
"""To one host at once."""
FOR_POLLS: Final = 8
"""Of these, never used by anything else: while starts or cancels hang, runs are followed on. A poller needs five."""
KEEPALIVE_SECONDS: Final = 30.0
"""An idle connection is kept past the feed's beat, and let go before a load balancer drops it."""
PAGE_SIZE: Final = 100
"""Items on a page: dbt Cloud's own maximum."""
MAX_WORDS: Final = 200
"""Characters of a fault's own words."""
TIMEOUTS: Final[dict[type[httpx.HTTPError], str]] = {
    httpx.ConnectTimeout: f"no connection within {CONNECT_SECONDS:.0f} seconds",
    httpx.ReadTimeout: f"nothing came back within {READ_SECONDS:.0f} seconds",
}
NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
"""Faults before the request's first byte: the connection, TLS and a proxy's tunnel come before it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list."""

    received: Received
    items: list[T]
    filters: Mapping[str, Any]
    more: bool
    total: int | None = None
    """Items of the whole list, if dbt Cloud says so."""


class Channel:
    """Sends requests with one connection's token."""

    def __init__(
        self,
        connection: Connection,
        budget: Budget | None,
        transport: httpx.AsyncBaseTransport | None,
        clock: Clock,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        self.connection = connection
        self._budget = budget
        self._clock = clock
        self._total_seconds = total_seconds
        self._others = asyncio.Semaphore(MAX_CONNECTIONS - FOR_POLLS)
        self.polled_at = -math.inf
        """Monotonic seconds at which a poll's request last came to an end, whichever: a list may take many."""
        self._http = httpx.AsyncClient(
            base_url=connection.base_url,
            headers={
                "Authorization": f"Token {connection.token.reveal()}",
                "Accept": "application/json",
                "User-Agent": f"dbtrun/{_version()}",
            },
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS),
            follow_redirects=False,
            verify=_trust(connection.ca) if connection.tls else False,
            # Clusters behind a proxy name it in HTTPS_PROXY; the simulator on this machine is never behind it.
            trust_env=not connection.loopback,
            transport=transport,
        )

    async def close(self) -> None:
        """Closes the connections; requests under way fail."""
        await self._http.aclose()

    async def pages(
        self,
        path: str,
        params: Mapping[str, str],
        decoder: msgspec.json.Decoder[wire.Reply[list[T]]],
        priority: Priority,
        version: str = "v2",
    ) -> AsyncIterator[Page[T]]:
        """A list, page by page, asked for only as far as it is read."""
        offset = 0
        while True:
            window = {"limit": str(PAGE_SIZE), "offset": str(offset)}
            page = await self.page(path, {**params, **window}, decoder, priority, version)
            yield page
            if not page.more:
                return
            offset += len(page.items)

    async def page(
        self,
        path: str,
        params: Mapping[str, str],
        decoder: msgspec.json.Decoder[wire.Reply[list[T]]],
        priority: Priority,
        version: str = "v2",
    ) -> Page[T]:
        """One page of a list; raises DbtCloudError."""
        received = await self.exchange("GET", path, priority, params, version=version)
        reply = received.data(decoder)
        seen = int(params.get("offset", 0)) + len(reply.data)
        more = seen < reply.total if reply.total is not None else len(reply.data) >= PAGE_SIZE
        return Page(received, reply.data, reply.filters, more=more and bool(reply.data), total=reply.total)

    async def exchange(
        self,
        method: str,
        path: str,
        priority: Priority | None,
        params: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        version: str = "v2",
        limit: int = MAX_BODY,
    ) -> Received:
        """One request and its whole reply, whatever its status.

        Raises:
            TooLarge: the reply has more than `limit` bytes.
            DbtCloudError: there is no reply, or none that can be read to its end.
        """
        if self._budget is not None and priority is not None:
            await self._budget.spend(priority)
        request = f"{method} /{path} at {self.connection.host}"
        if self._http.is_closed:
            raise Unreachable(f"{request} was not sent: the connection was given up", not_sent=True)
        url = f"/api/{version}/accounts/{self.connection.account_id}/{path}"
        sent, waiting = self._clock(), True
        try:
            async with asyncio.timeout(self._total_seconds), self._place(priority):
                waiting = False
                async with self._http.stream(method, url, params=params, json=body) as response:
                    answered = self._clock()
                    content = await _read(response, request, limit)
        except TimeoutError:
            words = f"{request} was not answered within {self._total_seconds:g} seconds"
            raise Unreachable(words, not_sent=waiting) from None
        except httpx.HTTPError as error:
            raise self._fault(error, request) from None
        finally:
            if priority is Priority.POLL:
                self.polled_at = self._clock().mono
        return self._noted(
            Received(
                request=request,
                status=response.status_code,
                headers=response.headers,
                body=content,
                sent=sent,
                clock_offset=clock_offset(response.headers.get("date"), sent.wall, answered.wall),
                token=self.connection.token,
            )
        )

    def _place(self, priority: Priority | None) -> AbstractAsyncContextManager[object]:
        """Among the connections: polls have their own."""
        return nullcontext() if priority is Priority.POLL else self._others

    def _noted(self, received: Received) -> Received:
        """A 429 pauses the account for everybody."""
        if self._budget is not None and received.status == 429:
            self._budget.pause(received.error().retry_after or COOL_DOWN)
        return received

    def _fault(self, error: httpx.HTTPError, request: str) -> DbtCloudError:
        if isinstance(error, httpx.DecodingError):
            return ServerFault(f"{request} was answered with a body that cannot be decompressed")
        words = TIMEOUTS.get(type(error)) or str(error) or type(error).__name__
        plain = clean(words.replace(self.connection.token.reveal(), MASK), MAX_WORDS)
        return Unreachable(f"{request} failed: {plain}", not_sent=isinstance(error, NOT_SENT))


async def _read(response: httpx.Response, request: str, limit: int) -> bytes:
    """The body, decompressed, up to `limit` bytes."""
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > limit:
            raise TooLarge(f"{request} was answered with more than {limit:,} bytes")
    return bytes(content)


@functools.cache
def _trust(ca: str | None) -> ssl.SSLContext:
    """Loading the usual certificates takes milliseconds of the loop: once is enough."""
    return httpx.create_ssl_context() if ca is None else ssl.create_default_context(cadata=ca)


def _version() -> str:
    try:
        return importlib.metadata.version("dbtrun")
    except importlib.metadata.PackageNotFoundError:
        return "0"
