"""What pollers and run slots report, kept for a test to look at."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from dbtrun.api import Reason
from tests.unit.virtual import now
from watcher.lifecycle.facts import Observation, Place, Trouble


@dataclass
class Heard:
    """A listener. Each report is kept with the time at which it came."""

    observations: list[tuple[float, str, Observation]] = field(default_factory=list)
    troubles: list[tuple[float, tuple[str, ...], Trouble]] = field(default_factory=list)
    answers: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    places: dict[str, Place | None] = field(default_factory=dict)
    """The last of each object."""
    placings: int = 0
    granted: list[str] = field(default_factory=list)
    turns: list[tuple[float, str]] = field(default_factory=list)
    log: list[tuple[str, object]] = field(default_factory=list)
    """Of each object in their order: the id of a run that was observed, the reason of a trouble, or a place."""
    on_end: Callable[[str], object] = lambda _uid: None
    on_grant: Callable[[str], object] = lambda _uid: None

    def observed(self, uid: str, run_id: int, observation: Observation) -> None:
        assert observation.run is None or observation.run.run_id == run_id
        self.log.append((uid, run_id))
        self.observations.append((now(), uid, observation))
        if observation.run is None or observation.run.state.over:
            self.on_end(uid)

    def troubled(self, uids: Collection[str], trouble: Trouble) -> None:
        self.log.extend((uid, trouble.reason) for uid in uids)
        self.troubles.append((now(), tuple(uids), trouble))

    def answering(self, uids: Collection[str]) -> None:
        self.log.extend((uid, Reason.ANSWERING) for uid in uids)
        self.answers.append((now(), tuple(uids)))

    def placed(self, uid: str, place: Place | None) -> None:
        self.log.append((uid, place))
        self.places[uid] = place
        self.placings += 1
        if place is None:
            self.granted.append(uid)
            self.on_grant(uid)

    def turned(self, uid: str) -> None:
        self.turns.append((now(), uid))

    def reasons(self, uids: Collection[str]) -> list[Reason]:
        """Why these objects together were in trouble, and that they no longer are."""
        reports = [(at, trouble.reason) for at, about, trouble in self.troubles if about == tuple(uids)]
        reports += [(at, Reason.ANSWERING) for at, about in self.answers if about == tuple(uids)]
        return [reason for _, reason in sorted(reports, key=lambda report: report[0])]
