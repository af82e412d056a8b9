"""The connection to the Kubernetes API.

Nothing is read unless it was named: neither `~/.kube/config` nor KUBECONFIG, for a triggerer serves many people. Every
request has an end.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
from kubernetes_asyncio import client
from kubernetes_asyncio.config import ConfigException
from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
from kubernetes_asyncio.config.kube_config import load_kube_config

from airflow_trigger.cluster import REQUEST_SECONDS, SERVICE_ACCOUNT, Misconfigured, Unreachable, failure, short

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Self

    from airflow_trigger.cluster import ClusterConfig

CONNECT_SECONDS: Final = 10.0
MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of one answer. A page of a list holds 100 objects, of a few kB each."""
MAX_FAILURE: Final = 1024 * 1024
REQUESTS_AT_ONCE: Final = 4
"""Single requests in flight per cluster: a restarted triggerer must not flood the API server, and each TLS connection
costs a buffer of 256 kB."""


async def load(config: ClusterConfig) -> client.Configuration:
    """The client's configuration, read from the files anew.

    Raises:
        Misconfigured: they are missing or not what they should be.
    """
    try:
        if config.config_file:
            return await _kubeconfig(config.config_file, config.context)
        return in_cluster()
    except Misconfigured:
        raise
    except Exception as error:  # whatever a malformed kubeconfig makes its reader raise
        raise Misconfigured(f"Kubeconfig {config.config_file} cannot be used: {short(str(error))}") from error


async def _kubeconfig(path: str, context: str | None) -> client.Configuration:
    if not await asyncio.to_thread(lambda: Path(path).expanduser().is_file()):
        raise Misconfigured(f"Kubeconfig {path} does not exist: correct config_file or mount the file here")
    configuration = client.Configuration()
    await load_kube_config(path, context, configuration, persist_config=False)
    return configuration


def in_cluster(folder: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ) -> client.Configuration:
    """Access as the pod's own ServiceAccount; a rotated token is read again.

    Raises:
        Misconfigured: this is not a pod with a ServiceAccount.
    """
    configuration = client.Configuration()
    loader = InClusterConfigLoader(str(folder / "token"), str(folder / "ca.crt"), environ=dict(environ))
    try:
        loader.load_and_set(configuration)
    except ConfigException as error:
        raise Misconfigured(
            f"No access to Kubernetes: this is not a pod with a ServiceAccount ({short(str(error)).rstrip('.')}) and "
            "no config_file was given; name a kubeconfig with config_file (the default ones are never read)"
        ) from None
    return configuration


class Cluster:
    """One API server and one connection pool, for one event loop."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._client: client.ApiClient | None = None
        self._loading = asyncio.Lock()
        self._slots = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> bytes:
        """One request, within REQUEST_SECONDS. `body` is sent as JSON, as a merge patch for PATCH.

        Raises:
            ClusterError: the kind says what can be done about it.
        """
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        async with self._slots, self._answer(method, path, query, body, timeout) as answer:
            return await _read(answer, MAX_ANSWER)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], silence_seconds: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """A GET whose answer has no end; it raises Unreachable after `silence_seconds` without a byte.

        Raises:
            ClusterError: the kind says what can be done about it.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence_seconds)
        async with self._answer("GET", path, query, None, timeout) as answer:
            yield answer.content

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        if self._client is not None:
            closing, self._client = self._client, None
            await closing.close()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, query: Mapping[str, str] | None, body: object, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            answer = await self._send(method, path, query, body, timeout)
            async with answer:
                if not answer.ok:
                    raise failure(answer.status, await _read(answer, MAX_FAILURE), answer.headers)
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{type(error).__name__}: {short(str(error))}" if str(error) else "no answer") from error

    async def _send(
        self, method: str, path: str, query: Mapping[str, str] | None, body: object, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        client = await self._connected()
        answer = await _call(client, method, path, query, body, timeout)
        if answer.status != 401:
            return answer
        # Rotated credentials are in the files already; only the second refusal is one.
        answer.release()
        await self._renew(client)
        return await _call(await self._connected(), method, path, query, body, timeout)

    async def _connected(self) -> client.ApiClient:
        async with self._loading:
            if self._client is None:
                self._client = _new_client(await load(self._config))
            return self._client

    async def _renew(self, stale: client.ApiClient) -> None:
        if self._client is stale:
            await self.close()


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, decompressed as it comes and no further than allowed."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise Unreachable(f"the answer is longer than {limit} bytes")
    return bytes(body)


def _new_client(configuration: client.Configuration) -> client.ApiClient:
    # Unlimited: watches keep a connection each; single requests have their own bound.
    configuration.connection_pool_maxsize = 0
    api = client.ApiClient(configuration)
    # Else aiohttp looks for a netrc file in a thread before each request. There is no public way.
    api.rest_client.pool_manager._trust_env = False
    return api


async def _call(
    api: client.ApiClient,
    method: str,
    path: str,
    query: Mapping[str, str] | None,
    body: object,
    timeout: aiohttp.ClientTimeout,
) -> aiohttp.ClientResponse:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    answer: aiohttp.ClientResponse = await api.call_api(
        path,
        method,
        query_params=list((query or {}).items()),
        header_params={"Accept": "application/json", "Content-Type": kind},
        body=body,
        auth_settings=["BearerToken"],
        _preload_content=False,
        _request_timeout=timeout,
    )
    return answer
