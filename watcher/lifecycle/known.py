"""What this process remembers of one object besides the object: lost on a restart, and then learnt again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from watcher.api import Artifact, DbtRun, Phase, Reason
from watcher.lifecycle.facts import Details, Instant, Observation, Place, RunFacts, Submission, Trouble

DENIED_INTERVAL: Final = 5
"""Seconds between two polls of a run that dbt Cloud has denied: one denial may be a lagging replica."""


DOUBTFUL: Final = frozenset({Reason.UNAUTHORIZED, Reason.FORBIDDEN, Reason.INVALID_CONNECTION})
"""Troubles that another token may mend: the connection is read anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """A finished search for the runs of a claim."""

    at: float
    """Monotonic seconds at which the search began."""
    tries: int
    found: tuple[RunFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim found in the status: made by this process (`own`) or met there, by another or before a crash."""

    number: int
    time: datetime
    since: float
    """Monotonic seconds. Own: before the claim was written. Met: when it was first seen, later than it was made."""
    own: bool = False
    sent: bool = False
    submission: Submission | None = None
    lookup: LookUp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTry:
    """The last cancel request for a run."""

    run_id: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailsTry:
    """The last request for a run's details; `over`: it was made after the run's end."""

    run_id: int
    at: float
    tries: int
    over: bool
    details: Details | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepTry:
    """The last try to keep the files of an ended run."""

    run_id: int
    at: float
    tries: int
    artifacts: tuple[Artifact, ...]
    """Each file that was asked for, of earlier tries too."""
    again: bool
    """Whether another try may bring more: a file was not there yet, or somebody did not answer."""

    @property
    def lacking(self) -> tuple[str, ...]:
        """The paths of the files that are not kept."""
        return tuple(artifact.path for artifact in self.artifacts if not artifact.kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Everything about one object that is not in the object."""

    account_id: int | None = None
    """The account of the connection in use; None: the connection must be (re)read first."""
    trouble: Trouble | None = None
    answered: bool = False
    """dbt Cloud has answered this process about this object since the last trouble."""
    job_id: int | None = None
    job_refused: str | None = None
    """Why the job's names do not name one job."""
    reusable: RunFacts | None = None
    reuse_checked: bool = False
    observation: Observation | None = None
    missing_since: float | None = None
    about: int | None = None
    """The run that the observation is about: a denial carries no id."""
    attempt: int = 0
    """Number of the newest attempt that the status ever had: it never falls, unless somebody empties the status."""
    place: Place | None = None
    """Where the object stands in the line for a run slot; None: nothing is known to hold its start back."""
    claim: Claim | None = None
    cancel: CancelTry | None = None
    unwritten: bool = False
    """The last try to write the status failed: what is owed to dbt Cloud and to a deletion does not wait for it."""
    details: DetailsTry | None = None
    kept: KeepTry | None = None
    swept: frozenset[int] = field(default_factory=frozenset)
    """Numbers of the attempts whose twins were looked for."""
    typical: timedelta | None = None
    """How long the job took when it last succeeded, if this process saw it."""


def wanted_run(run: DbtRun) -> int | None:
    """The id of the dbt Cloud run that the object is about now, if there is one to follow."""
    attempt = run.status.attempt
    if attempt is not None:
        return None if attempt.phase is Phase.PENDING else attempt.run_id
    return run.spec.run_id


def remember(run: DbtRun, known: Known, now: Instant) -> Known:
    """Drops what is about another run or claim than the present one, and dates a claim when it is first seen."""
    wanted = wanted_run(run)
    if known.about != wanted:
        known = replace(known, about=wanted, observation=None, missing_since=None)
    attempt = run.status.attempt
    if attempt is not None and attempt.number > known.attempt:
        known = replace(known, attempt=attempt.number)
    if attempt is None or attempt.phase is not Phase.SUBMITTING or attempt.claim_time is None:
        return replace(known, claim=None) if known.claim else known
    claim = known.claim
    if claim is not None and (claim.number, claim.time) == (attempt.number, attempt.claim_time):
        return known
    return replace(known, claim=Claim(number=attempt.number, time=attempt.claim_time, since=now.mono))
