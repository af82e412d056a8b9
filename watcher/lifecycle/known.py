"""What this process remembers of one object besides the object: lost on a restart, and then learnt again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from dbtrun.api import Artifact, ConditionType, DbtRun, Phase, Reason, Results
from dbtrun.values import Instant
from watcher.lifecycle.facts import (
    NotSent,
    Observation,
    Place,
    Refused,
    RunFacts,
    Started,
    Submission,
    Trouble,
)
from watcher.lifecycle.whereabouts import misdirected

DENIED_INTERVAL: Final = 5
"""Seconds between two polls of a run that dbt Cloud has denied: one denial may be a lagging replica."""


DOUBTFUL: Final = frozenset({Reason.UNAUTHORIZED, Reason.FORBIDDEN, Reason.INVALID_CONNECTION, Reason.OTHER_ACCOUNT})
"""Troubles that another token may mend: the connection is read again."""


MISSPELT: Final = frozenset({Reason.UNREACHABLE, Reason.SERVER_ERROR})
"""Troubles that a misspelt host causes, too: it is nobody's, or somebody else's."""


UNUSABLE: Final = frozenset({Reason.UNAUTHORIZED, Reason.FORBIDDEN, Reason.INVALID_CONNECTION})
"""Troubles that only a person can mend: no such Secret, a wrong type or key, a refused token, another account."""


CLOCK_MARGIN: Final = timedelta(seconds=5)
"""A creationTimestamp has whole seconds, and replicas of the API server have clocks of their own."""


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

    @property
    def may_have_started(self) -> bool:
        """Whether a run of this claim may exist."""
        # A claim that was met counts as sent: another process may have sent its start, or this one before a crash.
        unsent = self.own and not self.sent
        return not (unsent or isinstance(self.submission, NotSent | Refused))


@dataclass(frozen=True, slots=True, kw_only=True)
class LookBack:
    """A finished search for a run that an attempt had before its first claim by this process."""

    number: int
    """The attempt's."""
    lookup: LookUp


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose a run is that this object did not start."""

    run_id: int
    foreign: bool
    """An object of another namespace has started it: it is followed, and neither cancelled nor copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """The projects that a start of the job, as a resumption of that run, is about."""

    job_id: int
    resumed: int | None
    projects: tuple[int | None, ...]
    """None: dbt Cloud names no project."""


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
    run: RunFacts | None = None
    """With its steps; None: dbt Cloud did not answer."""
    turn: float | None = None
    """Monotonic seconds at which a watched run's steps may be read; None: no turn was given for the next look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsTry:
    """The last request for the outcome by node of an ended run."""

    run_id: int
    tries: int
    done: bool
    """dbt Cloud has answered."""
    results: Results | None = None
    """None: no outcome can be read."""


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
    host: str | None = None
    """The host of the connection that was read last."""
    asked: tuple[str, int] | None = None
    """The host and the account of the last connection: what dbt Cloud said is about these."""
    projects: frozenset[int] | None = None
    """The only projects that the object's namespace may use with the connection; None: there is no such limit."""
    touched: Touched | None = None
    trouble: Trouble | None = None
    proven_at: float | None = None
    """Monotonic seconds: when dbt Cloud last took the token for a question, after it had refused it for this object."""
    unusable_since: float | None = None
    """Monotonic seconds: since when only a person can mend the connection, as far as this process saw."""
    displaced_at: float | None = None
    """Monotonic seconds: when the status was last seen to say that the connection is for another account."""
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
    owner: Owner | None = None
    """Whose the adopted run is, once it was asked."""
    place: Place | None = None
    """Where the object stands in the line for a run slot; None: nothing is known to hold its start back."""
    since: datetime | None = None
    """Since when this process sees every start, by the API server's clock; None: it does not know."""
    submitted: int = 0
    """Number of the newest attempt that, as this process knows, may have reached dbt Cloud."""
    submitted_at: float = 0.0
    """Monotonic seconds: not before `submitted` reached dbt Cloud."""
    untried: int | None = None
    """Since `since`, dbt Cloud showed that no attempt from this number on had been started; None: it did not."""
    looked_back: LookBack | None = None
    claim: Claim | None = None
    cancel: CancelTry | None = None
    unwritten: bool = False
    """The last try to write the status failed: what is owed to dbt Cloud and to a deletion does not wait for it."""
    turn: float | None = None
    """Monotonic seconds at which it was the object's turn to have the steps of its run read; None: it had none."""
    details: DetailsTry | None = None
    results: ResultsTry | None = None
    kept: KeepTry | None = None
    swept: frozenset[int] = field(default_factory=frozenset)
    """Numbers of the attempts whose twins were looked for."""
    typical: timedelta | None = None
    """How long the job usually takes; None: not known, or the run is not like the job's others."""

    @property
    def token_doubtful(self) -> bool:
        """Whether dbt Cloud refused the token, and has not answered a question with it since the pause that followed.

        Such an answer does not end the trouble: only a start shows that the token may start runs.
        """
        trouble, proven = self.trouble, self.proven_at
        if trouble is None or trouble.reason is not Reason.UNAUTHORIZED:
            return False
        return proven is None or proven < (trouble.since.mono if trouble.retry_at is None else trouble.retry_at)


OF_AN_ACCOUNT: Final[Mapping[str, Any]] = {
    name: getattr(Known(), name)
    for name in (
        "touched", "proven_at", "answered", "job_id", "job_refused", "reusable", "reuse_checked", "observation",
        "missing_since", "owner", "place", "looked_back", "cancel", "turn", "details", "results", "typical",
    )
}  # fmt: skip
"""What is known from one account alone, and how it is before anything was asked. A claim stays with its account."""


def connected(known: Known, host: str, account_id: int, projects: frozenset[int] | None) -> Known:
    """What is known once the object is connected to the account. What another account said counts no longer."""
    now = replace(known, host=host, account_id=account_id, projects=projects, asked=(host, account_id))
    return now if known.asked in (None, now.asked) else replace(now, **OF_AN_ACCOUNT)


def wanted_run(run: DbtRun) -> int | None:
    """The id of the dbt Cloud run that the object is about now, if there is one to follow."""
    attempt = run.status.attempt
    if attempt is not None:
        # A pending attempt has no run yet: the run that it resumes is over.
        return None if attempt.phase is Phase.PENDING else attempt.run_id
    return run.spec.run_id


def witnessed(run: DbtRun, known: Known) -> bool:
    """Whether the object was created while this process saw every start: then it knows of all runs of the object.

    Any other object may have a past that is missing from its status, as a cluster can be restored from a backup.
    """
    created = run.metadata.creation_timestamp
    return None not in (created, known.since) and created >= known.since + CLOCK_MARGIN  # type: ignore[operator]


def certain(run: DbtRun, known: Known, number: int) -> bool:
    """Whether the attempt has no run yet, without asking dbt Cloud."""
    untried = known.untried is not None and number >= known.untried
    return number > known.submitted and (untried or witnessed(run, known))


def saw_live(run: DbtRun, known: Known, number: int) -> bool:
    """Whether the run of the attempt was live under the eyes of this process, which then knows why it ended."""
    return witnessed(run, known) or (known.untried is not None and known.untried > number)


def remember(run: DbtRun, known: Known, now: Instant) -> Known:
    """Drops what is about another run or claim than the present one, and dates a claim when it is first seen."""
    # Before the claim is replaced below: `_note_attempts` keeps what the old one may have started.
    for update in (_forget_other_account, _note_attempts, _date_unusable, _date_displaced):
        known = update(run, known, now)
    wanted = wanted_run(run)
    if known.about != wanted:
        known = replace(known, about=wanted, observation=None, missing_since=None)
    attempt = run.status.attempt
    if attempt is None or attempt.phase is not Phase.SUBMITTING or attempt.claim_time is None:
        return replace(known, claim=None) if known.claim else known
    claim = known.claim
    # By its time too. Another process may have claimed the same attempt since, and its start is not ours to send.
    if claim is not None and (claim.number, claim.time) == (attempt.number, attempt.claim_time):
        return known
    return replace(known, claim=Claim(number=attempt.number, time=attempt.claim_time, since=now.mono))


def _note_attempts(run: DbtRun, known: Known, now: Instant) -> Known:
    """What this process learns of the attempts, and keeps whatever becomes of the status."""
    claim, attempt, facts = known.claim, run.status.attempt, known.observation.run if known.observation else None
    submitted = claim.number if claim is not None and claim.may_have_started else 0
    if attempt is not None and attempt.run_id is not None:
        submitted = max(submitted, attempt.number)
    if submitted > known.submitted:
        # Later than the start itself, so a quiet period that is counted from here is never too short.
        known = replace(known, submitted=submitted, submitted_at=now.mono)
    # While dbt Cloud shows the run of an attempt to be live, no later attempt exists.
    live = None
    if claim is not None and isinstance(claim.submission, Started):
        live = claim.number
    elif attempt is not None and facts is not None and facts.run_id == attempt.run_id and not facts.state.over:
        live = attempt.number
    if live is not None and live >= (known.untried or 0):
        known = replace(known, untried=live + 1)
    return known


def _date_unusable(_run: DbtRun, known: Known, now: Instant) -> Known:
    """Dates when a person first had to mend the connection."""
    unusable = known.trouble is not None and known.trouble.reason in UNUSABLE
    if unusable is (known.unusable_since is not None):
        return known
    return replace(known, unusable_since=now.mono if unusable else None)


def _date_displaced(run: DbtRun, known: Known, now: Instant) -> Known:
    """Dates when the status was last seen to say that the connection is for another account."""
    if known.trouble is None or known.trouble.reason is not Reason.OTHER_ACCOUNT:
        return known if known.displaced_at is None else replace(known, displaced_at=None)
    told = run.status.condition(ConditionType.REACHABLE)
    said = told is not None and told.reason is Reason.OTHER_ACCOUNT
    return replace(known, displaced_at=now.mono) if said else known


def _forget_other_account(run: DbtRun, known: Known, _now: Instant) -> Known:
    """Forgets a connection that was read before another watcher claimed the object through one of its own."""
    account_id, host = known.account_id, known.host or run.status.host or ""
    if account_id is None or misdirected(run.status, host, account_id) is None:
        return known
    return replace(known, account_id=None, host=None)
