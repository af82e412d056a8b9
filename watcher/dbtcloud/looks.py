"""When the steps of live runs are read: what people like to know, and nothing depends on.

All runs of a connection share two beats. The slow one is for runs that nobody watches. Runs that somebody watches take
turns in the fast one, which spends a tenth of the account's budget at most, and nothing while other requests wait.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Final, NoReturn

from watcher.clock import Clock
from watcher.dbtcloud.budget import Share

LOOK_SECONDS: Final = 2.0
"""Between two looks at runs that nobody watches."""
SPARE: Final = 100
"""Outdated entries that the line may hold beside as many as there are objects."""
FOR_WATCHED: Final = 0.1
"""The part of the account's budget that looks at watched runs may spend."""

LATE_SECONDS: Final = 5.0
"""A turn that was not taken by then is lost: many that were saved up would be a burst."""


class Looks:
    """The looks of one connection. `run()` is its task; all times are monotonic seconds.

    Args:
        share: the budget that looks at watched runs spend.
        turned: called with the uid of the object whose turn it is, of those whose runs nobody watches.
    """

    def __init__(self, share: Share, turned: Callable[[str], object], clock: Clock) -> None:
        self._share = share
        self._turned = turned
        self._clock = clock
        self._from: dict[str, float] = {}
        """When each object that waits wants its turn."""
        self._line: list[tuple[float, str]] = []
        """The same as a heap, and outdated entries."""
        self._anybody = asyncio.Event()
        self._next_turn = 0.0

    def want(self, uid: str, moment: float | None) -> None:
        """From this moment on the object wants a turn; None: it wants none. One that waits keeps its place."""
        if moment is None:
            self._from.pop(uid, None)
        elif moment > self._from.get(uid, -math.inf):
            # One that comes late goes to the end of the line: else one that uses no turn would get all of them.
            moment = self._from[uid] = max(moment, self._clock().mono)
            heapq.heappush(self._line, (moment, uid))
            # Entries of objects that have left, or that wait for another moment, must not fill the line.
            if len(self._line) > 2 * len(self._from) + SPARE:
                self._line = sorted((moment, uid) for uid, moment in self._from.items())
            self._anybody.set()

    async def run(self) -> NoReturn:
        """Gives turns until cancelled: to the object that has waited longest.

        10,000 of them must not cost an account its budget, nor wake up to find that it is not their turn.
        """
        while True:
            await self._anybody.wait()
            await asyncio.sleep(LOOK_SECONDS)
            now = self._clock().mono
            while self._line and self._line[0][0] <= now:
                moment, uid = heapq.heappop(self._line)
                # Otherwise the object has left, or waits for another moment: this entry is outdated.
                if self._from.get(uid) == moment:
                    del self._from[uid]
                    self._turned(uid)
                    break
            else:
                if not self._from:
                    self._anybody.clear()

    def turn(self, now: float, given: float | None = None) -> float | None:
        """When a watched run may be looked at: now, or after those that asked before.

        Args:
            now: the present.
            given: the turn that the run was given when it asked before.

        Returns:
            The turn. None: it is now, and is passed over, as the budget is needed for what matters more.
        """
        budget = self._share.budget
        turn = given
        if turn is None or now - turn > LATE_SECONDS:
            turn = max(now, self._next_turn)
            self._next_turn = turn + 60 / (budget.per_minute * FOR_WATCHED)
        return turn if turn > now or budget.idle else None
