"""The cluster of the user's kubeconfig, chosen as kubectl chooses it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
from kubernetes_asyncio import client, config

from dbtrun.cli.words import ahead
from dbtrun.kube.config import SERVICE_ACCOUNT, own_namespace
from dbtrun.kube.errors import KubeError, Misconfigured, Unreachable, failure, short

REQUEST_SECONDS: Final = 20.0
CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 90.0
"""A watch gets a bookmark every minute: after this it is dead."""
MERGE_PATCH: Final = "application/merge-patch+json"


@dataclass(frozen=True)
class Place:
    """Which cluster and namespace a command is about; None: as the kubeconfig says."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None


class Api(Protocol):
    """What commands need of a cluster. Each method raises KubeError, whose text is one sentence."""

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> bytes: ...

    def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]: ...


def kubeconfigs(place: Place, environ: Mapping[str, str] = os.environ, home: Path | None = None) -> str | None:
    """The kubeconfig files, as KUBECONFIG lists them. None: there is none, so this may be a pod.

    Raises:
        Misconfigured: none of those that are named is there.
    """
    named = place.kubeconfig or environ.get("KUBECONFIG")
    if not named:
        usual = (home or Path.home()) / ".kube/config"
        return str(usual) if usual.is_file() else None
    present = [file for file in named.split(os.pathsep) if Path(file).expanduser().is_file()]
    if not present:
        raise Misconfigured(f"The kubeconfig {named} does not exist.")
    return os.pathsep.join(present)


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[tuple[Cluster, str]]:
    """The cluster and the namespace, as long as they are needed.

    Raises:
        Misconfigured: there is no kubeconfig, or it cannot be used.
    """
    configuration, namespace = await _load(place)
    api = client.ApiClient(configuration)
    # Else aiohttp looks for a netrc file in a thread before each request. There is no public way.
    api.rest_client.pool_manager._trust_env = False
    try:
        yield Cluster(api), place.namespace or namespace
    finally:
        await api.close()


async def _load(place: Place) -> tuple[client.Configuration, str]:
    files = kubeconfigs(place)
    configuration = client.Configuration()
    try:
        if files is None:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            return configuration, own_namespace(SERVICE_ACCOUNT)
        await config.load_kube_config(files, place.context, configuration, persist_config=False)
        contexts, active = config.list_kube_config_contexts(files)
    except Exception as error:  # whatever a malformed kubeconfig makes its reader raise
        if files is None:
            raise Misconfigured("No kubeconfig: name one with --kubeconfig or KUBECONFIG.") from error
        raise Misconfigured(f"The kubeconfig {files} cannot be used: {short(str(error)).rstrip('.')}.") from error
    chosen = next((one for one in contexts if one["name"] == place.context), active) or {}
    return configuration, chosen.get("context", {}).get("namespace") or "default"


class Cluster:
    """One API server. Single requests have a time-out; nothing is repeated."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self.offset: float | None = None
        """Seconds by which the API server's clock is ahead of this machine's; None: not known."""

    @property
    def host(self) -> str:
        """The address of the API server."""
        return str(self._api.configuration.host)

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> bytes:
        """One request; `body` is sent as JSON, as a merge patch for PATCH.

        Raises:
            KubeError: the API server did not do it.
        """
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        async with self._answer(method, path, query or {}, body, timeout) as answer:
            read: bytes = await answer.read()
            return read

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The lines of an answer that has no end.

        Raises:
            KubeError: as of a request, or nothing came for SILENCE_SECONDS.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        async with self._answer("GET", path, query, None, timeout) as answer:
            rest = b""
            async for chunk in answer.content.iter_any():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, query: Mapping[str, str], body: object, timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[Any]:
        began, sent = time.monotonic(), datetime.now(UTC)
        kind = MERGE_PATCH if method == "PATCH" else "application/json"
        try:
            answer = await self._api.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params={"Accept": "application/json", "Content-Type": kind},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout,
            )
            async with answer:
                self.offset = ahead(answer.headers.get("Date"), sent, time.monotonic() - began)
                if not answer.ok:
                    raise failure(answer.status, await answer.read(), answer.headers)
                yield answer
        except KubeError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, config.ConfigException) as error:
            why = short(str(error)) or type(error).__name__
            raise Unreachable(f"The API server {self.host} does not answer: {why}") from error
