"""How far a mirror has come in the list of finished runs, so that none is lost and none comes twice.

dbt Cloud may list a run a little after it has finished. So each reading begins below the cursor. Some runs are listed
much later, also while no watcher runs. So a watcher begins two hours below the cursor when it starts. The runs of those
two hours that were dealt with are remembered by id. The cursor only moves over what was read to its end and dealt with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from dbtrun.api.mirrors import MAX_RECENT, CursorStatus, Recent
from watcher.lifecycle.facts import RunFacts

OVERLAP: Final = timedelta(minutes=2)
"""How late a finished run may be listed to be found by the next readings."""
LATE_REACH: Final = timedelta(hours=2)
"""How late it may be listed to be found at all: by a look now and then, and by a watcher that starts."""
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
    """Whether `through` is the time of the reading; False: there are more runs after it, and `through` is before the
    overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Every run that finished before `finished_at` and was listed in time has been dealt with."""

    finished_at: datetime
    floor: datetime
    """Runs that finished at or before this time are not looked at any more."""
    since: datetime
    """Where the next reading begins. A status does not keep it: a watcher that starts reads from the floor."""
    recent: Mapping[int, datetime] = field(default_factory=dict)
    """When the runs finished that were dealt with and finished after the floor, by id."""

    @classmethod
    def beginning(cls, since: datetime) -> Cursor:
        """For a mirror that has dealt with nothing yet."""
        return cls(finished_at=since, floor=since, since=since)

    @classmethod
    def stored(cls, status: CursorStatus, selection: str) -> Cursor:
        """As a status has it.

        Args:
            selection: what the mirror selects now. What finished before it selected so is not looked at.
        """
        floor = status.floor if selection == status.selection else max(status.floor, status.finished_at - OVERLAP)
        recent = {each.run_id: each.finished_at for each in status.recent if each.finished_at > floor}
        return cls(finished_at=status.finished_at, floor=floor, since=floor, recent=recent)

    def to_status(self, selection: str) -> CursorStatus:
        """As a status keeps it."""
        recent = sorted(self.recent.items(), key=lambda item: (item[1], item[0]))
        return CursorStatus(
            finished_at=self.finished_at,
            floor=self.floor,
            recent=tuple(Recent(run_id=run_id, finished_at=ended) for run_id, ended in recent),
            selection=selection,
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

    def missed(self, runs: Iterable[RunFacts]) -> list[RunFacts]:
        """Those of the fresh runs that no next reading has."""
        return [run for run in self.fresh(runs) if run.finished_at is not None and run.finished_at < self.since]

    def covers(self, reading: Reading) -> bool:
        """Whether nothing is missing between what was dealt with and the reading."""
        return reading.since <= self.since

    def moved(self, reading: Reading, done: Iterable[RunFacts], left: Sequence[RunFacts]) -> Cursor:
        """After a reading, of whose fresh runs some were dealt with and others were left for the next time.

        Args:
            left: in the order of their ends.
        """
        dealt = self.with_late(done, left)
        if not self.covers(reading):
            return dealt
        waiting = left[0].finished_at if left else None
        # Not over the first run that was left: no later reading would have it.
        reached = reading.through if waiting is None else min(reading.through, waiting - BEFORE)
        finished_at = max(self.finished_at, reached)
        floor = finished_at - LATE_REACH
        if len(dealt.recent) > MAX_RECENT:
            # A status has room for so many. What is older counts as dealt with, although a late run may be among it.
            floor = max(floor, sorted(dealt.recent.values(), reverse=True)[MAX_RECENT])
        # Never back: runs below the floor are forgotten, and would come again.
        floor = max(self.floor, min(floor, reached))
        # A piece of a list ends with what was listed long ago, or else the next reading could begin with it again.
        since = max(self.since, reached - (OVERLAP if reading.complete else BEFORE))
        return Cursor(
            finished_at=finished_at,
            floor=floor,
            since=max(floor, since if waiting is None else min(since, waiting - BEFORE)),
            recent={run_id: ended for run_id, ended in dealt.recent.items() if ended > floor},
        )

    def with_late(self, done: Iterable[RunFacts], left: Sequence[RunFacts]) -> Cursor:
        """After runs that were listed later than assumed. Those that were left are read again.

        Args:
            left: in the order of their ends.
        """
        ends = {run.run_id: run.finished_at for run in done if run.finished_at is not None}
        recent = dict(self.recent) | {run_id: ended for run_id, ended in ends.items() if ended > self.floor}
        waiting = left[0].finished_at if left else None
        since = self.since if waiting is None else max(self.floor, min(self.since, waiting - BEFORE))
        return replace(self, since=since, recent=recent)

    def for_another_selection(self) -> Cursor:
        """After the selection has changed: what finished before is not looked at, although it was never dealt with."""
        floor = max(self.floor, min(self.since, self.finished_at - OVERLAP))
        recent = {run_id: ended for run_id, ended in self.recent.items() if ended > floor}
        return replace(self, floor=floor, since=max(floor, self.since), recent=recent)


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
    caught_up = {uid: c for uid, c in cursors.items() if frontier is None or c.since >= frontier - 2 * OVERLAP}
    behind = {uid: c for uid, c in cursors.items() if uid not in caught_up}
    return [
        Lane(min(cursor.since for cursor in group.values()), tuple(sorted(group)))
        for group in (caught_up, behind)
        if group
    ]
