"""Access to the Kubernetes API for code that runs inside Airflow.

Nothing is read unless it was named: neither `~/.kube/config` nor KUBECONFIG, for a triggerer serves many people. Errors
are told apart by what a waiter can do about them, and every request has an end.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import msgspec
from kubernetes_asyncio import client
from kubernetes_asyncio.config import ConfigException
from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
from kubernetes_asyncio.config.kube_config import load_kube_config

from airflow_trigger.per_loop import PerLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 10.0
REQUESTS_AT_ONCE: Final = 16
"""Single requests in flight per cluster: a restarted triggerer must not flood the API server."""
MAX_SENTENCE: Final = 500


class ClusterError(Exception):
    """The API server did not do what was asked. The text is one sentence for people."""


class Denial(ClusterError):
    """It will not be done until somebody changes a permission, credentials, or what is installed."""


class Misconfigured(Denial):
    """The access that was named cannot be used."""


class NotPermitted(Denial):
    """401 or 403."""


class NotInstalled(Denial):
    """The API server does not know DbtRun, or the namespace."""


class NotFound(ClusterError):
    """There is no such object."""


class AlreadyExists(ClusterError):
    """409: somebody was first, or the version is stale."""


class Rejected(ClusterError):
    """The object breaks a rule of its schema: asking again cannot help."""


class Expired(ClusterError):
    """410: the version is too old to go on from."""


class Unreachable(ClusterError):
    """No usable answer: network, time-out, overload. Asking again is right.

    `retry_after` is the pause in seconds that the server asked for.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class ClusterConfig:
    """Which cluster, and as whom. Only names of files, no secrets, so that it may be stored with a trigger.

    Raises:
        ValueError: arguments that exclude each other.
    """

    in_cluster: bool | None = None
    config_file: str | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        if self.in_cluster and self.config_file:
            raise ValueError("in_cluster and config_file exclude each other: give one of them")
        if self.context and not self.config_file:
            raise ValueError("cluster_context needs config_file: contexts are in a kubeconfig")

    async def load(self) -> client.Configuration:
        """The client's configuration, read from the files anew.

        Raises:
            Misconfigured: they are missing or not what they should be.
        """
        try:
            if self.config_file:
                return await _kubeconfig(self.config_file, self.context)
            return in_cluster()
        except Misconfigured:
            raise
        except Exception as error:  # whatever a malformed kubeconfig makes its reader raise
            raise Misconfigured(f"Kubeconfig {self.config_file} cannot be used: {_short(str(error))}") from error


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
            f"No access to Kubernetes: this is not a pod with a ServiceAccount ({_short(str(error)).rstrip('.')}) and "
            "no config_file was given; name a kubeconfig with config_file (the default ones are never read)"
        ) from None
    return configuration


def own_namespace(folder: Path = SERVICE_ACCOUNT) -> str:
    """The pod's own namespace; outside of a pod `default`."""
    try:
        return (folder / "namespace").read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


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
            return await answer.read()

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
                    raise failure(answer.status, await answer.read(), answer.headers)
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{type(error).__name__}: {_short(str(error))}" if str(error) else "no answer") from error

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
                self._client = _new_client(await self._config.load())
            return self._client

    async def _renew(self, stale: client.ApiClient) -> None:
        if self._client is stale:
            await self.close()


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


class _Details(msgspec.Struct):
    name: str = ""
    kind: str = ""
    retry_after: float = msgspec.field(default=0.0, name="retryAfterSeconds")


class _Failure(msgspec.Struct):
    message: str = ""
    code: int = 0
    details: _Details = msgspec.field(default_factory=_Details)


def failure(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> ClusterError:
    """The error that an HTTP status and a Kubernetes `Status` body stand for."""
    try:
        said = msgspec.json.decode(body, type=_Failure)
    except msgspec.MsgspecError:
        said = _Failure(message=body.decode("utf-8", "replace"))
    message = _short(said.message) or f"HTTP {status}"
    match status:
        case 401:
            return NotPermitted(f"Kubernetes does not accept the credentials: {message}")
        case 403:
            return NotPermitted(f"Kubernetes refuses it: {message}")
        case 404 if said.details.kind == "namespaces" or not said.details.name:
            return NotInstalled(
                f"Kubernetes has no DbtRun there; is the chart installed, the namespace right? {message}"
            )
        case 404:
            return NotFound(message)
        case 409:
            return AlreadyExists(message)
        case 410:
            return Expired(message)
        case 400 | 413 | 422:
            return Rejected(message)
        case _:
            asked = max(said.details.retry_after, _seconds((headers or {}).get("Retry-After")))
            return Unreachable(f"HTTP {status}: {message}", asked)


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isdecimal() else 0.0


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_SENTENCE else f"{line[: MAX_SENTENCE - 1]}…"


async def _close(cluster: Cluster) -> None:
    await cluster.close()


clusters: Final[PerLoop[ClusterConfig, Cluster]] = PerLoop(Cluster, _close)
"""One Cluster per event loop and configuration: `async with clusters.lease(config) as cluster`."""
