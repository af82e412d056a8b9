"""How far a mirror has come in the list of finished runs, so that none is lost and none comes twice.

dbt Cloud may list a run a little after it has finished. So each reading begins below the cursor, and the runs in that
overlap which were dealt with are remembered by id. The cursor only moves over what was read to its end and dealt with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from dbtrun.api.mirrors import MAX_RECENT, CursorStatus, Recent
from watcher.lifecycle.facts import RunFacts

OVERLAP: Final = timedelta(minutes=2)
"""How late a finished run may be listed."""
BEFORE: Final = timedelta(microseconds=1)
LONGEST_BACK: Final = timedelta(days=7)
"""How far back a new mirror begins at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All runs that finished from `since` to `through`, by dbt Cloud's clock."""

    since: datetime
    through: datetime
    runs: tuple[RunFacts, ...]
    complete: bool = True
    """Whether `through` is the time of the reading; False: there are more runs after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Every run that finished before `finished_at` and was listed in time has been dealt with."""

    finished_at: datetime
    floor: datetime
    """Runs that finished at or before this time are not looked at any more."""
    recent: Mapping[int, datetime] = field(default_factory=dict)
    """When the runs finished that were dealt with and finished after the floor, by id."""

    @classmethod
    def beginning(cls, since: datetime) -> Cursor:
        """For a mirror that has dealt with nothing yet."""
        return cls(finished_at=since, floor=since)

    @classmethod
    def stored(cls, status: CursorStatus) -> Cursor:
        """As a status has it."""
        recent = {each.run_id: each.finished_at for each in status.recent}
        return cls(finished_at=status.finished_at, floor=status.floor, recent=recent)

    def to_status(self) -> CursorStatus:
        """As a status keeps it."""
        recent = sorted(self.recent.items(), key=lambda item: (item[1], item[0]))
        return CursorStatus(
            finished_at=self.finished_at,
            floor=self.floor,
            recent=tuple(Recent(run_id=run_id, finished_at=ended) for run_id, ended in recent),
        )

    def knows(self, run_id: int, finished_at: datetime) -> bool:
        """Whether the run does not come again: only then may its DbtRun be pruned.

        A watcher that ends after it has created an object leaves a cursor behind that does not know of it.
        """
        return finished_at <= self.floor or run_id in self.recent

    def fresh(self, runs: Iterable[RunFacts]) -> list[RunFacts]:
        """The runs that were not dealt with yet, in the order of their ends."""
        found = [run for run in runs if run.finished_at is not None and not self.knows(run.run_id, run.finished_at)]
        return sorted(found, key=_order)

    def covers(self, reading: Reading) -> bool:
        """Whether nothing is missing between what was dealt with and the reading."""
        return reading.since <= self.floor

    def moved(self, reading: Reading, done: Collection[RunFacts], left: Sequence[RunFacts]) -> Cursor:
        """After a reading, of whose fresh runs some were dealt with and others were left for the next time.

        Args:
            left: in the order of their ends.
        """
        ends = dict(self.recent) | {run.run_id: run.finished_at for run in done if run.finished_at is not None}
        waiting = left[0].finished_at if left else None
        through = reading.through if waiting is None else min(reading.through, waiting)
        if not self.covers(reading):
            through = self.finished_at
        return _bounded(max(self.finished_at, through), self.floor, ends, waiting)

    def with_late(self, done: Iterable[RunFacts]) -> Cursor:
        """After runs that were listed later than assumed."""
        ends = dict(self.recent) | {run.run_id: run.finished_at for run in done if run.finished_at is not None}
        return _bounded(self.finished_at, self.floor, ends, None)


def _bounded(finished_at: datetime, floor: datetime, ends: Mapping[int, datetime], waiting: datetime | None) -> Cursor:
    """The cursor with a floor that lets the runs above it be remembered, and is below those that wait."""
    lowest, floor = floor, max(floor, finished_at - OVERLAP)
    if len(ends) > MAX_RECENT:
        newest = sorted(ends.values(), reverse=True)
        floor = max(floor, newest[MAX_RECENT])
    if waiting is not None:
        floor = max(lowest, min(floor, waiting - BEFORE))
    return Cursor(
        finished_at=finished_at,
        floor=floor,
        recent={run_id: ended for run_id, ended in ends.items() if ended > floor},
    )


def _order(run: RunFacts) -> tuple[datetime, int]:
    assert run.finished_at is not None  # noqa: S101 - those without an end were left out
    return run.finished_at, run.run_id


def begins_at(created: datetime | None, since: datetime | None, now: datetime) -> datetime:
    """From where on a new mirror shows runs: `spec.since`, or its own creation."""
    wanted = since or created or now
    return max(wanted, now - LONGEST_BACK)


@dataclass(frozen=True, slots=True)
class Lane:
    """Mirrors that one reading serves."""

    since: datetime
    members: tuple[str, ...]


def lanes(cursors: Mapping[str, Cursor], frontier: datetime | None) -> list[Lane]:
    """The readings that serve all mirrors: one for those that have caught up, and one for those that are behind.

    Args:
        frontier: up to where the last complete reading went; None: there was none.
    """
    caught_up = {uid: c for uid, c in cursors.items() if frontier is None or c.finished_at >= frontier - OVERLAP}
    behind = {uid: c for uid, c in cursors.items() if uid not in caught_up}
    return [
        Lane(min(cursor.floor for cursor in group.values()), tuple(sorted(group)))
        for group in (caught_up, behind)
        if group
    ]
