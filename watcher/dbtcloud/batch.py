"""What a list of runs says, and how far it can be believed: no public client uses some of these filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from watcher.dbtcloud import wire
from watcher.dbtcloud.channel import Page
from watcher.dbtcloud.errors import DbtCloudError, ServerFault
from watcher.lifecycle.facts import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a list of runs said."""

    supported: bool = True
    """False: dbt Cloud ignored or refused the filter. What is here is true, but what is not here means nothing."""
    observations: Mapping[int, Observation] = field(default_factory=dict)
    """By run id."""
    unreadable: Mapping[int, DbtCloudError] = field(default_factory=dict)
    """Runs that were listed and say something that we do not understand."""
    missing: tuple[int, ...] = ()
    """Ids asked for and not listed. Not an end: it is confirmed by asking for the run alone."""
    complete: bool = True
    """False: there are more pages than were read."""
    pages: int = 1
    """Requests that it cost."""


class Findings:
    """Collects what the pages of one list of runs say."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._observations: dict[int, Observation] = {}
        self._unreadable: dict[int, DbtCloudError] = {}
        self.pages = 0

    def add(self, page: Page[wire.Run], belongs: Callable[[wire.Run], bool]) -> None:
        """Takes the runs of a page that belong to the list."""
        self.pages += 1
        at, offset = page.received.sent, page.received.clock_offset
        for run in filter(belongs, page.items):
            try:
                facts = run.facts(self._base_url)
            except ServerFault as error:
                # One run with a status that this version does not know must not hide the other ninety-nine.
                self._unreadable[run.id] = error
            else:
                self._observations[run.id] = Observation(run=facts, at=at, clock_offset=offset)

    def batch(self, *, supported: bool = True, complete: bool = True, missing: tuple[int, ...] = ()) -> Batch:
        """What all pages said."""
        return Batch(
            supported=supported,
            observations=self._observations,
            unreadable=self._unreadable,
            missing=missing,
            complete=complete,
            pages=max(1, self.pages),
        )
