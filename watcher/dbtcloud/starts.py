"""How many starts of a connection are under way, from before the claim to the answer.

A dbt Cloud that lets every start hang would else hold all connections with them, and claims would go stale in a queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from dbtrun.fair import NO_WEIGHTS, Applicant, FairQueue

STARTS_AT_ONCE: Final = 16
"""At half a second for each, more than the budget of an account allows."""
HELD_SECONDS: Final = 90.0
"""A place is given back when its start is answered, at the latest after this: a claim may never be sent."""


class Starts:
    """Places for objects that start a run; namespaces take turns.

    Args:
        weights: of the namespaces, for their turns.
    """

    def __init__(
        self, at_once: int = STARTS_AT_ONCE, seconds: float = HELD_SECONDS, weights: Mapping[str, int] = NO_WEIGHTS
    ) -> None:
        self._at_once = at_once
        self._seconds = seconds
        self._held: dict[str, asyncio.TimerHandle] = {}
        self._queue = FairQueue(weights)
        self._waiting: dict[str, asyncio.Future[bool]] = {}

    @property
    def under_way(self) -> int:
        """Places that are taken."""
        return len(self._held)

    @property
    def waiting(self) -> dict[str, int]:
        """How many objects of each namespace wait for a place."""
        return self._queue.by_namespace

    @property
    def crowded(self) -> bool:
        """Whether objects wait for a place."""
        return bool(self._queue)

    async def begin(self, applicant: Applicant) -> bool:
        """Waits for a place; False when it was interrupted and has none."""
        if applicant.uid in self._held:
            return True
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[applicant.uid] = place
        self._queue.push(applicant)
        self._hand_out()
        try:
            return await place
        finally:
            self._give_up(applicant.uid)

    def interrupt(self, uid: str) -> None:
        """Something is new about a uid: it shall be looked at before it goes on to wait."""
        place = self._give_up(uid)
        if place is not None and not place.done():
            place.set_result(False)

    def end(self, uid: str) -> None:
        """Gives the place back; a uid that has none is no error."""
        timer = self._held.pop(uid, None)
        if timer is not None:
            timer.cancel()
            self._hand_out()

    def _give_up(self, uid: str) -> asyncio.Future[bool] | None:
        self._queue.discard(uid)
        return self._waiting.pop(uid, None)

    def _hand_out(self) -> None:
        while self._queue and len(self._held) < self._at_once:
            uid = self._queue.pop().uid
            place = self._waiting.pop(uid)
            # Its task may have been cancelled: then nobody would give the place back.
            if not place.done():
                # With a timer: an object that never comes back to its place must not hold it for ever.
                self._held[uid] = asyncio.get_running_loop().call_later(self._seconds, self.end, uid)
                place.set_result(True)
