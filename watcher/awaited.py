"""Secrets that could not be used: each is looked at again until it changes, so whoever mends one hardly waits.

An object by itself tries again ever more seldom. One look serves all objects of a Secret, and only so many looks are
made per round: what somebody names in vain costs the API server a handful of requests, however many objects name it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple, NoReturn, Protocol

LOOK_SECONDS: Final = 3.0
"""From one round to the next."""
LOOKS: Final = 20
"""Secrets looked at per round; when more are awaited, they take turns."""


class SecretName(NamedTuple):
    """Where a Secret is."""

    namespace: str
    name: str


class SecretData(Protocol):
    """A Secret as it was read."""

    @property
    def type(self) -> str: ...
    @property
    def data(self) -> Mapping[str, bytes]: ...
    @property
    def resource_version(self) -> str: ...


class Secrets(Protocol):
    """Reads Secrets, remembering them for a while.

    Raises:
        LookupError: there is none, or it may not be read; the message says which.
    """

    async def read(self, namespace: str, name: str) -> SecretData: ...
    def forget(self, namespace: str, name: str) -> None: ...


class Awaited:
    """Which objects wait for which Secrets to change."""

    def __init__(self, secrets: Secrets, changed: Callable[[Collection[str]], None]) -> None:
        """`changed` gets the uids of the objects whose Secret is another one now."""
        self._secrets = secrets
        self._changed = changed
        self._waiting: dict[SecretName, dict[str, str | None]] = {}
        """Of each object the version that it could not use; None: the Secret could not be read."""
        self._wants: dict[str, SecretName] = {}

    def wait(self, uid: str, secret: SecretName, version: str | None) -> None:
        """The object cannot use this version of the Secret."""
        self.forget(uid)
        self._wants[uid] = secret
        self._waiting.setdefault(secret, {})[uid] = version

    def forget(self, uid: str) -> None:
        """The object waits for no Secret."""
        secret = self._wants.pop(uid, None)
        if secret is not None:
            self._waiting[secret].pop(uid)
            if not self._waiting[secret]:
                del self._waiting[secret]

    async def run(self) -> NoReturn:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for secret in list(self._waiting)[:LOOKS]:
                await self._look(secret)

    async def _look(self, secret: SecretName) -> None:
        self._secrets.forget(*secret)
        try:
            version = (await self._secrets.read(*secret)).resource_version
        except Exception:  # noqa: BLE001 - each object says what is wrong when it tries by itself
            version = None
        waiting = self._waiting.pop(secret, {})
        if waiting:
            self._waiting[secret] = waiting  # to the end of the queue
        changed = [uid for uid, unusable in waiting.items() if version not in (None, unusable)]
        for uid in changed:
            self.forget(uid)
        if changed:
            self._changed(changed)
