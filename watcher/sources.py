"""The Secrets that connections are read from. One that cannot be used is read again until it changes.

A failing object tries again less and less often, so it would notice a corrected Secret late. Here one look serves all
objects of a Secret, and the number of looks per round is limited: Secrets that do not exist cost the API server a
handful of requests, however many objects name them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple, NoReturn, Protocol

LOOK_SECONDS: Final = 3.0
"""From one round to the next."""
LOOKS: Final = 20
"""Secrets read per round; if more are waited for, they take turns."""
WAIT_SECONDS: Final = 300.0
"""An object that still cannot use its Secret says so once a minute. One that has not for so long waits no longer: it
was suspended, or all is well again."""
DOUBT_SECONDS: Final = 5.0
"""A Secret in doubt is read again at most once in this time, however many objects use it."""


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
    """Reads Secrets, and remembers them for a while."""

    async def read(self, namespace: str, name: str) -> SecretData:
        """Reads a Secret.

        Raises:
            LookupError: it does not exist, or may not be read; the message says which.
        """

    def forget(self, namespace: str, name: str) -> None:
        """Reads the Secret from the API server next time."""


class Source(NamedTuple):
    """What an object's connection was read from. Version None: the Secret could not be read."""

    secret: SecretName
    version: str | None


class Sources:
    """Which Secret each object uses, and which objects wait for theirs to change."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._source_of: dict[str, Source] = {}
        self._waiting: dict[SecretName, dict[str, float]] = {}
        """When each uid last said that it cannot use the Secret, by the loop's clock."""
        self._doubted: dict[SecretName, float] = {}
        """When a Secret in doubt was last to be read again, oldest first."""

    async def read(self, uid: str, secret: SecretName) -> SecretData:
        """Reads the Secret for an object, which no longer waits for another version.

        Raises:
            LookupError: it does not exist, or may not be read; the message says which.
        """
        self.forget(uid)
        # Before the read, which may fail: `doubt` must find the Secret, and None differs from every version that it may
        # have later.
        self._source_of[uid] = Source(secret, None)
        data = await self._secrets.read(*secret)
        self._source_of[uid] = Source(secret, data.resource_version)
        return data

    def doubt(self, uid: str) -> None:
        """The object cannot use its Secret as it is: the Secret is read again, and the object waits for a change."""
        source = self._source_of.get(uid)
        if source is None:
            return
        now = asyncio.get_running_loop().time()
        self._waiting.setdefault(source.secret, {})[uid] = now
        # Names of Secrets come from users: without this, their number would grow without a bound.
        while self._doubted and now - next(iter(self._doubted.values())) >= DOUBT_SECONDS:
            del self._doubted[next(iter(self._doubted))]
        if source.secret not in self._doubted:
            self._doubted[source.secret] = now
            self._secrets.forget(*source.secret)

    def forget(self, uid: str) -> None:
        """The object uses no Secret and waits for none; unknown ones are no error."""
        source = self._source_of.pop(uid, None)
        if source is not None:
            self._stop_waiting(source.secret, [uid])

    async def run(self, changed: Callable[[Collection[str]], None]) -> NoReturn:
        """Reads the Secrets that objects wait for, until cancelled.

        Args:
            changed: gets the uids of the objects whose Secret has changed.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for secret in list(self._waiting)[:LOOKS]:
                since = asyncio.get_running_loop().time() - WAIT_SECONDS
                # While another Secret was being read, the last object that waited for this one may have gone.
                waited = self._waiting.get(secret, {})
                self._stop_waiting(secret, [uid for uid, at in waited.items() if at < since])
                if secret not in self._waiting:
                    continue
                self._secrets.forget(*secret)
                try:
                    version = (await self._secrets.read(*secret)).resource_version
                except Exception:  # noqa: BLE001 - each object reports what is wrong when it tries by itself
                    version = None
                # While the Secret was being read, the last object that waited for it may have gone.
                waiting = self._waiting.pop(secret, None)
                if waiting is None:
                    continue
                self._waiting[secret] = waiting  # to the end of the queue
                uids = [uid for uid in sorted(waiting) if version not in (None, self._source_of[uid].version)]
                self._stop_waiting(secret, uids)
                if uids:
                    changed(uids)

    def _stop_waiting(self, secret: SecretName, uids: Collection[str]) -> None:
        waiting = self._waiting.get(secret)
        if waiting is not None:
            for uid in uids:
                waiting.pop(uid, None)
            if not waiting:
                del self._waiting[secret]
