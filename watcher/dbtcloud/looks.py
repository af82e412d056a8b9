"""When the steps of live runs are read: what people like to know, and nothing depends on.

All runs of a connection share two beats. The slow one is for runs that nobody watches. Runs that somebody watches take
turns in the fast one, which spends a tenth of the account's budget at most, and nothing while other requests wait.
"""

from __future__ import annotations

from typing import Final

from watcher.dbtcloud.budget import Share

LOOK_SECONDS: Final = 2.0
"""Between two looks at runs that nobody watches."""
FOR_WATCHED: Final = 0.1
"""The part of the account's budget that looks at watched runs may spend."""

LATE_SECONDS: Final = 5.0
"""A turn that was not taken by then is lost: many that were saved up would be a burst."""


class Looks:
    """The looks of one connection. All times are monotonic seconds."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._next = 0.0
        self._next_turn = 0.0

    def may_look(self, now: float) -> bool:
        """Whether one that nobody watches may be looked at now: 10,000 of them must not cost an account its budget."""
        if now < self._next:
            return False
        self._next = now + LOOK_SECONDS
        return True

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
