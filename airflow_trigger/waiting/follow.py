"""What a trigger makes of the states that it gets. Pure: the clock comes as an argument."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from airflow_trigger.shared.objects import Denied, Gone, Run, State
from airflow_trigger.waiting import event
from dbtrun.api import Phase

if TYPE_CHECKING:
    from airflow_trigger.waiting.event import Payload, Subject
    from airflow_trigger.waiting.waits import Wait


class Todo(Enum):
    """What to do while there is no event yet."""

    WAIT = "wait"
    CREATE = "create"


HELD_SECONDS: Final = 10.0
SOON_SECONDS: Final = 30.0
"""Between the deferral and the start of its trigger: usually a second, and the clocks of two machines."""
WAIT: Final = Todo.WAIT
CREATE: Final = Todo.CREATE


class News:
    """How an object stands, for a task's log: each change once."""

    __slots__ = ("_told",)

    def __init__(self) -> None:
        self._told = ""

    def of(self, run: Run) -> str | None:
        """What is new."""
        told = standing(run)
        if told == self._told:
            return None
        self._told = told
        return told


def standing(run: Run) -> str:
    """Phase, reason and message of an object, and whether dbt Cloud can be reached."""
    status = run.status
    told = " ".join(filter(None, (status.phase or Phase.PENDING, status.reason and f"({status.reason})")))
    told = f"{told}: {status.message or 'no watcher has seen it yet'}"
    for unreachable in status.conditions:
        if unreachable.reason != status.reason:  # else the message says it already
            told = f"{told} dbt Cloud cannot be reached ({unreachable.reason}): {unreachable.message}"
    return told


@dataclass(slots=True)
class Follower:
    """Judges the states of one DbtRun.

    `grace` is how many seconds a refusal may last: a Role is often granted a moment after the DAG, and rotated
    credentials take a while. `trouble` is what kept the object from being created or read, for the sentence of a wait
    that was too long.
    """

    subject: Subject
    grace: float
    wait: Wait
    last: Run | None = None
    denied_since: float | None = None
    trouble: str = ""
    _news: News = field(default_factory=News)

    @property
    def begun(self) -> bool:
        """Whether there is a run, or was one: until then, a problem may be reported at any moment."""
        return self.last is not None and self.last.status.phase not in ("", Phase.PENDING, Phase.SUBMITTING)

    def news(self) -> str | None:
        """How the object stands, for the log, if that is new since it was asked for last."""
        return None if self.last is None else self._news.of(self.last)

    def judge(self, state: State, now: float) -> Payload | Todo:
        """The event, or what to do until there is one. `now` is in seconds of any steady clock."""
        if isinstance(state, Denied):
            if self.denied_since is None:
                self.denied_since = now
            lasted = now - self.denied_since
            return event.no_access(self.subject.of(self.last), state.message, lasted) if lasted >= self.grace else WAIT
        if isinstance(state, Gone):
            last = state.last or self.last
            # It may have ended and expired between two looks: its TTL can be a few seconds.
            if last is not None and last.final and self._is_ours(last):
                return event.ended(self.subject, last)
            if self.wait.adopts and self.last is None:
                return CREATE
            return event.deleted(self.subject, last)
        self.denied_since = None
        return self._seen(state.run)

    def _seen(self, run: Run) -> Payload | Todo:
        if not self._is_ours(run):
            if self.last is not None:
                return event.deleted(self.subject, self.last)
            return event.not_accepted(self.subject, taken_by(run))
        if run.final:
            return event.ended(self.subject, run)
        # One that is already going away is not followed: an adopted run gets a new object when it is gone.
        if self.last is not None or not run.deleting or not self.wait.adopts:
            self.last = run
        return WAIT

    def _is_ours(self, run: Run) -> bool:
        if self.last is not None and run.metadata.uid != self.last.metadata.uid:
            return False
        return self.wait.is_followed_by(run.spec)


def taken_by(run: Run) -> str:
    """What is wrong with an object that has the name but not the spec."""
    followed = "a job" if run.spec.run_id is None else f"run {run.spec.run_id}"
    by = f" by connection {run.spec.connection_ref.name}" if run.spec.connection_ref else ""
    return f"an object of that name follows {followed}{by}; delete it, or give the trigger the name of another"


def held(deferred_at: float | None, began: float, now: float) -> float:
    """For how many seconds an event is held back.

    Airflow fails a task whose event comes before its scheduler knows that the task's first process is over: it takes
    the end of that process for the end of the second. The scheduler learns it some seconds after the deferral. So an
    event is held until HELD_SECONDS after the trigger began, if it began soon after the deferral. A trigger that began
    later, as after a restart of the triggerer, is past that.

    Args:
        deferred_at: when a worker deferred the task, in seconds since the epoch; None: none did.
        began: when the trigger began to run.
        now: when the event is there.
    """
    if deferred_at is None or began - deferred_at > SOON_SECONDS:
        return 0.0
    return max(0.0, began + HELD_SECONDS - now)
