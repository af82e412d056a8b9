"""One clock for the whole simulator, because two would disagree.

The script of a run (queued 2 s, running 60 s) passes in *virtual* seconds, `speed` times faster than the wall's. What
the API reports are *stamps*: the wall's time plus `offset`, as a server whose clock is wrong would report them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_started = time.time() - time.monotonic()


def wall() -> float:
    """Seconds since the epoch that never go back, whatever is done to the machine's clock."""
    return _started + time.monotonic()


@dataclass(frozen=True, slots=True)
class Anchor:
    """The instant of the last change of speed; virtual time counts from it."""

    wall: float
    virtual: float
    speed: float = 1.0
    offset: float = 0.0


class Clock:
    """The simulated time, which can run faster than the real one, and ahead of it or behind it."""

    def __init__(self, speed: float = 1.0, offset: float = 0.0, source: Callable[[], float] = wall) -> None:
        self._source = source
        instant = source()
        self.anchor = Anchor(instant, instant, speed, offset)

    def real(self) -> float:
        """The wall's time, in seconds since the epoch: network faults count in it."""
        return self._source()

    def now(self) -> float:
        """Virtual seconds."""
        return self.anchor.virtual + (self.real() - self.anchor.wall) * self.anchor.speed

    def stamp(self, virtual: float) -> float:
        """What this server's calendar said at a virtual instant, in seconds since the epoch."""
        return self.anchor.wall + (virtual - self.anchor.virtual) / self.anchor.speed + self.anchor.offset

    def set(self, speed: float | None = None, offset: float | None = None) -> None:
        """Move the anchor to now. The owner of runs must advance them first: their times belong to the old anchor."""
        self.anchor = Anchor(
            self.real(),
            self.now(),
            self.anchor.speed if speed is None else speed,
            self.anchor.offset if offset is None else offset,
        )
