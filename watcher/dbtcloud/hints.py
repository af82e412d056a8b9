"""Looks at runs of which a webhook says that something has happened: now, and again while dbt Cloud's API is behind.

Webhooks come in any number and say what they like. However many there are, the runs that they name are read together,
the looks spend a fifth of the account's budget at most, and nothing is asked about a run that nobody waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Final, NamedTuple, Protocol

from watcher.bucket import Bucket
from watcher.clock import Clock
from watcher.dbtcloud.budget import Share
from watcher.dbtcloud.channel import PAGE_SIZE

GATHER_SECONDS: Final = 0.05
"""From the first hint to the look: runs often end together."""
LOOKS: Final = (0.0, 1.0, 3.0)
"""Seconds after the hint. The webhook can be faster than dbt Cloud's API; what is later is found without webhooks."""
FOR_HINTS: Final = 0.2
"""The part of the account's budget that these looks may spend."""
BURST: Final = 5
"""Of these looks, how many at once."""
BUSY_SECONDS: Final = 0.1
"""Until the next try after the looks have spent their part."""
MAX_HINTED: Final = PAGE_SIZE * (BURST - 2)
"""Runs that are looked at at once, as many as a burst can. More are found without webhooks."""
OUTDATED_SECONDS: Final = 15.0
"""A hint that could not be followed for so long says nothing that was not found without it."""


Looked = Callable[[int], object]
"""Called with the number of requests that a look causes."""


class Hint(NamedTuple):
    """Something is said to have happened to a run."""

    at: float
    """Monotonic seconds."""
    ended: bool
    looks: int = 0
    """That were taken."""

    @property
    def due(self) -> float:
        """When the next one is."""
        return self.at + LOOKS[self.looks]


class Poller(Protocol):
    """Who follows runs."""

    def awaited(self, run_ids: Collection[int]) -> list[int]:
        """Those that are followed and have not ended."""

    def look_at(self, run_ids: Collection[int]) -> None:
        """Polls them as soon as the budget and backoff allow."""


class Ledger(Protocol):
    """Who lists finished runs."""

    @property
    def lists(self) -> int:
        """Lists that are read at once."""

    def awaits(self, run_id: int, *, ended: bool) -> bool:
        """Whether somebody takes runs that have ended or begun, and this one was not read."""

    def hurry(self) -> None:
        """Reads at once."""


class Hints:
    """The hints of one connection. `run()` is its task; everything else is called on the same loop."""

    def __init__(self, share: Share, poller: Poller, ledger: Ledger, clock: Clock, looked: Looked) -> None:
        self._share = share
        self._poller = poller
        self._ledger = ledger
        self._clock = clock
        self._looked = looked
        self._bucket = Bucket(self._rate, clock().mono, BURST)
        self._hinted: dict[int, Hint] = {}
        self._noted = asyncio.Event()

    def note(self, run_id: int, *, ended: bool) -> bool:
        """Looks at this run soon; False: nobody waits for it, or too many wait for their look."""
        hint, known = Hint(self._clock().mono, ended), self._hinted.get(run_id)
        if not self._awaited(run_id, hint) or (known is None and len(self._hinted) >= MAX_HINTED):
            return False
        # One that waits for its first look keeps its time: repeated webhooks must not put the look off.
        if known is None or known.looks:
            self._hinted[run_id] = hint
            self._noted.set()
        return True

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            first = min((hint.due for hint in self._hinted.values()), default=None)
            self._noted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if first is None else max(0.0, first - self._clock().mono)):
                    await self._noted.wait()
                    # dbt Cloud sends one webhook for each run: those that come together share a look.
                    await asyncio.sleep(GATHER_SECONDS)
            await asyncio.sleep(self.look())

    def look(self) -> float:
        """One look at all runs that are due, if it may be taken now. Returns the seconds until the next one may be."""
        now = self._clock().mono
        due = []
        for run_id, hint in tuple(self._hinted.items()):
            if hint.due > now:
                continue
            if now - hint.at <= OUTDATED_SECONDS and self._awaited(run_id, hint):
                due.append(run_id)
            else:
                del self._hinted[run_id]  # nobody waits for the run any more
        if not due:
            return 0.0
        followed = self._poller.awaited(due)
        # Those that no object follows are awaited by a mirror, which reads lists.
        lists = self._ledger.lists if len(followed) < len(due) else 0
        requests = -(-len(followed) // PAGE_SIZE) + lists
        self._bucket.resize(self._rate, BURST)  # it grows when dbt Cloud accepts the token
        if self._share.budget.paused_until is not None or not self._bucket.take(now, requests):
            return BUSY_SECONDS
        self._looked(requests)
        self._poller.look_at(followed)
        if lists:
            self._ledger.hurry()
        for run_id in due:
            hint = self._hinted.pop(run_id)
            if hint.looks + 1 < len(LOOKS):
                self._hinted[run_id] = hint._replace(looks=hint.looks + 1)
        return 0.0

    @property
    def _rate(self) -> float:
        return self._share.budget.per_minute * FOR_HINTS

    def _awaited(self, run_id: int, hint: Hint) -> bool:
        return bool(self._poller.awaited([run_id])) or self._ledger.awaits(run_id, ended=hint.ended)
