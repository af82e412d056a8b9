"""How far a watcher has come: which runs it has reported, so that a restart loses and repeats none. Pure.

It is no resourceVersion, which a restore sets back and any later write moves, and not dbt Cloud's end of a run: a run
may be found long after it ended. It is the instant at which the object became final, less an overlap for writes that
overtake each other, with the runs within that overlap that were told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow_trigger.reacting.selection import EPOCH, ended_at
from dbtrun.values import digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_trigger.shared.objects import Run

OVERLAP: Final = timedelta(minutes=10)
MOST_KEYS: Final = 2_000
"""They are stored as one value of some 64 kB."""


def key_of(run: Run) -> str:
    """The same for the same dbt Cloud run, whichever object follows it; an object without a run is its own."""
    if run.run_id is None:
        return f"dbtrun/{run.metadata.uid}"
    return f"{run.status.account_id or run.spec.account_id or 0}/{run.run_id}"


@dataclass(frozen=True)
class Position:
    """Everything that ended before `floor` is done, and so is what `told` names.

    `told` has digests of keys, with the second at which each ended. `through` is until when the namespace was watched.
    """

    floor: datetime
    through: datetime
    told: tuple[tuple[str, int], ...] = ()

    def fresh(self, runs: Iterable[Run]) -> list[Run]:
        """Those that were not reported, the oldest first, each dbt Cloud run once."""
        known = {name for name, _ in self.told}
        found = {_name(run): run for run in sorted(runs, key=ended_at, reverse=True) if ended_at(run) >= self.floor}
        return sorted((run for name, run in found.items() if name not in known), key=ended_at)

    def after(self, runs: Iterable[Run], now: datetime) -> Position:
        """The position once these are reported too.

        An instant in the future raises no floor: one watcher's wrong clock would hide the runs of all others.
        """
        # Seconds, also of what was reported before: a position must come back from JSON as it was.
        told = dict(self.told) | {_name(run): int(ended_at(run).timestamp()) for run in runs}
        newest = max(told.values(), default=0)
        floor = max(self.floor, min(_instant(newest), now) - OVERLAP)
        return replace(self, floor=floor, through=now, told=tuple(told.items()))._trimmed()

    def joined(self, other: Position) -> Position:
        """What two that watched at the same time know together."""
        both = dict(self.told) | dict(other.told)
        floor, through = max(self.floor, other.floor), max(self.through, other.through)
        return Position(floor, through, tuple(both.items()))._trimmed()

    def reaches_back(self, runs: Iterable[Run], now: datetime) -> bool:
        """Whether nothing can be missing that ended while nobody watched.

        Finished objects are deleted from the oldest on. So if one is there that ended before the pause, all that ended
        within it are there. A pause that is shorter than the overlap is no pause.
        """
        return now - self.through < OVERLAP or any(ended_at(run) <= self.through for run in runs)

    def _trimmed(self) -> Position:
        floor = int(self.floor.timestamp())
        newest_first = sorted((each for each in self.told if each[1] >= floor), key=lambda each: each[1], reverse=True)
        if len(newest_first) <= MOST_KEYS:
            return replace(self, told=tuple(newest_first))
        # One whole second is given up: of two runs in it, one would be reported again and the other not.
        floor = newest_first[MOST_KEYS][1] + 1
        kept = tuple(each for each in newest_first[:MOST_KEYS] if each[1] >= floor)
        return replace(self, floor=_instant(floor), told=kept)

    def stored(self) -> dict[str, Any]:
        """As JSON primitives."""
        return {
            "floor": int(self.floor.timestamp()),
            "through": int(self.through.timestamp()),
            "told": dict(self.told),
        }

    @classmethod
    def read(cls, stored: Any) -> Position:
        """From what `stored` returned.

        Raises:
            ValueError: it is something else.
        """
        try:
            told = tuple((str(name), int(second)) for name, second in stored["told"].items())
            return cls(_instant(int(stored["floor"])), _instant(int(stored["through"])), told)
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"this is not a position: {error!r}") from None


def beginning(now: datetime) -> Position:
    """Before everything."""
    return Position(EPOCH, now)


def from_now(runs: Iterable[Run], now: datetime) -> Position:
    """After all that are over. They are named: the clock here may be ahead of the watcher's."""
    return Position(now - OVERLAP, now).after((run for run in runs if ended_at(run) >= now - OVERLAP), now)


def _name(run: Run) -> str:
    return digest(key_of(run), 16)


def _instant(second: int) -> datetime:
    return datetime.fromtimestamp(second, tz=UTC)
