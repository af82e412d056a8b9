"""Which of several watchers acts: the holder of a Lease, for as long as it can be sure of it.

The holder counts from before it asked and stops `duration - renew_deadline` before any other replica may begin. The
others count from when they saw the last renewal. Each uses its own clock only, so no two clocks are compared.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import msgspec

from dbtrun.kube.answers import decode
from dbtrun.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from dbtrun.kube.paths import api_path
from watcher.cluster.access import ClusterAccess

logger = logging.getLogger(__name__)

PREFIX: Final = "apis/coordination.k8s.io/v1"
KIND: Final = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
ADDRESS: Final = "dbtrun.dev/webhooks-address"
"""Annotation of the Lease: where its holder takes webhooks."""
RELEASE_SECONDS: Final = 2.0
"""A clean stop does not wait longer for its release to be accepted; the next holder then waits for `duration`."""


@dataclass(frozen=True)
class LeaseSettings:
    """Seconds; the values of Kubernetes' own controllers."""

    duration: int = 15
    """Others wait this long after the last renewal that they saw."""
    renew_deadline: float = 10.0
    """The holder stops acting this long after its last successful renewal was asked for."""
    retry: float = 2.0
    """Between two tries to renew or to acquire."""

    def __post_init__(self) -> None:
        if not self.duration > self.renew_deadline > self.retry > 0:
            raise ValueError("A Lease needs duration > renew_deadline > retry > 0.")

    @classmethod
    def lasting(cls, seconds: int) -> LeaseSettings:
        """For a Lease of this duration, in the proportions of Kubernetes' own controllers.

        Raises:
            ValueError: it is less than a second.
        """
        return cls(duration=seconds, renew_deadline=seconds * 2 / 3, retry=seconds * 2 / 15)


class _Spec(msgspec.Struct, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str
    annotations: dict[str, str] | None = None


class _Lease(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock: leadership ends meanwhile."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Leader:
    """`run` competes until it is cancelled and then lets go; `is_leader` is asked before every side effect."""

    def __init__(
        self,
        access: ClusterAccess,
        namespace: str,
        name: str,
        *,
        settings: LeaseSettings | None = None,
        pod: str = "",
        address: str = "",
        on_change: Callable[[bool], None] = lambda _leading: None,
    ) -> None:
        """`pod`, by default the host's name, and a random part are the holder: it must not outlive this process.

        `address` is where other watchers reach this one, if they do.
        """
        self.identity = f"{pod or socket.gethostname()}_{secrets.token_hex(4)}"
        self._access = access
        self._namespace = namespace
        self._name = name
        self._address = address
        self._settings = settings or LeaseSettings()
        self.on_change = on_change
        self._told = False
        self._until = 0.0
        self._lease: _Lease | None = None
        self._seen = ""
        self._seen_at = 0.0
        self._trouble = ""

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last looked at; empty if no one did, or if that is not known."""
        return (self._lease.spec.holder_identity if self._lease else None) or ""

    @property
    def holder_address(self) -> str:
        """Where the holder takes webhooks, as the Lease said when it was last looked at; empty if it does not say."""
        annotations = self._lease.metadata.annotations if self._lease and self.holder else None
        return (annotations or {}).get(ADDRESS, "")

    def is_leader(self) -> bool:
        """Whether no other replica can hold the Lease at this instant."""
        return _clock() < self._until

    async def run(self) -> NoReturn:
        """Acquires and renews. Stop what acts before cancelling this: the next holder begins at once."""
        try:
            while True:
                await self._turn()
                self._tell()
                pause = self._settings.retry * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
                left = self._until - _clock()
                # At the instant at which the leadership ends, `_tell` has to say so.
                await asyncio.sleep(min(pause, left) if left > 0 else pause)
                self._tell()
        finally:
            await self._release()

    async def _turn(self) -> None:
        asked = _clock()
        try:
            # A connection that hangs must leave time for another try, and none outlives what is held.
            limit, left = self._settings.renew_deadline / 2, self._until - asked
            async with asyncio.timeout(min(limit, left) if left > 0 else limit):
                held = await self._compete()
        except (AlreadyExists, Conflict, NotFound):
            self._lease, self._until = None, 0.0  # somebody else wrote it: look before the next try
        except (KubeError, TimeoutError) as error:
            # A renewal may have been made or not. Either way nobody else may begin before `_until` has passed.
            self._lease = None
            trouble = str(error) or "No answer in time."
            if trouble != self._trouble:
                logger.warning("The Lease %s/%s: %s", self._namespace, self._name, trouble)
            self._trouble = trouble
        else:
            # From before the request: others count from when they see the renewal, which is later.
            self._until = asked + self._settings.renew_deadline if held else 0.0
            self._trouble = ""

    async def _compete(self) -> bool:
        """One try; whether the Lease is ours now."""
        # Our own is not read before it is renewed: the version that the last write returned is its precondition, and a
        # Conflict says that somebody else has written.
        if self._lease is None or not self._ours(self._lease):
            self._lease = await self._look()
        if self._lease is None:
            self._lease = await self._write("POST", self._metadata(), _Spec())
            return True
        spec = self._lease.spec
        # Not by renewTime, which is another machine's clock, but by ours, since the last change that we saw.
        expired = _clock() - self._seen_at > (spec.lease_duration_seconds or self._settings.duration)
        if spec.holder_identity and not self._ours(self._lease) and not expired:
            return False
        basis = {"resourceVersion": self._lease.metadata.resource_version}
        self._lease = await self._write("PUT", self._metadata() | basis, spec)
        return True

    async def _look(self) -> _Lease | None:
        try:
            lease = decode(await self._access.request("GET", self._path(self._name), urgency=None), _Lease)
        except NotFound:
            return None
        if lease.metadata.resource_version != self._seen:
            self._seen, self._seen_at = lease.metadata.resource_version, _clock()
        return lease

    def _metadata(self) -> dict[str, Any]:
        return {"name": self._name} | ({"annotations": {ADDRESS: self._address}} if self._address else {})

    async def _write(self, method: str, metadata: dict[str, Any], before: _Spec) -> _Lease:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        renewed = before.holder_identity == self.identity
        transitions = before.lease_transitions
        spec = _Spec(
            holder_identity=self.identity,
            lease_duration_seconds=self._settings.duration,
            acquire_time=before.acquire_time if renewed else now,
            renew_time=now,
            lease_transitions=0 if transitions is None else transitions + (not renewed),
        )
        return await self._send(method, metadata, spec)

    async def _send(self, method: str, metadata: dict[str, Any], spec: _Spec) -> _Lease:
        path = self._path(None if method == "POST" else self._name)
        body = {**KIND, "metadata": metadata, "spec": msgspec.to_builtins(spec)}
        return decode(await self._access.request(method, path, body=body, urgency=None), _Lease)

    async def _release(self) -> None:
        held, self._until = self._lease, 0.0
        self._tell()
        if held is None or not self._ours(held):
            return
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                try:
                    await self._give_up(held)
                except Conflict:  # the renewal that was in flight at the request to stop has been made
                    held = await self._look()
                    if held is not None and self._ours(held):
                        await self._give_up(held)
        except (KubeError, TimeoutError) as error:
            logger.info("The Lease %s/%s was not released: %s", self._namespace, self._name, error)

    async def _give_up(self, held: _Lease) -> None:
        basis = {"name": self._name, "resourceVersion": held.metadata.resource_version}
        await self._send("PUT", basis, _Spec(lease_transitions=held.spec.lease_transitions))

    def _ours(self, lease: _Lease) -> bool:
        return lease.spec.holder_identity == self.identity

    def _tell(self) -> None:
        leading = self.is_leader()
        if leading != self._told:
            self._told = leading
            logger.info("%s the Lease %s/%s.", "Holding" if leading else "Not holding", self._namespace, self._name)
            self.on_change(leading)

    def _path(self, name: str | None) -> str:
        return api_path(PREFIX, self._namespace, "leases", name)
