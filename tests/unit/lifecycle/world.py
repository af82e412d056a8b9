"""A small world to try the core in: an API server, a dbt Cloud, and watchers that do what was decided, all in memory.

It mirrors what the shell does with each decision, and breaks where reality breaks: before an effect, between an effect
and its answer, and after. What must never be is checked where it would happen, so that a failure names its step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby
from typing import Final

import msgspec
from msgspec.structs import replace as with_fields

from dbtrun.api import FINALIZER, Artifact, DbtRun, Phase, Reason, Status
from dbtrun.api.status import MAX_STATUS
from dbtrun.values import Instant
from tests.unit.lifecycle.builders import ACCOUNT, BEFORE, JOB, START
from watcher.lifecycle.decide import Interest, decide, interest
from watcher.lifecycle.decisions import (
    AddFinalizer,
    Cancel,
    ClaimStart,
    Connect,
    Decision,
    DeleteObject,
    FetchDetails,
    FetchResults,
    FindLive,
    FindOwner,
    KeepArtifacts,
    LookForRuns,
    ProveToken,
    RemoveFinalizer,
    ResolveJob,
    Resume,
    SearchPast,
    Start,
    Sweep,
    Wait,
    Write,
)
from watcher.lifecycle.facts import (
    NotSent,
    Observation,
    Refused,
    RunFacts,
    RunState,
    Started,
    Submission,
    Trouble,
    Undecided,
)
from watcher.lifecycle.keeping import config_map_name, key_of
from watcher.lifecycle.known import (
    CancelTry,
    Claim,
    DetailsTry,
    KeepTry,
    Known,
    LookBack,
    LookUp,
    Owner,
    ResultsTry,
    remember,
)
from watcher.lifecycle.policy import Policy
from watcher.lifecycle.whereabouts import misdirected

MAX_DECISIONS: Final = 12
"""Decisions in a row that an honest path needs at most."""
DECIDED_AGAIN: Final = 8
"""One decision in so many is taken twice, to see that it depends on nothing else."""
LIST_LAG: Final = 40.0
"""Seconds that a new run needs at most to show in lists, as the quiet period assumes."""
REQUEST: Final = 29.0
"""Seconds that a start request is under way at most, as the quiet period assumes."""
HOST: Final = "cloud.getdbt.com"
RESTORE: Final = 130.0
"""Seconds that nobody can write for, while a cluster is restored."""


class Conflict(Exception):
    """The object is another than the writer saw."""


class Lost(Exception):
    """The effect took place and its answer did not arrive."""


class Down(Exception):
    """dbt Cloud does not answer."""


class Unwritable(Exception):
    """The API server refuses a status, as it does for a webhook that is down or a right that was taken away."""


class Fate(StrEnum):
    """What becomes of one step."""

    DONE = "done"
    LOST = "lost"
    DIES_BEFORE = "dies before"
    DIES_AFTER = "dies after"
    SLOW = "slow"


class Reply(StrEnum):
    """What dbt Cloud does with the next start."""

    ANSWERED = "answered"
    LOST = "lost"
    DROPPED = "dropped"
    LATE = "late"
    REFUSED = "refused"
    LIMITED = "limited"


@dataclass
class Time:
    """Seconds since the start of the story."""

    now: float = 0.0

    @property
    def wall(self) -> datetime:
        return START + timedelta(seconds=self.now)


@dataclass
class ApiServer:
    """Keeps one object, compares versions, and notes every status."""

    time: Time
    stored: DbtRun | None
    told: list[Status] = field(default_factory=list)
    versions: list[DbtRun] = field(default_factory=list)
    """Everything that was ever stored, as backups have it."""
    kept: dict[str, int] = field(default_factory=dict)
    """What the ConfigMap has: the run of each key."""
    refusing: bool = False
    """Whether no status can be written."""

    def __post_init__(self) -> None:
        self.versions += [self.stored] if self.stored else []

    def restore(self, back: int) -> None:
        """The cluster is restored from a backup that is so many versions old."""
        self._store(self.versions[max(len(self.versions) - 1 - back, 0)])

    def copy(self, uid: str, *, with_status: bool) -> None:
        """The object is deleted, and made again by a backup tool or from what kubectl printed."""
        if self.stored is not None:
            metadata = with_fields(
                self.stored.metadata, uid=uid, creation_timestamp=self.time.wall, deletion_timestamp=None
            )
            status = self.stored.status if with_status else Status()
            self._store(with_fields(self.stored, metadata=metadata, status=status))

    def get(self) -> DbtRun:
        if self.stored is None:
            raise Conflict
        return self.stored

    def write_status(self, seen: DbtRun, status: Status) -> DbtRun:
        if self.refusing:
            raise Unwritable
        current = self._checked(seen)
        if current.status.phase is not None and current.status.phase.final:
            same = (current.status.phase, current.status.reason, current.status.message)
            assert same == (status.phase, status.reason, status.message), "a final phase changed"
        wire = msgspec.json.encode(status)
        assert len(wire) <= MAX_STATUS
        self._check_artifacts(current, status)
        self.told.append(status)
        return self._store(with_fields(current, status=msgspec.json.decode(wire, type=Status)))

    def _check_artifacts(self, run: DbtRun, status: Status) -> None:
        """What an end says is kept is there; an end that dbt Cloud told speaks of every file."""
        for artifact in status.artifacts:
            assert not artifact.kept or self.kept[str(artifact.key)] == status.run_id, "a file is told and not kept"
        if status.phase in (Phase.SUCCEEDED, Phase.FAILED):
            assert tuple(artifact.path for artifact in status.artifacts) == run.spec.artifacts
        elif not (status.phase and status.phase.final):
            assert not status.artifacts, "files are told with the end"

    def finalizer(self, seen: DbtRun, *, held: bool) -> DbtRun:
        current = self._checked(seen)
        assert not (held and current.deleting), "the API server takes no finalizer for an object that is going"
        marks = current.metadata.annotations | (current.unmarked if held else {})
        metadata = with_fields(current.metadata, finalizers=(FINALIZER,) if held else (), annotations=marks)
        stored = self._store(with_fields(current, metadata=metadata))
        if stored.deleting and not held:
            self.stored = None
        return stored

    def annotate(self, marks: dict[str, str]) -> None:
        if self.stored is not None:
            annotations = self.stored.metadata.annotations | marks
            self._store(with_fields(self.stored, metadata=with_fields(self.stored.metadata, annotations=annotations)))

    def edit(self, **spec: object) -> None:
        if self.stored is not None:
            metadata = with_fields(self.stored.metadata, generation=self.stored.metadata.generation + 1)
            self._store(with_fields(self.stored, metadata=metadata, spec=with_fields(self.stored.spec, **spec)))

    def delete(self) -> None:
        if self.stored is None or self.stored.deleting:
            return
        if not self.stored.metadata.finalizers:
            self.stored = None
            return
        metadata = with_fields(self.stored.metadata, deletion_timestamp=self.time.wall)
        self._store(with_fields(self.stored, metadata=metadata))

    def _checked(self, seen: DbtRun) -> DbtRun:
        current = self.get()
        if current.metadata.resource_version != seen.metadata.resource_version:
            raise Conflict
        return current

    def _store(self, changed: DbtRun) -> DbtRun:
        version = str(len(self.versions) + 1)
        self.stored = with_fields(changed, metadata=with_fields(changed.metadata, resource_version=version))
        self.versions.append(self.stored)
        return self.stored


@dataclass
class CloudRun:
    """One run in dbt Cloud."""

    run_id: int
    cause: str | None
    retrying: int | None
    created: float
    listed: float
    state: RunState = RunState.QUEUED
    started: float | None = None
    finished: float | None = None
    stopping: bool = False
    hidden: bool = False
    message: str = ""


@dataclass
class DbtCloud:
    """A dbt Cloud with one job whose runs are serial. Its clock is `skew` seconds ahead of ours."""

    time: Time
    account: int = ACCOUNT
    skew: float = 0.0
    lag: float = 0.0
    lateness: float = REQUEST
    duration: float = 0.0
    down: bool = False
    next_reply: Reply = Reply.ANSWERED
    resumable: bool = True
    ends: list[RunState] = field(default_factory=list)
    """How the next runs end; once there are none, they succeed."""
    runs: list[CloudRun] = field(default_factory=list)
    late: list[tuple[float, str | None, int | None]] = field(default_factory=list)

    def commit_late(self) -> None:
        """Requests that were under way arrive."""
        for request in [request for request in self.late if request[0] <= self.time.now]:
            self.late.remove(request)
            self.create(request[1], request[2], request[0])

    def create(self, cause: str | None, retrying: int | None = None, at: float | None = None) -> CloudRun:
        at = self.time.now if at is None else at
        made = CloudRun(
            run_id=1_000 + len(self.runs),
            cause=cause,
            retrying=retrying,
            created=at,
            listed=at + self.lag,
        )
        self.runs.append(made)
        return made

    def post(self, cause: str | None, retrying: int | None, mono: float) -> Submission:
        reply, self.next_reply = self.next_reply, Reply.ANSWERED
        if self.down or reply is Reply.LIMITED:
            since = Instant(self.time.wall, mono)
            return NotSent(Trouble(reason=Reason.RATE_LIMITED, message="Too many.", since=since, retry_at=mono + 60))
        if reply is Reply.REFUSED:
            return Refused(Reason.SUBMISSION_REJECTED, "steps_override is not allowed.")
        if reply is Reply.LATE:
            self.late.append((self.time.now + self.lateness, cause, retrying))
        if reply in (Reply.LATE, Reply.DROPPED):
            return Undecided("No answer.")
        made = self.create(cause, retrying)
        return Undecided("No answer.") if reply is Reply.LOST else Started(self.facts(made))

    def listing(self) -> Iterator[RunFacts]:
        """The job's runs as a list shows them, oldest first."""
        if self.down:
            raise Down
        yield from (self.facts(run) for run in self.runs if run.listed <= self.time.now and not run.hidden)

    def get(self, run_id: int) -> RunFacts | None:
        if self.down:
            raise Down
        found = next((run for run in self.runs if run.run_id == run_id and not run.hidden), None)
        return self.facts(found) if found else None

    def cancel(self, run_id: int) -> None:
        if self.down:
            raise Down
        for run in self.runs:
            if run.run_id == run_id and not run.state.over:
                run.stopping = True

    def go_on(self, end: RunState = RunState.SUCCESS) -> None:
        """The job's first live run gets one state further."""
        run = next((run for run in self.runs if not run.state.over), None)
        if run is None:
            return
        if run.state is RunState.QUEUED:
            run.state, run.started = RunState.RUNNING, self.time.now
        else:
            run.state, run.finished = end, self.time.now

    def work(self) -> None:
        """What becomes of the runs by itself."""
        for run in self.runs:
            if run.stopping and not run.state.over:
                run.state, run.finished = RunState.CANCELLED, self.time.now
        first = next((run for run in self.runs if not run.state.over), None)
        if first is None:
            return
        if first.started is None:
            self.go_on()
        elif self.time.now - first.started >= self.duration:
            self.go_on(self.ends.pop() if self.ends else RunState.SUCCESS)

    def facts(self, run: CloudRun) -> RunFacts:
        return RunFacts(
            run_id=run.run_id,
            account_id=self.account,
            job_id=JOB,
            state=run.state,
            message=run.message,
            cause=run.cause,
            retrying_run_id=run.retrying,
            can_retry=self.resumable and run.state is RunState.ERROR,
            created_at=self._clock(run.created),
            started_at=None if run.started is None else self._clock(run.started),
            finished_at=None if run.finished is None else self._clock(run.finished),
        )

    def _clock(self, seconds: float) -> datetime:
        return START + timedelta(seconds=seconds + self.skew)


@dataclass
class Secret:
    """Where the object's connection leads."""

    cloud: DbtCloud


@dataclass
class Watcher:
    """One process: its memory, its copy of the object, and the shell's part in every decision."""

    api: ApiServer
    secret: Secret
    cloud: DbtCloud
    """Where the connection led when it was read."""
    time: Time
    policy: Policy
    boot: float
    """What its monotonic clock showed when the story began."""
    mirror: DbtRun | None = None
    known: Known = field(default_factory=lambda: Known(since=BEFORE))
    busy: int = 0
    """Decisions since it last could wait."""
    decided: int = 0
    """Decisions altogether."""

    @property
    def now(self) -> Instant:
        return Instant(self.time.wall, self.boot + self.time.now)

    def listen(self) -> None:
        """The watch catches up; of an object with another uid nothing is known."""
        if self.mirror and self.api.stored and self.mirror.uid != self.api.stored.uid:
            self.known = Known(since=self.known.since)
        self.mirror = self.api.stored

    def die(self) -> None:
        self.begin(Known())
        self.mirror = self.api.stored

    def begin(self, known: Known) -> None:
        """From here on it is the one that acts."""
        self.known = replace(known, since=self.time.wall)

    def wanted(self) -> Interest | None:
        """What the poller shall watch."""
        return interest(self.mirror, self.known, self.now, self.policy) if self.mirror else None

    def poll(self) -> None:
        """The poller tells what it sees of the run that the object wants followed, and whether it may be looked at."""
        wanted = self.wanted()
        if wanted is None:
            return
        if wanted.looks_from is not None and wanted.looks_from <= self.now.mono:
            self.known = replace(self.known, turn=self.now.mono)
        self._remember()
        if self.known.about != wanted.run_id:
            return
        try:
            facts = self.cloud.get(wanted.run_id)
        except Down:
            self._troubled(retry=False)
            return
        first = self.now.mono if self.known.missing_since is None else self.known.missing_since
        observation = Observation(run=facts, at=self.now, clock_offset=timedelta(seconds=self.cloud.skew))
        missing = None if facts else first
        self.known = replace(self.known, observation=observation, missing_since=missing, trouble=None, answered=True)

    def decision(self) -> Decision:
        """The next decision, checked for what holds of every decision."""
        assert self.mirror is not None
        self._remember()
        decision = decide(self.mirror, self.known, self.now, self.policy)
        if self.decided % DECIDED_AGAIN == 0:
            assert decision == decide(self.mirror, self.known, self.now, self.policy), "decide() is not a function"
        self.decided += 1
        if isinstance(decision, Wait):
            final = self.mirror.status.phase is not None and self.mirror.status.phase.final
            going = self.mirror.deleting and FINALIZER not in self.mirror.metadata.finalizers
            assert decision.why
            assert final or going or decision.until is not None, "waits for ever"
            assert decision.until is None or decision.until > self.now.mono, "waits for the past"
        return decision

    def step(self, decision: Decision, fate: Fate = Fate.DONE) -> None:
        """Does what was decided, as far as its fate lets it."""
        before = (self.mirror, self.known)
        try:
            if fate is not Fate.DIES_BEFORE:
                self._perform(decision, fate)
                if isinstance(decision, Write):
                    self.known = replace(self.known, unwritten=False)
        except Unwritable:
            self.known = replace(self.known, unwritten=isinstance(decision, Write) or self.known.unwritten)
            self.busy = -1  # the shell pauses the object
            self.time.now += 5.0
            self.cloud.work()
            self.poll()
            return
        except Conflict:
            self.listen()
        except Lost:
            pass
        except Down:
            self._troubled()
        if fate in (Fate.DIES_BEFORE, Fate.DIES_AFTER):
            self.die()
        elif fate is Fate.DONE:
            assert (self.mirror, self.known) != before or isinstance(decision, Wait), f"{decision} brought nothing"
        self.busy = 0 if isinstance(decision, Wait) else self.busy + 1
        assert self.busy <= MAX_DECISIONS, f"{self.busy} decisions in a row, the last: {decision}"
        self.time.now += 0.05

    def _perform(self, decision: Decision, fate: Fate) -> None:
        assert self.mirror is not None
        match decision:
            case Wait():
                pass
            case Write(status):
                self._answered(self.api.write_status(self.mirror, status), fate)
            case ClaimStart(status):
                self._claim(status, fate)
            case AddFinalizer() | RemoveFinalizer():
                self._answered(self.api.finalizer(self.mirror, held=isinstance(decision, AddFinalizer)), fate)
            case DeleteObject():
                self.api.delete()
                self.listen()
            case Connect():
                self._connect()
            case Start() | Resume():
                self._start(decision, fate)
            case KeepArtifacts():
                self._keep(decision, fate)
            case ProveToken():
                next(self.cloud.listing(), None)
                self.known = replace(self.known, proven_at=self.now.mono)
            case _:
                self._ask(decision)

    def _connect(self) -> None:
        assert self.mirror is not None
        cloud = self.secret.cloud
        if cloud.down:
            raise Down
        wrong = misdirected(self.mirror.status, HOST, cloud.account)
        if wrong is not None:
            self._troubled(reason=Reason.OTHER_ACCOUNT, message=wrong)
            return
        self.cloud = cloud
        self.known = replace(self.known, account_id=cloud.account, host=HOST)

    def _answered(self, stored: DbtRun, fate: Fate) -> None:
        if fate is Fate.LOST:
            raise Lost
        self.mirror = self.api.stored and stored

    def _claim(self, status: Status, fate: Fate) -> None:
        assert self.mirror is not None
        assert self.known.account_id is not None, "a claim needs a connection"
        before = self.now.mono
        stored = self.api.write_status(self.mirror, status)
        if fate is Fate.SLOW:
            self.time.now += 20
        self._answered(stored, fate)
        attempt = stored.status.attempt
        assert attempt is not None
        assert attempt.claim_time is not None
        claim = Claim(number=attempt.number, time=attempt.claim_time, since=before, own=True)
        self.known = replace(self.known, claim=claim)

    def _start(self, decision: Start | Resume, fate: Fate) -> None:
        claim = self.known.claim
        assert self.known.account_id is not None, "a start needs a connection"
        assert claim is not None
        assert claim.own, "a start without a claim of one's own"
        assert not claim.sent, "a claim was sent twice"
        sent = replace(claim, sent=True)
        self.known = replace(self.known, claim=sent)
        cause, retrying = (None, decision.run_id) if isinstance(decision, Resume) else (decision.cause, None)
        submission = self.cloud.post(cause, retrying, self.now.mono)
        if fate is Fate.LOST:
            submission = Undecided("No answer.")
        self.known = replace(self.known, claim=replace(sent, submission=submission))
        if isinstance(submission, Started):
            seen = Observation(run=submission.run, at=self.now)
            self.known = replace(self.known, about=submission.run.run_id, observation=seen, trouble=None, answered=True)
        elif isinstance(submission, NotSent):
            self.known = replace(self.known, trouble=submission.trouble, answered=False)

    def _ask(self, decision: Decision) -> None:
        assert self.known.account_id is not None, "a question needs a connection"
        match decision:
            case ResolveJob():
                next(self.cloud.listing(), None)
                self.known = replace(self.known, job_id=JOB)
            case FindLive() | FindOwner():
                live = next((run for run in self.cloud.listing() if not run.state.over), None)
                nobody = Owner(run_id=decision.run_id, foreign=False) if isinstance(decision, FindOwner) else None
                self.known = replace(self.known, reusable=live, reuse_checked=True, owner=nobody or self.known.owner)
            case LookForRuns():
                claim, at = self.known.claim, self.now.mono
                assert claim is not None
                tries = (claim.lookup.tries if claim.lookup else 0) + 1
                lookup = LookUp(at=at, tries=tries, found=self._runs_of(decision))
                self.known = replace(self.known, claim=replace(claim, lookup=lookup))
            case SearchPast(_, number, mark, retried):
                before, at = self.known.looked_back, self.now.mono
                tries = before.lookup.tries + 1 if before and before.number == number else 1
                young = (run for run in self.cloud.listing() if run.created_at and run.created_at >= decision.since)
                found = tuple(run for run in young if marked(run, mark) or (retried and run.retrying_run_id == retried))
                lookup = LookUp(at=at, tries=tries, found=found)
                self.known = replace(self.known, looked_back=LookBack(number=number, lookup=lookup))
            case Sweep(_, attempt):
                for twin in self._runs_of(decision):
                    if twin.run_id != attempt.run_id:
                        self.cloud.cancel(twin.run_id)
                self.known = replace(self.known, swept=self.known.swept | {attempt.number})
            case Cancel(run_id):
                self.cloud.cancel(run_id)
                self.known = replace(self.known, cancel=CancelTry(run_id=run_id, at=self.now.mono))
            case FetchDetails() | FetchResults():
                self._fetch(decision)
                return
            case _:
                raise AssertionError(f"{decision} is no question")
        self.known = replace(self.known, trouble=None, answered=True)

    def _fetch(self, decision: FetchDetails | FetchResults) -> None:
        if isinstance(decision, FetchResults):
            self._fetch_results(decision.run_id)
        else:
            self._fetch_details(decision.run_id, decision.over)

    def _fetch_details(self, run_id: int, over: bool) -> None:
        last = self.known.details
        tries = last.tries + 1 if last and (last.run_id, last.over) == (run_id, over) else 1
        try:
            facts = self.cloud.get(run_id)
        except Down:
            facts = None
        tried = DetailsTry(run_id=run_id, at=self.now.mono, tries=tries, over=over, run=facts)
        self.known = replace(self.known, details=tried)

    def _fetch_results(self, run_id: int) -> None:
        last = self.known.results
        tries = last.tries + 1 if last and last.run_id == run_id else 1
        done = not self.cloud.down
        self.known = replace(self.known, results=ResultsTry(run_id=run_id, tries=tries, done=done))

    def _keep(self, decision: KeepArtifacts, fate: Fate) -> None:
        """dbt Cloud has each file whose name does not say otherwise."""
        assert self.mirror is not None
        assert self.known.account_id is not None, "a question needs a connection"
        before = self.known.kept
        there = {path for path in decision.paths if not self.cloud.down and not path.startswith("missing")}
        self.api.kept |= {key_of(path): decision.run_id for path in there}
        told = {path: Artifact(path=path, problem="None.") for path in decision.paths}
        if fate is not Fate.LOST:
            name = config_map_name(self.mirror)
            told |= {path: Artifact(path=path, config_map=name, key=key_of(path), bytes=1) for path in there}
        earlier = {artifact.path: artifact for artifact in before.artifacts} if before else {}
        artifacts = tuple((earlier | told)[path] for path in self.mirror.spec.artifacts)
        again = not all(artifact.kept for artifact in artifacts)
        tries = before.tries + 1 if before else 1
        kept = KeepTry(run_id=decision.run_id, at=self.now.mono, tries=tries, artifacts=artifacts, again=again)
        self.known = replace(self.known, kept=kept)

    def _runs_of(self, decision: LookForRuns | Sweep) -> tuple[RunFacts, ...]:
        attempt = decision.attempt
        young = (run for run in self.cloud.listing() if run.created_at and run.created_at >= decision.since)
        if attempt.retry_of is not None:
            return tuple(run for run in young if run.retrying_run_id == attempt.retry_of)
        return tuple(run for run in young if marked(run, attempt.marker))

    def _remember(self) -> None:
        assert self.mirror is not None
        self.known = remember(self.mirror, self.known, self.now)

    def _troubled(
        self, *, retry: bool = True, reason: Reason = Reason.UNREACHABLE, message: str = "No answer."
    ) -> None:
        since = self.known.trouble.since if self.known.trouble else self.now
        told = Trouble(reason=reason, message=message, since=since, retry_at=self.now.mono + 5 if retry else None)
        account = None if retry else self.known.account_id
        self.known = replace(self.known, trouble=told, answered=False, account_id=account)


def marked(run: RunFacts, mark: str) -> bool:
    """Whether the run carries this marker."""
    return (run.cause or "").partition(" ")[0] == mark


@dataclass
class World:
    """Everything, and the story's moves."""

    api: ApiServer
    cloud: DbtCloud
    time: Time
    watchers: tuple[Watcher, Watcher]
    secret: Secret
    strangers: DbtCloud
    """Another account, with runs of its own under the same numbers."""

    @classmethod
    def of(
        cls, obj: DbtRun, policy: Policy, *, skew: float = 0.0, lag: float = 0.0, lateness: float = REQUEST
    ) -> World:
        time = Time()
        api = ApiServer(time, obj)
        dbt = DbtCloud(time, skew=skew, lag=lag, lateness=lateness)
        secret = Secret(dbt)
        both = (Watcher(api, secret, dbt, time, policy, 5_000.0), Watcher(api, secret, dbt, time, policy, 90_000.0))
        for watcher in both:
            watcher.listen()
        strangers = DbtCloud(time, account=ACCOUNT + 1, duration=1e9)
        for _ in range(4):
            strangers.create("somebody else's")
        return cls(api, dbt, time, both, secret, strangers)

    def redirect(self, cloud: DbtCloud) -> None:
        """The Secret names another account; each watcher reads it when it looks next."""
        self.secret.cloud = cloud
        for watcher in self.watchers:
            watcher.known = replace(watcher.known, account_id=None)

    @property
    def touched(self) -> list[int]:
        """Runs of strangers that we cancelled."""
        return [run.run_id for run in self.strangers.runs if run.stopping and run.cause == "somebody else's"]

    @property
    def leader(self) -> Watcher:
        return self.watchers[0]

    def swap(self) -> None:
        """The other watcher takes over, with the memory and the copy of the object that it has."""
        self.watchers = (self.watchers[1], self.watchers[0])
        self.leader.begin(self.leader.known)
        self.leader.busy = 0

    def restore(self, back: int) -> None:
        """The cluster is restored to so many versions ago. That takes longer than a start may be under way."""
        self.pass_time(RESTORE)
        self.api.restore(back)
        self.leader.listen()

    def tick(self, fate: Fate = Fate.DONE) -> None:
        """The leader's next step; while it waits, time passes and it hears what is new."""
        if self.leader.mirror is None:
            return
        decision = self.leader.decision()
        self.leader.step(decision, fate)
        if isinstance(decision, Wait):
            self._wait(decision)

    def duel(self, steps: int) -> None:
        """Both watchers believe that they lead, and do at the same time what they decided at the same time."""
        for watcher in self.watchers:
            watcher.listen()
            watcher.begin(watcher.known)
            watcher.busy = 0
        for _ in range(steps):
            decided = [(watcher, watcher.decision()) for watcher in self.watchers if watcher.mirror is not None]
            for watcher, decision in decided:
                watcher.step(decision)

    def _wait(self, wait: Wait) -> None:
        wanted = self.leader.wanted()
        moments = filter(None, (wait.until, wanted and wanted.looks_from))
        pause = min((moment - self.leader.now.mono for moment in moments), default=30.0)
        self.pass_time(min(max(pause, 0.5), 30.0))
        self.cloud.work()
        self.leader.listen()
        self.leader.poll()

    def pass_time(self, seconds: float) -> None:
        self.time.now += seconds
        self.cloud.commit_late()

    def heal(self) -> None:
        """Faults end; what was asked for and delayed takes place."""
        self.redirect(self.cloud)
        self.cloud.down, self.cloud.next_reply = False, Reply.ANSWERED
        for run in self.cloud.runs:
            run.hidden = False
        self.api.edit(suspend=False)

    def settle(self, hours: float = 3.0) -> None:
        """The leader works until nothing is left to do, within so many hours of the story."""
        ends = self.time.now + 3_600 * hours
        self.leader.listen()
        self.leader.busy = 0
        while self.api.stored is not None and not self._at_rest():
            assert self.time.now < ends, f"not settled: {self.api.stored}"
            self.tick()

    def _at_rest(self) -> bool:
        """Whether the leader knows the object as it is, and waits for nothing but an edit."""
        if self.leader.mirror != self.api.stored:
            self.leader.listen()
            return False
        decision = self.leader.decision()
        return isinstance(decision, Wait) and decision.until is None

    def starts(self) -> Counter[str]:
        """How many runs there are of each attempt: by its marker, or by the run that it resumes."""
        runs = [*self.cloud.runs, *self.strangers.runs]
        marks = (f"{run.retrying or run.cause}".partition(" ")[0] for run in runs)
        return Counter(mark for mark in marks if mark.startswith("dbtrun:") or mark.isdigit())

    @property
    def alive(self) -> list[CloudRun]:
        """Runs of ours that go on and that nobody has asked to stop."""
        ours = (run for run in self.cloud.runs if run.retrying or (run.cause or "").startswith("dbtrun:"))
        return [run for run in ours if not run.state.over and not run.stopping]

    @property
    def ended(self) -> bool:
        """Whether the object is gone, or says its end."""
        stored = self.api.stored
        return stored is None or (stored.status.phase is not None and stored.status.phase.final)

    @property
    def phases(self) -> list[str]:
        """The phases that were told, each once in a row."""
        return [phase for phase, _ in groupby(str(status.phase) for status in self.api.told)]
