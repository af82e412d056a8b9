"""How many webhooks are taken, and which are taken for the first time. Pure: times are monotonic seconds."""

from __future__ import annotations

from typing import Final

from dbtrun.values import keep_newest
from watcher.bucket import Bucket

PEER: Final = (6_000.0, 200.0)
"""Requests a minute and at once of one address. Behind an Ingress or a load balancer, all come from a few addresses."""
EVERYBODY: Final = (12_000.0, 400.0)
"""The same for all addresses together: a flood must not keep the watcher from its work."""
MAX_PEERS: Final = 1_000
"""Addresses that are remembered."""
REMEMBERED_SECONDS: Final = 3_600.0
"""How long an event counts as known. dbt Cloud sends again within minutes."""
MAX_REMEMBERED: Final = 20_000
"""Events that are remembered."""


class Gate:
    """Lets so many requests through."""

    def __init__(self, now: float) -> None:
        self._all = _bucket(EVERYBODY, now)
        self._peers: dict[str, Bucket] = {}

    def passes(self, peer: str, now: float) -> bool:
        """Whether a request of this address is looked at."""
        # An address that was forgotten begins with a full bucket. Who has more than a thousand addresses is held back
        # by the common limit.
        bucket = self._peers.get(peer) or _bucket(PEER, now)
        keep_newest(self._peers, peer, bucket, MAX_PEERS)
        # In this order: an address beyond its own limit must not use up the common one.
        return bucket.take(now) and self._all.take(now)


def _bucket(rate: tuple[float, float], now: float) -> Bucket:
    per_minute, burst = rate
    return Bucket(per_minute, now, burst)


class Deliveries:
    """The events that were taken: dbt Cloud delivers one again when it has missed the answer."""

    def __init__(self) -> None:
        # Lost on a restart. A repeated event then costs dbt Cloud one more request, and nothing depends on it.
        self._taken: dict[tuple[str, str], float] = {}

    def knows(self, where: str, key: str, now: float) -> bool:
        """Whether the event was taken for this connection."""
        taken = self._taken.get((where, key))
        return taken is not None and now - taken < REMEMBERED_SECONDS

    def take(self, where: str, key: str, now: float) -> None:
        """It is taken now."""
        keep_newest(self._taken, (where, key), now, MAX_REMEMBERED)
