"""Whose turn it is: namespaces take turns, so that one team's backlog does not delay another team's single run.

Stride scheduling (Waldspurger and Weihl, 1995): each namespace has a virtual time that advances by 1/weight with each
turn, and the namespace that is furthest behind goes next. Within a namespace the highest priority goes first, then the
oldest object, so that a restart of the watcher does not change the order.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

NO_WEIGHTS: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """An object that waits for its turn."""

    uid: str
    namespace: str
    priority: int = 0
    """Higher goes first, within the namespace."""
    created: float = 0.0
    """What decides between equal priorities, smaller first: usually when the object was created, in seconds."""

    @property
    def rank(self) -> tuple[int, float, str]:
        """Its order within the namespace: smaller goes first."""
        return (-self.priority, self.created, self.uid)


@dataclass(slots=True)
class _Line:
    weight: int
    next_at: float
    """Virtual time of the namespace's next turn."""
    waiting: list[Applicant] = field(default_factory=list)
    """In order of rank."""


class FairQueue:
    """A queue of applicants. Each operation costs at most O(namespaces + applicants of one namespace).

    Args:
        weights: turns of a namespace for each turn of a namespace without a weight.
    """

    def __init__(self, weights: Mapping[str, int] = NO_WEIGHTS) -> None:
        self._weights = weights
        self._lines: dict[str, _Line] = {}
        self._applicants: dict[str, Applicant] = {}
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._applicants)

    def __contains__(self, uid: str) -> bool:
        return uid in self._applicants

    @property
    def by_namespace(self) -> dict[str, int]:
        """How many wait in each namespace in which any do."""
        return {name: len(line.waiting) for name, line in self._lines.items() if line.waiting}

    def push(self, applicant: Applicant) -> None:
        """Adds the applicant. One that waits already keeps waiting, with its new priority."""
        if self._applicants.get(applicant.uid) == applicant:
            return
        self.discard(applicant.uid)
        line = self._lines.get(applicant.namespace)
        if line is None:
            line = self._lines[applicant.namespace] = _Line(self._weights.get(applicant.namespace, 1), self._now)
        if not line.waiting:
            line.next_at = max(line.next_at, self._now)  # an idle namespace saves no turns up
        bisect.insort(line.waiting, applicant, key=lambda one: one.rank)
        self._applicants[applicant.uid] = applicant

    def discard(self, uid: str) -> None:
        """Removes an applicant; an unknown uid is no error."""
        applicant = self._applicants.pop(uid, None)
        if applicant is not None:
            waiting = self._lines[applicant.namespace].waiting
            del waiting[bisect.bisect_left(waiting, applicant.rank, key=lambda one: one.rank)]

    def pop(self) -> Applicant:
        """Removes and returns the applicant whose turn it is.

        Raises:
            IndexError: nobody waits.
        """
        waiting = [line for line in self._lines.values() if line.waiting]
        if not waiting:
            raise IndexError("nobody waits")
        line = min(waiting, key=lambda one: one.next_at)
        applicant = line.waiting.pop(0)
        del self._applicants[applicant.uid]
        self._now = line.next_at
        line.next_at += 1 / line.weight
        # A namespace that waits for nothing and has no turn to pay back is as good as unknown.
        for namespace in [name for name, one in self._lines.items() if not one.waiting and one.next_at <= self._now]:
            del self._lines[namespace]
        return applicant

    def order(self) -> Iterator[Applicant]:
        """The applicants in the order in which their turns would come if nobody else applied."""
        # `at` decides between equal times, as `pop` does: the line that was there first.
        upcoming = [(line.next_at, at, 0, line) for at, line in enumerate(self._lines.values()) if line.waiting]
        heapq.heapify(upcoming)
        while upcoming:
            time, at, index, line = upcoming[0]
            yield line.waiting[index]
            if index + 1 < len(line.waiting):
                heapq.heapreplace(upcoming, (time + 1 / line.weight, at, index + 1, line))
            else:
                heapq.heappop(upcoming)

    def ahead(self, uid: str) -> int:
        """How many turns come before the applicant's, if nobody else applies.

        Raises:
            KeyError: it does not wait.
        """
        applicant = self._applicants[uid]
        own = self._lines[applicant.namespace]
        index = bisect.bisect_left(own.waiting, applicant.rank, key=lambda one: one.rank)
        time = own.next_at + index / own.weight
        others = (line for line in self._lines.values() if line is not own)
        return index + sum(
            min(len(line.waiting), max(0, math.ceil((time - line.next_at) * line.weight))) for line in others
        )
