"""One API server: requests with an end, a few at once, with credentials that are renewed."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from dbtrun.kube.answers import JSON
from dbtrun.kube.config import Timeouts
from dbtrun.kube.errors import Misconfigured, TooLarge, Unreachable, failure, short
from dbtrun.kube.library import ApiClient, Configuration, config
from dbtrun.kube.turns import Turns, Urgency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Self

    from dbtrun.kube.credentials import Credentials

USER_AGENT: Final = "dbtrun"
"""Who we are in audit logs and, as the API server takes it from here, in every object's managedFields."""
MERGE_PATCH: Final = "application/merge-patch+json"
AT_ONCE: Final = 16
"""Requests under way. The API server gets no faster by more, and each one more makes the others slower."""
MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of one answer. A list comes in pages of a few MB."""
MAX_FAILURE: Final = 1024 * 1024
RENEW_SECONDS: Final = 1.0
"""Between two renewals of refused credentials: a kubeconfig may start a plugin for each."""
LISTS_AT_ONCE: Final = 4
"""Lists under way, besides those."""
OF_NAMESPACE: Final = re.compile(r"/namespaces/([^/]+)/")
"""The namespace in a path: namespaces take turns."""
OF_CLIENT: Final = ("host", "ssl_ca_cert", "verify_ssl", "proxy", "tls_server_name")
"""Settings that need a new client if they change; a token does not."""


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    query: Mapping[str, str | int] | None
    body: object
    accept: str
    timeout: aiohttp.ClientTimeout


class Cluster:
    """One API server and one connection pool, for one event loop. Opened by its first request, closed by `close`.

    Args:
        credentials: read first, and whenever they are refused.
        at_once: requests under way; the others wait for their turn. Lists have turns of their own; a stream takes none.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        timeouts: Timeouts | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self._credentials = credentials
        self._client: ApiClient | None = None
        self._loading = asyncio.Lock()
        self._renewals = 0
        self._renew_at = 0.0
        self._turns, self._lists = Turns(at_once), Turns(LISTS_AT_ONCE)
        self._timeout = aiohttp.ClientTimeout(
            total=self.timeouts.total, connect=self.timeouts.connect, sock_connect=self.timeouts.connect
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.host!r})"

    @property
    def host(self) -> str:
        """The API server's address; empty before the first request."""
        return "" if self._client is None else str(self._client.configuration.host)

    @property
    def credentials(self) -> Credentials:
        """Where its address and the identity are written down."""
        return self._credentials

    async def open(self) -> None:
        """Reads the configuration now, not with the first request.

        Raises:
            Misconfigured: it cannot be used.
        """
        await self._opened()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: object = None,
        accept: str = JSON,
        urgency: Urgency | None = Urgency.OTHER,
    ) -> bytes:
        """One request, its answer's body undecoded. `body` is sent as JSON, as a merge patch for PATCH.

        Args:
            urgency: None: it waits for no other. Time-outs count from when it is sent.

        Raises:
            KubeError: the kind says what can be done about it.
        """
        asked = _Request(method, path, query, body, accept, self._timeout)
        if urgency is None:
            return await self._whole(asked)
        found = OF_NAMESPACE.search(path)
        turns = self._lists if urgency is Urgency.LIST else self._turns
        async with turns.turn(urgency, found[1] if found else ""):
            return await self._whole(asked)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str | int], silence_seconds: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """A GET whose answer has no end; it raises Unreachable after `silence_seconds` without a byte.

        Raises:
            KubeError: the kind says what can be done about it.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self.timeouts.connect, sock_read=silence_seconds)
        async with self._answer(_Request("GET", path, query, None, JSON, timeout)) as answer:
            yield answer.content

    def heard(self, date: str | None, sent: float, received: float) -> None:
        """A reply came, with this Date header; the others are the monotonic seconds of its request and its arrival."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        if self._client is not None:
            closing, self._client = self._client, None
            await closing.close()

    async def _whole(self, asked: _Request) -> bytes:
        async with self._answer(asked) as answer:
            return await _body(answer, MAX_ANSWER)

    @asynccontextmanager
    async def _answer(self, asked: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            client, renewals = await self._opened(), self._renewals
            answer = await self._call(client, asked)
            # Rotated credentials are in the files already; only the second refusal is one.
            if answer.status == 401 and await self._renewed(client, renewals):
                answer.release()
                answer = await self._call(await self._opened(), asked)
            async with answer:
                if not answer.ok:
                    raise failure(answer.status, await _body(answer, MAX_FAILURE), answer.headers)
                yield answer
        except (aiohttp.ClientError, config.ConfigException, OSError) as error:  # a TimeoutError is an OSError
            words = f": {short(str(error))}" if str(error) else ""
            raise Unreachable(f"No answer from {self.host}: {type(error).__name__}{words}") from error

    async def _call(self, client: ApiClient, asked: _Request) -> aiohttp.ClientResponse:
        sent = time.monotonic()
        content = MERGE_PATCH if asked.method == "PATCH" else JSON
        headers = {**client.default_headers, "Accept": asked.accept, "Content-Type": content}
        await client.update_params_for_auth(headers, [], ["BearerToken"])
        # Not `call_api`, which copies the whole body once more in Python: a fifth of the time of a small request. Not
        # preloaded: the library would write whole bodies, Secrets among them, into a debug log.
        answer: aiohttp.ClientResponse = await client.rest_client.request(
            asked.method,
            f"{client.configuration.host}{asked.path}",
            query_params=dict(asked.query or {}),
            headers=headers,
            body=asked.body,
            _preload_content=False,
            _request_timeout=asked.timeout,
        )
        self.heard(answer.headers.get("Date"), sent, time.monotonic())
        return answer

    async def _opened(self) -> ApiClient:
        if self._client is None:
            async with self._loading:
                if self._client is None:
                    self._client = self._made(await self._credentials.read())
        return self._client

    def _made(self, configuration: Configuration) -> ApiClient:
        try:
            return _client(configuration)
        except OSError as error:  # an SSLError is one
            raise Misconfigured(
                f"The {self._credentials.where} cannot be used: it holds an invalid certificate or key."
            ) from error

    async def _renewed(self, client: ApiClient, renewals: int) -> bool:
        """Whether the credentials are others than those of a request that `client` sent after so many renewals.

        Requests that are refused together share one renewal.
        """
        async with self._loading:
            if self._renewals != renewals or self._client is not client:
                return True
            now = time.monotonic()
            if now < self._renew_at:
                return False
            self._renew_at = now + RENEW_SECONDS
            fresh = await self._credentials.read()
            self._renewals += 1
            old = client.configuration
            certified = old.cert_file or fresh.cert_file  # a client reads its certificate when it is made
            if not certified and all(getattr(old, each) == getattr(fresh, each) for each in OF_CLIENT):
                # Only the token is another: requests and watches that are under way go on.
                old.api_key = fresh.api_key
                return True
            self._client = self._made(fresh)
            await client.close()
            return True


def _client(configuration: Configuration) -> ApiClient:
    # Unlimited: watches keep a connection each; single requests have their own bound.
    configuration.connection_pool_maxsize = 0
    client = ApiClient(configuration)
    client.user_agent = USER_AGENT
    # kubernetes_asyncio trusts the environment, which costs a look-up of ~/.netrc in a thread on every request. There
    # is no public way to turn it off.
    client.rest_client.pool_manager._trust_env = False
    return client


async def _body(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, decompressed as it comes and no further than allowed."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"the answer is longer than {limit} bytes")
    return bytes(body)
