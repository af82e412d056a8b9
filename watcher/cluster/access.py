"""How the API server is reached: one place for address, identity, TLS and time-outs.

Ours and kopf's requests use the same identity. Neither ever reads `~/.kube/config` or `$KUBECONFIG`: a watcher that
silently acts on the cluster of whoever started it does harm.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import aiohttp
import yaml
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration

from watcher.cluster.clock import ClusterClock
from watcher.cluster.errors import ApiTrouble, refusal
from watcher.cluster.turns import Turns, Urgency

if TYPE_CHECKING:
    import kopf

logger = logging.getLogger(__name__)

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
USER_AGENT: Final = "dbtrun"
"""Who we are in audit logs and, as the API server takes it from here, in every object's managedFields."""
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
AT_ONCE: Final = 16
"""Requests under way. The API server gets no faster by more, and each one more makes the others slower."""
LISTS_AT_ONCE: Final = 4
"""Lists under way, besides those."""
OF_NAMESPACE: Final = re.compile(r"/namespaces/([^/]+)/")
"""The namespace in a path: namespaces take turns."""
REREAD_KUBECONFIG: Final = 300.0
"""Seconds after which a kubeconfig is read again: shorter than any common token's life (EKS: 15 minutes)."""


UNUSABLE: Final = (
    config.ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, IndexError
)  # fmt: skip
"""What reading a kubeconfig raises when it is none."""


class ClusterAccessError(Exception):
    """There is no usable way to the API server; the message is one sentence for the user."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds. kubernetes_asyncio has no time-out of its own: a stuck call would hang for ever."""

    connect: float = 5.0
    """To connect, TLS included."""
    total: float = 30.0
    """For one whole request; a page of 500 objects takes well under a second."""


class ClusterAccess:
    """The one client of this process. Made by `load`, inside a running event loop; closed by `close`."""

    def __init__(
        self,
        configuration: Configuration,
        read: Callable[[], Awaitable[Configuration]],
        timeouts: Timeouts | None = None,
    ) -> None:
        self._timeouts = timeouts = timeouts or Timeouts()
        self._read = read
        self._client = ApiClient(configuration)
        self._client.user_agent = USER_AGENT
        # kubernetes_asyncio trusts the environment, which costs a look-up of ~/.netrc in a thread on every request.
        self._client.rest_client.pool_manager._trust_env = False
        self._turns, self._lists = Turns(AT_ONCE), Turns(LISTS_AT_ONCE)
        self.clock = ClusterClock()
        """The API server's."""
        self._timeout = aiohttp.ClientTimeout(
            total=timeouts.total, connect=timeouts.connect, sock_connect=timeouts.connect
        )

    @classmethod
    async def load(
        cls,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        service_account: Path = SERVICE_ACCOUNT,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """Reaches the API server by the kubeconfig that was named, else as the pod's ServiceAccount.

        Raises:
            ClusterAccessError: neither is there, or it cannot be used.
        """
        if kubeconfig is not None:
            read = _kubeconfig_reader(kubeconfig, context)
        elif context is not None:
            raise ClusterAccessError(f"The context {context!r} needs a kubeconfig: name its file too.")
        else:
            read = _service_account_reader(service_account, environ)
        try:
            return cls(await read(), read, timeouts)
        except OSError as error:  # an SSLError is one
            where = "pod's ServiceAccount" if kubeconfig is None else f"kubeconfig {kubeconfig}"
            raise ClusterAccessError(f"The {where} cannot be used: a certificate or key in it is none.") from error

    async def another(self) -> ClusterAccess:
        """A client of its own for another event loop, with the same identity.

        Raises:
            ClusterAccessError: it cannot be read any more.
        """
        return ClusterAccess(await self._read(), self._read, self._timeouts)

    def __repr__(self) -> str:
        return f"ClusterAccess({self.host!r})"

    @property
    def host(self) -> str:
        """The API server's address."""
        return str(self._client.configuration.host)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        urgency: Urgency | None = Urgency.OTHER,
    ) -> bytes:
        """One request, its answer's body unread.

        Args:
            urgency: None: it waits for no other. Time-outs count from when it is sent.

        Raises:
            Conflict, Gone, Refused, ApiTrouble: as their names say.
        """
        if urgency is None:
            return await self._send(method, path, query, body, content_type, accept)
        found = OF_NAMESPACE.search(path)
        turns = self._lists if urgency is Urgency.LIST else self._turns
        async with turns.turn(urgency, found[1] if found else ""):
            return await self._send(method, path, query, body, content_type, accept)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        accept: str,
    ) -> bytes:
        sent = time.monotonic()
        try:
            # Not preloaded: the library would write whole bodies, Secrets among them, into a debug log.
            response = await self._client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=self._timeout,
            )
            self.clock.heard(response.headers.get("Date"), sent, time.monotonic())
            async with response:
                answer: bytes = await response.read()
        except (aiohttp.ClientError, config.ConfigException, OSError) as error:  # a TimeoutError is an OSError
            raise ApiTrouble(f"No answer from {self.host}: {str(error) or type(error).__name__}.") from error
        if response.status >= 400:
            raise refusal(response.status, answer)
        return answer

    async def kopf_login(self) -> kopf.ConnectionInfo:
        """The same identity for kopf, read anew: kopf asks again when its token is refused.

        Raises:
            ClusterAccessError: it cannot be read any more.
        """
        import kopf  # late: see `kopf_thread`

        now = await self._read()
        scheme, _, token = now.api_key.get("BearerToken", "").partition(" ")
        return kopf.ConnectionInfo(
            server=str(now.host),
            ca_path=now.ssl_ca_cert,
            insecure=not now.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=now.cert_file,
            private_key_path=now.key_file,
            proxy_url=now.proxy,
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.close()


def api_path(prefix: str, namespace: str | None, plural: str, name: str | None = None, sub: str | None = None) -> str:
    """A resource's path, as `api_path("api/v1", "ns", "secrets", "x")`. No segment can leave its place.

    Raises:
        ValueError: a segment that no Kubernetes name can be.
    """
    scope = [] if namespace is None else ["namespaces", namespace]
    segments = [*scope, plural, *(s for s in (name, sub) if s is not None)]
    if any(segment in ("", ".", "..") for segment in segments):
        raise ValueError(f"{'/'.join(segments)} is not a resource")
    return "/".join(["", prefix, *(quote(segment, safe="") for segment in segments)])


def _service_account_reader(directory: Path, environ: Mapping[str, str]) -> Callable[[], Awaitable[Configuration]]:
    async def read() -> Configuration:
        now = Configuration()
        try:
            # Reads a rotated token by itself, every minute.
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                now,
                token_filename=str(directory / "token"),
                cert_filename=str(directory / "ca.crt"),
                environ=environ,
            )
        except (config.ConfigException, OSError) as error:
            raise ClusterAccessError(
                f"There is no way to a cluster: not running in a pod ({str(error).rstrip('.')}); outside of one, "
                "name a kubeconfig."
            ) from error
        return now

    return read


def _kubeconfig_reader(path: Path, context: str | None) -> Callable[[], Awaitable[Configuration]]:
    async def read() -> Configuration:
        if not path.is_file():  # noqa: ASYNC240 - a local file, once in minutes
            raise ClusterAccessError(f"The kubeconfig {path} does not exist or is not a file.")
        now = Configuration()
        try:
            await config.load_kube_config(str(path), context, now, persist_config=False)
        except UNUSABLE as error:
            raise ClusterAccessError(_kubeconfig_trouble(path, error)) from error
        if now.tls_server_name:
            raise ClusterAccessError(f"The kubeconfig {path} sets tls-server-name, which kopf cannot use.")
        now.refresh_api_key_hook = _Reread(read)
        return now

    return read


def _kubeconfig_trouble(path: Path, error: Exception) -> str:
    # A parser quotes the text around its error, which may be a token.
    match error:
        case yaml.MarkedYAMLError(problem_mark=yaml.Mark() as mark):
            why = f"it is not YAML (line {mark.line + 1})"
        case config.ConfigException():
            why = str(error).rstrip(".")
        case OSError():
            why = error.strerror or type(error).__name__
        case _:
            why = "it is no kubeconfig, which has clusters, users and contexts"
    return f"The kubeconfig {path} cannot be used: {why}."


class _Reread:
    """Keeps a token from a kubeconfig (a file, a plugin) fresh. Called by kubernetes_asyncio before each request."""

    def __init__(self, read: Callable[[], Awaitable[Configuration]]) -> None:
        self._read = read
        self._due = time.monotonic() + REREAD_KUBECONFIG
        self._lock = asyncio.Lock()

    async def __call__(self, configuration: Configuration) -> None:
        async with self._lock:
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + REREAD_KUBECONFIG
            try:
                configuration.api_key = (await self._read()).api_key
            except ClusterAccessError as error:
                logger.warning("The last credentials stay in use: %s", error)
