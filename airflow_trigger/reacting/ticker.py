"""What all watchers of a namespace in one event loop share: the ends that the watch reports, in numbered ticks.

Each reader keeps a position of its own. The confirmation of a tick says that the events which came of it are in
Airflow's database, so that a reader may store the position after them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from airflow_trigger.waiting.hub import DEFAULT_PACE, Pace, listen
from dbtrun.kube.per_loop import PerLoop
from dbtrun.kube.retry import pauses

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from airflow_trigger.shared.objects import Run
    from dbtrun.kube.config import ClusterConfig

PULSE_SECONDS: Final = 30.0
"""Between ticks that bring nothing: readers then do what waits, and a frozen process is noticed."""
GATHER_SECONDS: Final = 0.1
"""Ends that come together are one tick."""
BEAT_SECONDS: Final = 2.0
STALL_SECONDS: Final = 10.0
"""A process that did nothing for so long was frozen: another may have its work by now."""

log = logging.getLogger(__name__)


class Ends(Protocol):
    """What a ticker needs of the shared watch."""

    @property
    def synced(self) -> bool: ...

    def finished(self) -> list[Run]: ...

    async def take(self, seconds: float) -> list[Run]: ...

    def wake(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tick:
    """One look, and what is known when the tick is taken, which may be later."""

    number: int
    ended: Sequence[Run]
    ticker: Ticker
    ends: Ends

    @property
    def confirmed(self) -> int:
        """The last tick whose events are in Airflow's database."""
        return self.ticker.confirmed

    @property
    def thaws(self) -> int:
        """How often the process had been frozen."""
        return self.ticker.thaws()

    def finished(self) -> list[Run] | None:
        """All finished runs that are there; None: not known yet."""
        return self.ends.finished() if self.ends.synced else None


class Ticker:
    """Numbers the looks."""

    def __init__(self, config: ClusterConfig, namespace: str, pace: Pace = DEFAULT_PACE) -> None:
        self._where = (config, namespace, pace)
        self.confirmed = 0
        self._number = self._thaws = 0
        self._beat = time.monotonic()
        self._awaited: set[int] = set()
        # The first tick waits for nothing: what is over may be known.
        self._asked = True
        self._ends: Ends | None = None

    async def ticks(self) -> AsyncGenerator[Tick]:
        """It never ends, and raises nothing but CancelledError."""
        for pause in pauses(1.0, 60.0):
            try:
                async with listen(*self._where) as ends, aclosing(self.of(ends)) as ticks:
                    async for tick in ticks:
                        yield tick
            except Exception:
                log.exception("Unexpected error while emitting events of DbtRuns; retrying")
            await asyncio.sleep(pause)

    async def of(self, ends: Ends) -> AsyncGenerator[Tick]:
        """Ticks of these ends."""
        self._ends = ends
        beats = asyncio.create_task(self._beats())
        try:
            while True:
                # Asked before anything was waited for: the ends are in `finished`, and `ended` may stay empty.
                ended = [] if self._asked else await ends.take(PULSE_SECONDS)
                if ended:
                    await asyncio.sleep(GATHER_SECONDS)
                    ended += await ends.take(0)
                self._asked = False
                self._number += 1
                yield Tick(self._number, ended, self, ends)
        finally:
            beats.cancel()

    def thaws(self) -> int:
        """How often the process had been frozen. After a thaw nobody knows who runs first: each looks at the clock."""
        self._beat, before = time.monotonic(), self._beat
        self._thaws += self._beat - before > STALL_SECONDS
        return self._thaws

    async def _beats(self) -> None:
        while True:
            self.thaws()
            await asyncio.sleep(BEAT_SECONDS)

    def ask(self) -> None:
        """Has a tick made now."""
        self._asked = True
        if self._ends is not None:
            self._ends.wake()

    def awaits(self, number: int) -> None:
        """Events came of this tick: when it is confirmed, its reader wants to know."""
        self._awaited.add(number)

    def confirm(self, number: int) -> None:
        """The events of all ticks up to this one are in Airflow's database."""
        self.confirmed = max(self.confirmed, number)
        wanted = {each for each in self._awaited if each <= number}
        if wanted:
            self._awaited -= wanted
            self.ask()


async def _close(_: Ticker) -> None:
    """Nothing is open but while `ticks` is iterated."""


def _new(key: tuple[ClusterConfig, str, Pace]) -> Ticker:
    return Ticker(*key)


tickers: Final[PerLoop[tuple[ClusterConfig, str, Pace], Ticker]] = PerLoop(_new, _close)
