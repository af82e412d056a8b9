"""One watcher's way through the ticks: what it emits for each, and when its position is stored.

The order is: emit, learn that Airflow has it, store. So an event is told again when the process dies in between, and
never lost.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from airflow_trigger.reacting import payloads
from airflow_trigger.reacting.position import Position, beginning, from_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_trigger.reacting.payloads import Payload
    from airflow_trigger.reacting.selection import Plan
    from airflow_trigger.reacting.ticker import Tick
    from airflow_trigger.shared.objects import Run

NUDGES: Final = (timedelta(seconds=4), timedelta(seconds=60))
"""After the last event of a burst. At the first, a scheduler that is not busy has taken the event before, and a DAG run
is queued within ten seconds of the last end. The second is for a scheduler that had not."""
SAVE_EVERY: Final = timedelta(minutes=8)
"""At most, without events. With the time of a restart, it must be less than the overlap: a restart is no pause. Each
costs Airflow some 20 ms of a processor: two hundred watchers that did so every minute would take 7 % of one."""

log = logging.getLogger(__name__)


class Store(Protocol):
    """Where a position is kept. Whatever it raises is tried again."""

    async def load(self) -> Position | None: ...

    async def save(self, position: Position) -> None: ...


class History(Protocol):
    """What is known of DbtRuns that are not there any more."""

    async def spans(self, since: datetime, now: datetime) -> bool:
        """Whether none was deleted that ended after `since` and is selected here. It raises nothing."""
        ...


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(tz=UTC)


class Reader:
    """Makes events of ticks. Only `take` changes anything.

    Args:
        history: asked when the DbtRuns that are there do not show that none is missing.
        nudges: whether this Airflow may leave the last event of a burst unseen until the next event.
    """

    def __init__(self, plan: Plan, store: Store, history: History, *, nudges: bool) -> None:
        self._plan = plan
        self._store = store
        self._history = history
        self._nudges = nudges
        self._position: Position | None = None
        self._stored: Position | None = None
        self._save_after = SAVE_EVERY
        self._pending: deque[tuple[int, Position]] = deque()
        self._thaws = 0
        self._unsure = False
        self._last: datetime | None = None
        self._burst = 0
        self._nudged = len(NUDGES)

    async def take(self, tick: Tick) -> list[Payload]:
        """The events of this tick, which are to be emitted before the next is taken.

        If anything goes wrong, which is logged, the next tick has them.
        """
        now = utc_now()
        try:
            await self._settle(tick, now)
        except Exception:
            log.warning("The position of asset %r could not be stored; retrying", self._plan.asset, exc_info=True)
        try:
            return await self._taken(tick, now)
        except Exception:
            log.warning("The events for asset %r could not be emitted; retrying", self._plan.asset, exc_info=True)
            self._unsure = True
            return []

    async def _taken(self, tick: Tick, now: datetime) -> list[Payload]:
        if self._position is None:
            return await self._begin(tick, now)
        if tick.thaws != self._thaws:
            # While this process was frozen, another may have reported what comes now.
            stored = await self._store.load()
            if stored is not None:
                self._position = self._position.joined(stored)
            self._thaws = tick.thaws
        # An error may have lost the ends of a tick. Until all that is over was looked at, the new ends are not enough.
        ended = (tick.finished() or []) if self._unsure else tick.ended
        self._unsure = self._unsure and tick.finished() is None
        found = self._selected(ended)
        fresh = self._position.fresh(found) if found else []
        told = [payloads.ended(self._plan.namespace, run) for run in fresh]
        self._tell(tick, fresh, len(told), now)
        if told or self._last is None or self._nudged == len(NUDGES) or now - self._last < NUDGES[self._nudged]:
            return told
        # After a burst: an event that came while the scheduler had not taken the one before waits for a third.
        self._nudged += 1
        return [payloads.nudge(self._plan.namespace, now)]

    async def _begin(self, tick: Tick, now: datetime) -> list[Payload]:
        finished = tick.finished()
        if finished is None:
            return []
        stored = await self._store.load()
        there = self._selected(finished)
        self._thaws = tick.thaws
        if stored is None:
            position = from_now(there, now) if self._plan.from_now else beginning(now)
            # Before anything is waited for: a process that dies now must not begin later.
            await self._save(position)
            # Watchers that begin together must not go on together: the triggerer does nothing else while it stores
            # the positions of two hundred.
            self._save_after *= random.random()  # noqa: S311 - jitter
            self._position = position
            return self._replay(tick, position, there, now, has_gap=False)
        self._position = self._stored = stored
        complete = stored.reaches_back(there, now) or await self._history.spans(stored.through, now)
        return self._replay(tick, stored, there, now, has_gap=not complete)

    def _replay(
        self, tick: Tick, position: Position, there: Sequence[Run], now: datetime, *, has_gap: bool
    ) -> list[Payload]:
        """What ended while nobody watched: the newest of it, if it is too much."""
        fresh = position.fresh(there)
        left_out = max(0, len(fresh) - self._plan.max_replay)
        told = [payloads.ended(self._plan.namespace, run) for run in fresh[left_out:]]
        if left_out or has_gap:
            told.append(payloads.gap(self._plan.namespace, position.through, now, left_out))
        self._tell(tick, fresh, len(told), now)
        return told

    def _tell(self, tick: Tick, runs: Sequence[Run], count: int, now: datetime) -> None:
        if not count or self._position is None:
            return
        self._position = self._position.after(runs, now)
        self._pending.append((tick.number, self._position))
        in_burst = self._last is not None and now - self._last < NUDGES[-1]
        self._burst = count + (self._burst if in_burst else 0)
        # Not `now`: to load the position can take a busy Airflow a minute.
        self._last, self._nudged = utc_now(), 0 if self._burst > 1 and self._nudges else len(NUDGES)

    @property
    def nudges_in(self) -> float | None:
        """The seconds after which a tick is wanted, for the next nudge."""
        if self._last is None or self._nudged == len(NUDGES):
            return None
        return max(0.0, (self._last + NUDGES[self._nudged] - utc_now()).total_seconds()) + 0.1

    async def _settle(self, tick: Tick, now: datetime) -> None:
        """Stores the last position that is confirmed, or from time to time that nothing has happened."""
        confirmed: Position | None = None
        while self._pending and self._pending[0][0] <= tick.confirmed:
            confirmed = self._pending.popleft()[1]
        if confirmed is None and not self._pending and self._position not in (None, self._stored):
            # One that could not be stored before.
            confirmed = self._position
        if confirmed is None and not self._pending and self._stored and now - self._stored.through > self._save_after:
            confirmed = self._position = self._stored.after((), now)
        if confirmed is not None:
            await self._save(confirmed)

    async def _save(self, position: Position) -> None:
        await self._store.save(position)
        self._stored = position
        self._save_after = SAVE_EVERY * random.uniform(0.8, 1.0)  # noqa: S311 - jitter

    def _selected(self, runs: Sequence[Run]) -> list[Run]:
        return [run for run in runs if self._plan.selection.matches(run)]
