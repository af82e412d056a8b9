"""What is known of a run outside its object: the facts that dbt Cloud reported, and the faults met while asking.

The status survives a restart, these facts do not: deciding must be safe when all of them are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from dbtrun.api import Reason
from dbtrun.values import Instant


class RunState(IntEnum):
    """dbt Cloud's run status codes (`status` of a run)."""

    # Documented in the OpenAPI description's prose. A run that timed out ends with 30, not with 20 (observed).
    QUEUED = 1
    STARTING = 2
    RUNNING = 3
    SUCCESS = 10
    ERROR = 20
    CANCELLED = 30

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self >= RunState.SUCCESS


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """One step of a run; `status` is dbt Cloud's word for people, `log` the end of a failed step's log."""

    index: int
    name: str
    state: int
    status: str
    started_at: datetime | None = None
    finished_at: datetime | None = None
    log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run as dbt Cloud reports it. Times are by dbt Cloud's clock."""

    run_id: int
    account_id: int
    job_id: int
    project_id: int | None = None
    environment_id: int | None = None
    state: RunState
    message: str = ""
    url: str | None = None
    cause: str | None = None
    """The trigger's cause; None when the reply did not include the trigger."""
    cause_category: str | None = None
    """What started the run, in dbt Cloud's word; None when the reply does not say."""
    retrying_run_id: int | None = None
    can_retry: bool = False
    retry_refusal: str | None = None
    """Why dbt Cloud would not resume it from its failure, in dbt Cloud's words."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    steps: tuple[StepFacts, ...] | None = None
    """None when the reply did not include the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What dbt Cloud said of a run, when, and how its clock then stood to ours."""

    run: RunFacts | None
    """None: dbt Cloud says, asked for exactly this id, that there is no such run."""
    at: Instant
    clock_offset: timedelta = timedelta(0)
    """dbt Cloud's clock minus ours, from the Date header of the reply; deadlines on dbt Cloud's times need it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why dbt Cloud cannot be asked now, in a sentence for the object's status."""

    reason: Reason
    message: str
    since: Instant
    retry_at: float | None = None
    """Monotonic seconds before which nothing must be sent on this account; None: as backoff says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an object stands in the line for a run slot of its connection."""

    within: int | None
    """It is among the first so many, rounded up; None: not known yet."""
    limit: int
    """Live runs of the account at which nothing more is started."""
    priority: int
    """The object's priority when it was put in the line."""


@dataclass(frozen=True, slots=True)
class Started:
    """dbt Cloud answered with a run: it exists."""

    run: RunFacts


@dataclass(frozen=True, slots=True)
class Refused:
    """dbt Cloud refused clearly and will refuse again: nothing was started."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """Nothing was started and a later try may do: no connection, a refused token, a rate limit."""

    trouble: Trouble


@dataclass(frozen=True, slots=True)
class Undecided:
    """It may have been carried out: a time-out, a dropped connection, any 5xx, an answer that is not the known JSON."""

    message: str


Submission = Started | Refused | NotSent | Undecided
