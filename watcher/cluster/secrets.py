"""Secrets, read one by one by GET: the watcher needs no right to list them and keeps none for long."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from dbtrun.kube.answers import decode
from dbtrun.kube.errors import Forbidden, NotFound, Unreachable
from dbtrun.kube.paths import api_path
from watcher.cluster.access import ClusterAccess

FRESH_SECONDS: Final = 30.0
"""A Secret is read again after this: a rotated token is noticed within it, and 1,000 runs cost one read."""


class SecretMissing(LookupError):
    """There is no such Secret; the message is a sentence that names it."""


class SecretForbidden(LookupError):
    """RBAC does not let the watcher read it; the message says which value of the chart does."""


@dataclass(frozen=True)
class SecretData:
    """A Secret's content. Its repr shows which keys there are, never their values."""

    type: str
    data: Mapping[str, bytes] = field(repr=False)
    resource_version: str

    def __repr__(self) -> str:
        return f"SecretData(type={self.type!r}, keys={sorted(self.data)})"


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str


class _Secret(msgspec.Struct):
    metadata: _Metadata
    type: str = "Opaque"
    data: dict[str, str] | None = None


class SecretReader:
    """Reads Secrets, each at most once in `fresh_seconds` unless it is forgotten."""

    def __init__(self, access: ClusterAccess, *, fresh_seconds: float = FRESH_SECONDS) -> None:
        self._access = access
        self._fresh_seconds = fresh_seconds
        self._read: dict[tuple[str, str], tuple[float, asyncio.Task[SecretData]]] = {}

    async def read(self, namespace: str, name: str) -> SecretData:
        """The Secret as it was at most `fresh_seconds` ago. Concurrent readers share one request.

        Raises:
            SecretMissing, SecretForbidden, KubeError: as their names say; none of them is remembered.
        """
        now = asyncio.get_running_loop().time()
        # All that are too old, also those that nobody asks for: tokens are not kept for longer than they are needed.
        self._read = {key: entry for key, entry in self._read.items() if now - entry[0] < self._fresh_seconds}
        key = (namespace, name)
        if key not in self._read:
            self._read[key] = now, asyncio.create_task(self._get(namespace, name))
        _, task = entry = self._read[key]
        try:
            return await asyncio.shield(task)  # a reader that gives up does not take the others along
        except Exception:
            # A reader that came later may have put another one there.
            if self._read.get(key) is entry:
                del self._read[key]
            raise

    def forget(self, namespace: str, name: str) -> None:
        """The next reader gets it from the API server: dbt Cloud has refused the token."""
        self._read.pop((namespace, name), None)

    async def _get(self, namespace: str, name: str) -> SecretData:
        try:
            answer = await self._access.request("GET", api_path("api/v1", namespace, "secrets", name))
        except NotFound:
            raise SecretMissing(f"There is no Secret {name!r} in the namespace {namespace}.") from None
        except Forbidden:
            raise SecretForbidden(
                f"The watcher may not read the Secret {name!r} in the namespace {namespace}:"
                " add the namespace to secretNamespaces in the chart's values."
            ) from None
        secret = decode(answer, _Secret)
        try:
            data = {key: base64.b64decode(value, validate=True) for key, value in (secret.data or {}).items()}
        except binascii.Error:
            raise Unreachable(
                f"The Secret {namespace}/{name} is not base64, so it was not sent by an API server."
            ) from None
        return SecretData(type=secret.type, data=data, resource_version=secret.metadata.resource_version)
