"""Which runs are to be polled next. A heap, since ten thousand runs must not be looked through to find a hundred."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from dbtrun.values import Instant

SPARE: Final = 100
"""Outdated entries that the heap may hold beside as many as it has runs."""


@dataclass(slots=True, eq=False)
class Followed:
    """A run that one or more objects follow."""

    run_id: int
    due: float
    intervals: dict[str, float] = field(default_factory=dict)
    """Seconds between two polls, as each uid wants it."""
    asked: bool = False
    """A poll is under way."""
    again: bool = False
    """An object was in a hurry while a poll was under way, whose answer may be from before."""
    told_at: float = -math.inf
    """When the last report was asked for: an answer that was asked for earlier is outdated."""
    over: bool = False
    """Its end was reported."""
    unreadable_since: Instant | None = None

    @property
    def interval(self) -> float:
        """The shortest that anybody wants."""
        return min(self.intervals.values())


class Schedule:
    """Runs by due time, each once however many uids follow it. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._runs: dict[int, Followed] = {}
        self._run_of: dict[str, int] = {}
        self._heap: list[tuple[float, int, Followed]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Followed]:
        return iter(self._runs.values())

    def get(self, run_id: int) -> Followed | None:
        """The run, if anybody follows it."""
        return self._runs.get(run_id)

    def of(self, uid: str) -> Followed | None:
        """The run that the uid follows."""
        run_id = self._run_of.get(uid)
        return None if run_id is None else self._runs.get(run_id)

    def follow(self, uid: str, run_id: int, interval: float, due: float) -> bool:
        """Adds a uid to a run; a uid follows one run at a time. False: it follows it already."""
        known = self.of(uid)
        if known is not None and known.run_id == run_id:
            if known.intervals[uid] == interval:
                return False
            known.intervals[uid] = interval
            self.hasten(known, due)
            return True
        self.unfollow(uid)
        run = self._runs.setdefault(run_id, Followed(run_id, math.inf))
        run.intervals[uid] = interval
        self._run_of[uid] = run_id
        self.hasten(run, due)
        return True

    def unfollow(self, uid: str) -> bool:
        """Takes a uid from its run; a run that nobody follows is forgotten. False: the uid follows none."""
        run = self.of(uid)
        if run is None:
            return False
        del self._run_of[uid]
        del run.intervals[uid]
        if not run.intervals:
            del self._runs[run.run_id]
        return True

    def hasten(self, run: Followed, due: float) -> None:
        """Polls the run at `due` at the latest."""
        if run.asked:
            run.again = True
        elif due < run.due:
            self.put(run, due)

    def put(self, run: Followed, due: float) -> None:
        """Polls the run at `due`."""
        run.due = due
        # The entry of before stays, as taking it out would cost a search; `_valid` skips it. The number
        # keeps two runs that are due at once from being compared.
        heapq.heappush(self._heap, (due, next(self._order), run))
        if len(self._heap) > 2 * len(self._runs) + SPARE:
            self._heap = [entry for entry in self._heap if self._valid(entry)]
            heapq.heapify(self._heap)

    def next_due(self) -> float | None:
        """When the first run is due that is not being asked for."""
        while self._heap and not self._valid(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now: float, size: int) -> list[Followed]:
        """The runs that are due, filled up with those that have waited half of their interval: they come for free."""
        taken: list[Followed] = []
        while len(taken) < size and self.next_due() is not None:
            due, _, run = self._heap[0]
            if due > now + (run.interval / 2 if taken else 0.0):
                break
            heapq.heappop(self._heap)
            run.asked = True
            taken.append(run)
        return taken

    def give_back(self, run: Followed, due: float, now: float) -> None:
        """Ends a poll of a run that was taken."""
        run.asked = False
        # Meanwhile everybody may have left, and another entry for the same run id may have come.
        if self._runs.get(run.run_id) is run:
            self.put(run, now if run.again else due)
        run.again = False

    def _valid(self, entry: tuple[float, int, Followed]) -> bool:
        due, _, run = entry
        return not run.asked and run.due == due and self._runs.get(run.run_id) is run
