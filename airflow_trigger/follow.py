"""What a trigger makes of the states that it is told. Pure: the clock comes as an argument."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from airflow_trigger import event
from airflow_trigger.objects import Denied, Gone, Run, State

if TYPE_CHECKING:
    from airflow_trigger.event import Payload, Subject


class Todo(Enum):
    """What to do while there is no event yet."""

    WAIT = "wait"
    CREATE = "create"


WAIT: Final = Todo.WAIT
CREATE: Final = Todo.CREATE


@dataclass(slots=True)
class Follower:
    """Judges the states of one DbtRun.

    `adopts` is the dbt Cloud run for which the object may be created; None: it must exist. `grace` is how many seconds
    a refusal may last: a Role is often granted a moment after the DAG, and rotated credentials take a while.
    """

    subject: Subject
    adopts: int | None
    grace: float
    last: Run | None = None
    denied_since: float | None = None

    def judge(self, state: State, now: float) -> Payload | Todo:
        """The event, or what to do until there is one. `now` is in seconds of any steady clock."""
        if isinstance(state, Denied):
            return self._refused(state, now)
        if isinstance(state, Gone):
            return self._gone(state)
        self.denied_since = None
        return self._seen(state.run)

    def _refused(self, state: Denied, now: float) -> Payload | Todo:
        if self.denied_since is None:
            self.denied_since = now
        lasted = now - self.denied_since
        return event.no_access(self.subject.of(self.last), state.message, lasted) if lasted >= self.grace else WAIT

    def _gone(self, state: Gone) -> Payload | Todo:
        last = state.last or self.last
        if last is not None and last.final and self._is_ours(last):
            return event.ended(self.subject, last)
        if self.adopts is not None and self.last is None:
            return CREATE
        return event.deleted(self.subject, last)

    def _seen(self, run: Run) -> Payload | Todo:
        if not self._is_ours(run):
            return self._taken(run)
        if run.final:
            return event.ended(self.subject, run)
        # One that is already going away is not followed: an adopted run gets a new object when it is gone.
        if self.last is not None or not run.deleting or self.adopts is None:
            self.last = run
        return WAIT

    def _is_ours(self, run: Run) -> bool:
        if self.last is not None and run.metadata.uid != self.last.metadata.uid:
            return False
        return self.adopts is None or run.spec.run_id == self.adopts

    def _taken(self, run: Run) -> Payload:
        if self.last is not None:
            return event.deleted(self.subject, self.last)
        return event.not_accepted(
            self.subject,
            f"an object of that name follows {_what(run)}; delete it, or give the trigger the name of another",
        )


def _what(run: Run) -> str:
    return "a job" if run.spec.run_id is None else f"run {run.spec.run_id}"
