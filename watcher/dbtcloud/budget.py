"""One account's share of requests: dbt Cloud limits accounts, not tokens, and excess costs minutes of silence.

A token bucket with a queue in front. The queue serves the earliest deadline: each kind of request brings its patience,
so cancels and submissions pass polls, and polls are late but never starved.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final

from watcher.dbtcloud.errors import COOL_DOWN, RateLimited

REQUESTS_PER_MINUTE: Final = 1_500
"""Of the 5,000 that dbt Cloud allows an account: the rest is for people and other tools."""
BURST: Final = 25
"""Requests that may go at once after a quiet time: a second's worth."""

UNPROVEN: Final = (60, 5)
"""Requests a minute and at once of a token that dbt Cloud has not accepted yet."""


class Priority(Enum):
    """What a request is for; the value is the seconds it can wait while others go first."""

    CANCEL = 0.0
    SUBMIT = 1.0
    POLL = 15.0
    DETAILS = 60.0


_Waiting = tuple[float, int, Priority, asyncio.Future[None]]
_arrivals: Final = itertools.count()


class Budget:
    """The requests that everything on one (host, account) may send."""

    def __init__(
        self,
        per_minute: int = REQUESTS_PER_MINUTE,
        burst: int = BURST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spent: Counter[Priority] = Counter()
        """Requests let through, by what they were for."""
        self.granted_at = -math.inf
        """When the last request was let through, by the same clock."""
        self._rate = per_minute / 60
        self._burst = float(burst)
        self._clock = clock
        self._level = float(burst)
        self._level_at = clock()
        self._paused_until = 0.0
        self._queue: list[_Waiting] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def paused_until(self) -> float | None:
        """Monotonic seconds before which nothing is sent; None: not paused."""
        return self._paused_until if self._paused_until > self._clock() else None

    @property
    def per_minute(self) -> float:
        """Requests that may be sent in a minute."""
        return self._rate * 60

    @property
    def left(self) -> float:
        """Requests that may be sent at once now."""
        self._refill()
        return 0.0 if self.paused_until is not None else max(0.0, self._level)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and half of what may go at once is left after one request more."""
        return not self.waiting and self.left >= max(1.0, self._burst / 2)

    @property
    def paused(self) -> float:
        """Seconds for which nothing is sent."""
        return max(0.0, self._paused_until - self._clock())

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(not turn.done() for *_, turn in self._queue)

    def check(self) -> None:
        """Raises RateLimited while the account is paused."""
        if self.paused_until is not None:
            raise self._pause_error()

    async def spend(self, priority: Priority) -> None:
        """Waits for the right to send one request.

        Raises:
            RateLimited: the account is paused, or became so while waiting: say so, and come back after it.
        """
        self.check()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # By arrival plus the priority's seconds: the least urgent goes first in the end, so none waits for ever.
        heapq.heappush(self._queue, (self._clock() + priority.value, next(_arrivals), priority, turn))
        self._serve()
        await turn

    def charge(self, requests: int) -> None:
        """Spends more for a request that was let through; what is not there yet is owed."""
        self._refill()
        self._level -= requests

    def hand_over(self, other: Budget) -> None:
        """Lets the other budget serve what waits here, and count what was spent here."""
        waiting, self._queue = self._queue, []
        # A Counter adds here, where a dict would replace.
        other.spent.update(self.spent)
        self.spent.clear()
        if other.paused_until is not None:
            _refuse(waiting, other._pause_error())
            return
        for entry in waiting:
            heapq.heappush(other._queue, entry)
        if waiting:
            other._serve()

    def pause(self, seconds: float = COOL_DOWN) -> None:
        """Stops everything for a while, after a 429; a pause is never shortened by another."""
        now = self._clock()
        self._paused_until = max(self._paused_until, now + seconds)
        self._level, self._level_at = 0.0, self._paused_until  # no burst at the end of a penalty
        waiting, self._queue = self._queue, []
        _refuse(waiting, self._pause_error())

    def _serve(self) -> None:
        """Serves what can go now, and schedules another look for the rest."""
        self._refill()
        while self._queue and self._level >= 1:
            *_, priority, turn = heapq.heappop(self._queue)
            if not turn.done():  # else its task was cancelled while it waited
                turn.set_result(None)
                self.spent[priority] += 1
                self.granted_at = self._clock()
                self._level -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._queue:
            # During a pause the level counts from the pause's end on.
            wait = (1 - self._level) / self._rate + max(0.0, self._level_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self._serve)

    def _refill(self) -> None:
        now = self._clock()
        if now > self._level_at:
            # The sliver lets the timer that was set for a whole token find one in spite of rounding.
            self._level = min(self._burst, self._level + (now - self._level_at) * self._rate + 1e-9)
            self._level_at = now

    def _pause_error(self) -> RateLimited:
        left = self._paused_until - self._clock()
        return RateLimited(
            f"dbt Cloud limits the account's requests: all of them pause for {left:.0f} seconds",
            retry_after=left,
            not_sent=True,
        )


def _refuse(waiting: list[_Waiting], error: RateLimited) -> None:
    for *_, turn in waiting:
        if not turn.done():
            turn.set_exception(error)


class Share:
    """What one connection may spend: the account's budget once its token got a 2xx there, until then a little.

    A Secret may claim any account. Only dbt Cloud knows whose it is, so a token that was not accepted neither spends
    nor pauses what belongs to others.
    """

    def __init__(self, account: Budget, own: Budget) -> None:
        self._account = account
        self._own = own
        self.proven = False

    @property
    def budget(self) -> Budget:
        """The one that counts now."""
        return self._account if self.proven else self._own

    def heard(self, status: int) -> None:
        """A reply came, with this HTTP status."""
        # Perhaps it was revoked: from here on it must not spend what belongs to others.
        if status == 401:
            self.proven = False
        elif 200 <= status < 300 and not self.proven:
            self.proven = True
            self._own.hand_over(self._account)

    def check(self) -> None:
        """Raises RateLimited while the budget is paused."""
        self.budget.check()

    async def spend(self, priority: Priority) -> None:
        """Waits for the right to send one request; raises RateLimited as `Budget.spend`."""
        await self.budget.spend(priority)

    def charge(self, requests: int) -> None:
        """Spends more for a request that was let through."""
        self.budget.charge(requests)

    def pause(self, seconds: float = COOL_DOWN) -> None:
        """Stops everything on the budget for a while."""
        self.budget.pause(seconds)
