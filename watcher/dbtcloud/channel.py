"""HTTP to one account of dbt Cloud: one request, one bounded reply, never repeated, never redirected."""

from __future__ import annotations

import asyncio
import functools
import http.cookiejar
import math
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

import httpx
import msgspec

from dbtrun.connection.secret import MASK, Connection
from dbtrun.text import clean
from watcher.clock import Clock, clock_offset
from watcher.dbtcloud import wire
from watcher.dbtcloud.budget import Budget, Priority, Share
from watcher.dbtcloud.errors import COOL_DOWN, DbtCloudError, ServerFault, TooLarge, Unauthorized, Unreachable
from watcher.dbtcloud.intake import Body, Intake
from watcher.dbtcloud.refusal import Refusal
from watcher.dbtcloud.replies import Received
from watcher.dbtcloud.requests import Observe, Sent, fault_of, kind_of, outcome_of, purpose_of
from watcher.dbtcloud.turns import PacedBackend
from watcher.version import version

CONNECT_SECONDS: Final = 10.0
"""For the name, the connection and TLS; a host that takes longer is taken for gone."""
READ_SECONDS: Final = 25.0
"""Between two pieces of a reply; a list of 100 runs takes dbt Cloud a few seconds."""
TOTAL_SECONDS: Final = 30.0
"""For connecting, asking and reading to the end, so that a reply that drips cannot hold a poll for ever."""
MAX_FILE: Final = 32 * 1024 * 1024
"""Bytes of an artifact. The largest that we ask for is the run_results.json of a big project."""
MAX_BODY: Final = 8 * 1024 * 1024
"""Bytes of any other reply. The largest is a run with the logs of its steps."""
MAX_PAGE: Final = 4 * 1024 * 1024
"""Bytes of a page of a list: 40 kB for each of a hundred runs, of which real ones need a tenth."""
DEAR: Final = 512 * 1024
"""Bytes of a reply that cost as much as one more request: else a connection could keep the processor busy with few."""
MAX_REFUSAL: Final = 64 * 1024
"""Bytes read of an error; what follows is not looked at."""
MAX_PIECES: Final = 4_096
"""Pieces in which a reply may come, besides one for each kilobyte: each costs the event loop some time."""
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
TIMEOUTS: Final[dict[type[Exception], str]] = {
    httpx.ConnectTimeout: f"no connection within {CONNECT_SECONDS:.0f} seconds",
    httpx.ReadTimeout: f"nothing came back within {READ_SECONDS:.0f} seconds",
}
PROTOCOL_WORDS: Final = ("Server disconnected", "peer closed connection", "Connection closed")
"""How the faults of HTTP begin that quote nothing of the reply."""
NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
"""Faults before the request's first byte: the connection, TLS and a proxy's tunnel come before it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list."""

    received: Received
    items: list[T]
    filters: frozenset[str]
    """Of the filters that matter here, those that dbt Cloud says it applied."""
    more: bool
    total: int | None = None
    """Items of the whole list, if dbt Cloud says so."""


class Channel:
    """Sends requests with one connection's token."""

    def __init__(
        self,
        connection: Connection,
        budget: Budget | Share | None,
        transport: httpx.AsyncBaseTransport | None,
        clock: Clock,
        total_seconds: float = TOTAL_SECONDS,
        intake: Intake | None = None,
        heard: Callable[[int], object] = lambda _status: None,
        observe: Observe = lambda _sent: None,
    ) -> None:
        self.connection = connection
        self._heard = heard
        self._observe = observe
        self._budget = budget
        self._clock = clock
        self._total_seconds = total_seconds
        self._intake = intake or Intake()
        self._others = asyncio.Semaphore(MAX_CONNECTIONS - FOR_POLLS)
        self._files = asyncio.Semaphore(1)
        self._refusal = Refusal()
        self.polled_at = -math.inf
        """Monotonic seconds at which a poll's request last came to an end, whichever: a list may take many."""
        self.answered = False
        """Whether dbt Cloud has answered: a success that could be read, not the web page of somebody else's host."""
        self._http = httpx.AsyncClient(
            base_url=connection.base_url,
            headers={
                "Authorization": f"Token {connection.token.reveal()}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"dbtrun/{version()}",
            },
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS),
            # Observed: dbt Cloud redirects a path without its last slash, and a redirected POST becomes a GET. Another
            # host would also get the token.
            follow_redirects=False,
            verify=_trust(connection.ca) if connection.tls else False,
            # Clusters behind a proxy name it in HTTPS_PROXY; the simulator on this machine is never behind it.
            trust_env=not connection.loopback,
            # No cookie is kept: nothing needs one, and a hostile host could fill the memory with them.
            cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
            transport=transport,
        )
        # What comes from the network is read in turns. httpx has no public way to choose httpcore's network.
        for way in (self._http._transport, *self._http._mounts.values()):
            if isinstance(way, httpx.AsyncHTTPTransport) and transport is None:
                way._pool._network_backend = PacedBackend(way._pool._network_backend, self._intake.turns, self)

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

        def read(received: Received) -> Page[T]:
            reply = received.data(decoder)
            items = len(reply.data)
            if items > PAGE_SIZE:
                raise ServerFault(f"{received.request} answered with {items:,} items where {PAGE_SIZE} were asked for")
            seen = int(params.get("offset", 0)) + items
            # The OpenAPI description does not promise `total_count`. Without it, a full page may not be the last.
            more = seen < reply.total if reply.total is not None else items >= PAGE_SIZE
            # What is kept of the reply is when and how it came, not its bytes.
            told = replace(received, body=b"")
            return Page(told, reply.data, reply.filters, more=more and items > 0, total=reply.total)

        return await self.exchange("GET", path, priority, read, params, version=version, limit=MAX_PAGE)

    async def file(self, path: str, params: Mapping[str, str], limit: int, read: Callable[[Received], T]) -> T:
        """An artifact, one at a time: several large ones would fill the memory together."""
        async with self._files:
            return await self.exchange("GET", path, Priority.DETAILS, read, params, limit=limit)

    async def exchange(
        self,
        method: str,
        path: str,
        priority: Priority | None,
        read: Callable[[Received], T],
        params: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        version: str = "v2",
        limit: int = MAX_BODY,
    ) -> T:
        """One request and what `read` makes of its whole reply, whatever its status.

        Args:
            read: pure; for a large reply it runs in a thread. What it raises comes out here.

        Raises:
            TooLarge: the reply has more than `limit` bytes.
            DbtCloudError: there is no reply, or none that can be read to its end.
        """
        url = f"/api/{version}/accounts/{self.connection.account_id}/{path}"
        request = _Request(kind_of(method, path), method, url, params, body)
        name = f"{method} /{path} at {self.connection.host}"
        with self._refusal.passed(self._clock().mono):
            if self._budget is not None and priority is not None:
                await self._budget.spend(priority)
            # It may have been closed while the request waited for its turn. httpx would raise a RuntimeError.
            if self._http.is_closed:
                raise Unreachable(f"{name} was not sent: the connection is closed", not_sent=True)
            with self._intake.body(self) as reply:
                received = await self._timed(request, name, priority, reply, limit)
                # A 429 pauses the account for everybody, a 401 this connection alone.
                self._heard(received.status)
                error = received.error() if received.status in (401, 429) else None
                self._refusal.heard(error if isinstance(error, Unauthorized) else None, self._clock())
                if self._budget is not None and error is not None and received.status == 429:
                    self._budget.pause(error.retry_after or COOL_DOWN)
                if self._budget is not None and limit <= MAX_BODY and len(reply.content) >= DEAR:
                    self._budget.charge(len(reply.content) // DEAR)
                told = await self._intake.decode(reply, functools.partial(read, received))
                self.answered = self.answered or 200 <= received.status < 300
                return told

    async def _timed(
        self, request: _Request, name: str, priority: Priority | None, reply: Body, limit: int
    ) -> Received:
        """As `_ask`, and counts how long it took and how it ended."""
        began = self._clock().mono

        def tell(outcome: str) -> None:
            self._observe(Sent(request.kind, outcome, purpose_of(priority), self._clock().mono - began))

        try:
            received = await self._ask(request, name, priority, reply, limit)
        except DbtCloudError as error:
            tell(fault_of(error))
            raise
        tell(outcome_of(received.status))
        return received

    async def _ask(self, request: _Request, name: str, priority: Priority | None, reply: Body, limit: int) -> Received:
        sent, waiting = self._clock(), True
        try:
            place = nullcontext() if priority is Priority.POLL else self._others  # polls have connections of their own
            async with asyncio.timeout(self._total_seconds) as deadline, place:
                waiting = False
                reply.give_up = functools.partial(deadline.reschedule, 0.0)
                async with self._http.stream(
                    request.method, request.url, params=request.params, json=request.body
                ) as response:
                    answered = self._clock()
                    await self._read(response, reply, name, limit)
        except TimeoutError:
            words = f"{name} was not answered within {self._total_seconds:g} seconds"
            raise Unreachable(words, not_sent=waiting) from None
        except (httpx.HTTPError, ssl.SSLError) as error:
            # h11 quotes a header that it finds illegal, and one of them has the token.
            words = clean(_words(error).replace(self.connection.token.reveal(), MASK), MAX_WORDS)
            raise Unreachable(f"{name} failed: {words}", not_sent=isinstance(error, NOT_SENT)) from None
        finally:
            if priority is Priority.POLL:
                self.polled_at = self._clock().mono
        return Received(
            request=name,
            status=response.status_code,
            headers=response.headers,
            body=reply.content,
            sent=sent,
            clock_offset=clock_offset(response.headers.get("date"), sent.wall, answered.wall),
            token=self.connection.token,
        )

    async def _read(self, response: httpx.Response, reply: Body, name: str, limit: int) -> None:
        """The body up to `limit` bytes, as it is on the wire: a few compressed bytes can stand for gigabytes."""
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
            raise ServerFault(f"{name} was answered with a compressed body, which was not asked for")
        async for piece in response.aiter_bytes():
            if not response.is_success and len(reply.content) + len(piece) > MAX_REFUSAL:
                return
            if len(reply.content) + len(piece) > limit:
                raise TooLarge(f"{name} was answered with more than {limit:,} bytes")
            await self._intake.add(reply, piece)
            if reply.pieces > MAX_PIECES + len(reply.content) // 1024:
                raise ServerFault(f"{name} was answered in too many pieces")


def _words(error: Exception) -> str:
    """What went wrong, without anything of the reply: it may be of somebody who is not dbt Cloud."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or type(error).__name__})"
    if isinstance(error, httpx.ProtocolError) and not str(error).startswith(PROTOCOL_WORDS):
        return "the reply is not valid HTTP"
    return TIMEOUTS.get(type(error)) or str(error) or type(error).__name__


@dataclass(frozen=True, slots=True)
class _Request:
    kind: str
    method: str
    url: str
    params: Mapping[str, str] | None
    body: Mapping[str, Any] | None


@functools.lru_cache(maxsize=16)
def _trust(ca: str | None) -> ssl.SSLContext:
    """Loading the usual certificates takes milliseconds of the loop: once is enough."""
    return httpx.create_ssl_context() if ca is None else ssl.create_default_context(cadata=ca)
