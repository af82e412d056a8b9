"""Carries out decisions: the thin shell around the core. Each decision has one side effect and returns what was learnt.

What a fault means is not decided here. It becomes a fact (a Trouble, a Submission) or leaves as an exception; the core
decides about the facts, and an exception pauses the one object.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol, assert_never

from dbtrun.api import DbtRun, Phase, Reason, Status
from dbtrun.api.status import ALL_RESULTS
from dbtrun.fair import Applicant
from dbtrun.kube import errors as kube
from dbtrun.values import Instant
from watcher import artifacts
from watcher.cluster.mirror import version
from watcher.connections import Connections, Unusable
from watcher.dbtcloud.accounts import Account
from watcher.dbtcloud.budget import Priority
from watcher.dbtcloud.errors import DbtCloudError, JobNotFound, NotFound, Rejected
from watcher.lifecycle.decide import Interest
from watcher.lifecycle.decisions import (
    AddFinalizer,
    Cancel,
    Change,
    ClaimStart,
    Connect,
    Decision,
    DeleteObject,
    Errand,
    Event,
    Fetch,
    FetchDetails,
    FetchResults,
    FindLive,
    FindOwner,
    FindProjects,
    KeepArtifacts,
    LookForRuns,
    ProveToken,
    Question,
    RemoveFinalizer,
    ResolveJob,
    Resume,
    SearchPast,
    Send,
    Start,
    Sweep,
    Wait,
    Write,
)
from watcher.lifecycle.facts import NotSent, RunFacts, Started, Submission, Trouble, Undecided
from watcher.lifecycle.history import job_id_of
from watcher.lifecycle.known import (
    DOUBTFUL,
    CancelTry,
    Claim,
    DetailsTry,
    Known,
    LookBack,
    LookUp,
    Owner,
    ResultsTry,
    Touched,
    connected,
)
from watcher.lifecycle.marker import owner_of
from watcher.telemetry.metrics import Metrics

TROUBLE_PAUSE: Final = (1.0, 60.0)
"""Seconds between two tries of what dbt Cloud did not answer: as long as the trouble has lasted, within these."""


class Objects(Protocol):
    """Writes objects. Each write is at the version it was decided upon, or a Conflict."""

    async def get(self, namespace: str, name: str) -> DbtRun: ...
    async def patch_status(self, run: DbtRun, status: Status) -> DbtRun: ...
    async def add_finalizer(self, run: DbtRun) -> DbtRun: ...
    async def remove_finalizer(self, run: DbtRun) -> DbtRun: ...
    async def delete(self, run: DbtRun) -> DbtRun | None: ...
    async def keep_artifacts(self, run: DbtRun, name: str, files: Mapping[str, bytes]) -> None: ...


class NotLeading(Exception):
    """This replica must not act now."""


Emit = Callable[[DbtRun, Event], None]


@dataclass(slots=True)
class Performer:
    """Carries out the decisions for every object."""

    objects: Objects
    record: Callable[[DbtRun], object]
    """Takes the answers to our own writes into the mirror."""
    forget_object: Callable[[str], object]
    """Takes an object out of the mirror."""
    connections: Connections
    emit: Emit
    clock: Callable[[], Instant]
    metrics: Metrics
    went_back: Callable[[str], object] = lambda _namespace: None
    """Called with a namespace in which the API server has an older version of an object than it had before."""
    taken_on: Callable[[DbtRun], object] = lambda _run: None
    """Called with an object that has just got our finalizer."""
    namespace_of: Callable[[str], str | None] = lambda _uid: None
    """The namespace of an object that exists, by its uid."""
    wrote: Callable[[DbtRun, Status], object] = lambda _before, _after: None
    """Called with each status that was written, for the traces."""
    may_act: Callable[[], bool] = lambda: True
    """Asked immediately before each side effect: whether no other watcher can be acting."""

    async def perform(self, decision: Decision, run: DbtRun, known: Known) -> Known:
        """Does it and returns what is known afterwards.

        Raises:
            NotLeading: another watcher may be acting.
            Exception: the API server did not do it; nothing is known that was not before.
        """
        self._check_lead()
        try:
            match decision:
                case Wait():
                    return known
                case Connect():
                    connection = await self.connections.connect(run)
                    projects = self.connections.projects(run)
                    return connected(known, connection.host, connection.account_id, projects)
            if isinstance(decision, Change):
                await self._change(decision, run)
                return known
            return await self._ask(decision, run, known)
        except Unusable as error:
            return self._troubled(run, known, error.trouble(self.clock()))
        except kube.Conflict:
            self.metrics.conflicts.inc()
            await self._look_again(run)
        except kube.NotFound:
            self.forget_object(run.uid)
        return known

    def follow(self, run: DbtRun, wanted: Interest | None) -> None:
        """Tells the poller of the object's connection what to watch for it."""
        account = self.connections.account(run.uid)
        if account is None:
            return
        if wanted is None:
            account.unfollow(run.uid)
        else:
            account.follow(run.uid, *wanted)
        phase = run.status.phase
        # A suspended object must not keep its place in the line, nor a final one its slot.
        if run.spec.suspend if phase in (None, Phase.PENDING) else phase.final:
            account.leave(run.uid)

    def interrupt(self, uid: str) -> None:
        """The object's owner changed it: it does not wait for its start any longer before it is looked at."""
        account = self.connections.account(uid)
        if account is not None:
            account.searches.interrupt(uid)
            account.starts.interrupt(uid)

    def crowded(self, uid: str) -> bool:
        """Whether starts of the object's connection wait for others."""
        account = self.connections.account(uid)
        return account is not None and account.starts.crowded

    def forget(self, uid: str) -> None:
        """The object is gone: nothing is polled for it any more."""
        self.connections.forget(uid)

    def _check_lead(self) -> None:
        if not self.may_act():
            raise NotLeading("another watcher may hold the Lease")

    # ── Kubernetes ──

    async def _change(self, decision: Change, run: DbtRun) -> None:
        match decision:
            case Write(status, event):
                self.record(await self.objects.patch_status(run, status))
                self._count_end(run, status)
                self.wrote(run, status)
                self._emit(run, event)
            case AddFinalizer():
                self.record(await self.objects.add_finalizer(run))
                self.taken_on(run)
            case RemoveFinalizer(event):
                self._emit(run, event)
                self.record(await self.objects.remove_finalizer(run))
            case DeleteObject():
                # The finalizer of somebody else keeps an object that was deleted: it stays in the mirror until it is
                # gone.
                left = await self.objects.delete(run)
                if left is None:
                    self.forget_object(run.uid)
                else:
                    self.record(left)
            case _:
                assert_never(decision)

    async def _look_again(self, run: DbtRun) -> None:
        """Reads the object again, as the mirror was behind and the watch may take its time."""
        try:
            fresh = await self.objects.get(run.metadata.namespace, run.metadata.name)
        except kube.NotFound:
            fresh = None
        # Another uid under this name: ours was deleted, and somebody has created a new one.
        if fresh is not None and fresh.uid == run.uid:
            self.record(fresh)
            now, before = version(fresh.metadata.resource_version), version(run.metadata.resource_version)
            # A resourceVersion only grows: a smaller one means that the cluster was restored from a backup.
            if now is not None and before is not None and now < before:
                self.went_back(run.metadata.namespace)
        else:
            self.forget_object(run.uid)

    def _emit(self, run: DbtRun, event: Event | None) -> None:
        if event is not None:
            self.emit(run, event)

    def _count_end(self, before: DbtRun, status: Status) -> None:
        phase, reason = status.phase, status.reason
        if phase is None or not phase.final or before.status.phase is phase:
            return
        if status.finished_at is not None:
            self.metrics.end_lag.observe(max(0.0, (self.clock().wall - status.finished_at).total_seconds()))
        self.metrics.finished.labels(phase.value, reason.value if reason else "").inc()
        job_id = status.job_id or job_id_of(before)
        if job_id is None:
            return
        labels = self.metrics.job(before.metadata.namespace, job_id)
        self.metrics.job_finished.labels(*labels, phase.value).inc()
        if phase is Phase.SUCCEEDED and status.started_at is not None and status.finished_at is not None:
            seconds = (status.finished_at - status.started_at).total_seconds()
            self.metrics.job_duration.labels(*labels).observe(max(0.0, seconds))

    # ── dbt Cloud ──

    async def _ask(self, decision: Errand, run: DbtRun, known: Known) -> Known:
        account = self.connections.account(run.uid)
        if account is None:
            return replace(known, account_id=None)
        try:
            match decision:
                case ClaimStart():
                    return await self._claim(decision, run, known, account)
                case Start() | Resume():
                    return await self._start(decision, run, known, account)
                case KeepArtifacts():
                    return await self._keep_artifacts(decision, run, known, account)
                case ProveToken(job_id):
                    with account.containment.contain("question"):
                        await account.client.find_live(job_id)
                    return replace(known, proven_at=self.clock().mono)
            with account.containment.contain("question"):
                learnt = await self._answer(decision, run, known, account)
        except DbtCloudError as error:
            if isinstance(error, JobNotFound):
                return replace(known, job_refused=error.message)
            if isinstance(decision, FetchDetails):
                # Optional: without them the end is neither delayed nor reported as a fault.
                return replace(known, details=self._tried_details(decision, known))
            if isinstance(decision, FetchResults):
                return replace(known, results=_tried_results(decision, known))
            return self._troubled(run, known, error.trouble(self.clock()))
        return replace(learnt, trouble=None, answered=True)

    async def _claim(self, decision: ClaimStart, run: DbtRun, known: Known, account: Account) -> Known:
        """The place and the right to send come first: a claim is only good for seconds, so few wait with one."""
        applicant = _applicant(run)
        place = account.slots.ask(applicant) if account.slots is not None else None
        if place is not None:
            account.starts.end(run.uid)
        if place is not None or not await account.starts.begin(applicant):
            return replace(known, place=place)
        try:
            async with account.claiming:
                await account.budget.spend(Priority.SUBMIT)
                self._check_lead()
                # Before the write: the time in which a claim may be sent counts from the earliest moment of it.
                since = self.clock().mono
                claimed = await self.objects.patch_status(run, decision.status)
            self.record(claimed)
        except BaseException:
            # Cancelled, too: a place that is not given back is one that nobody else can have until its timer ends.
            account.starts.end(run.uid)
            raise
        if account.slots is not None:
            wanted = decision.status.attempt
            account.slots.claimed(run.uid, wanted.marker if wanted else "")
        attempt, claim = claimed.status.attempt, None
        if attempt is not None and attempt.claim_time is not None:
            claim = Claim(number=attempt.number, time=attempt.claim_time, since=since, own=True)
        # From here on the place is given back by `_start`, or by its timer.
        return replace(known, claim=claim, place=None)

    async def _start(self, decision: Send, run: DbtRun, known: Known, account: Account) -> Known:
        claim = known.claim
        # A claim of another process, or one that was sent, may have a run: that is looked up, and never sent again.
        if claim is None or not claim.own or claim.sent:
            return known
        submission: Submission
        try:
            with account.containment.contain("start"):
                if isinstance(decision, Start):
                    submission = await account.client.start(decision.job_id, decision.cause, decision.overrides)
                else:
                    submission = await account.client.retry(decision.run_id)
        except DbtCloudError as error:
            submission = Undecided(error.message)  # the request may have reached dbt Cloud, whatever failed afterwards
        finally:
            account.starts.end(run.uid)
        known = replace(known, claim=replace(claim, sent=True, submission=submission))
        match submission:
            case Started():
                return replace(known, trouble=None, answered=True)
            case NotSent(trouble):
                account.containment.report(trouble.reason, trouble.message)
                return self._troubled(run, known, trouble)
            case Undecided(message):
                account.containment.report(Reason.SERVER_ERROR, message)
        return known

    async def _answer(self, decision: Question, run: DbtRun, known: Known, account: Account) -> Known:
        match decision:
            case ResolveJob(job):
                return replace(known, job_id=await account.client.resolve_job(job))
            case FindLive(job_id):
                live = await account.client.find_live(job_id)
                reusable = None if live is not None and self._foreign(run, live.cause) else live
                return replace(known, reusable=reusable, reuse_checked=True)
            case FindOwner(run_id):
                foreign = self._foreign(run, await account.client.cause(run_id))
                return replace(known, owner=Owner(run_id=run_id, foreign=foreign))
            case FindProjects():
                return await self._find_projects(decision, known, account)
            case LookForRuns():
                return await self._look_up(decision, known, account)
            case SearchPast():
                return await self._search_past(decision, run, known, account)
            case Sweep():
                return await self._sweep(decision, run, known, account)
            case Cancel(run_id):
                with suppress(NotFound, Rejected):  # over already, or gone: the poller says which
                    await account.client.cancel(run_id)
                # Airflow's provider polls after a cancel, too: dbt Cloud answers before a running run is over.
                account.poller.hurry(run.uid)
                return replace(known, cancel=CancelTry(run_id=run_id, at=self.clock().mono))
            case FetchDetails() | FetchResults():
                return await self._fetch(decision, known, account)
            case _:
                assert_never(decision)

    async def _find_projects(self, decision: FindProjects, known: Known, account: Account) -> Known:
        projects = [await account.client.project_of_job(decision.job_id)]
        if decision.resumed is not None:
            with suppress(NotFound):  # dbt Cloud will not resume it either
                projects.append(await account.client.project_of_run(decision.resumed))
        touched = Touched(job_id=decision.job_id, resumed=decision.resumed, projects=tuple(projects))
        return replace(known, touched=touched)

    def _foreign(self, run: DbtRun, cause: str | None) -> bool:
        """Whether a run of this cause was started by an object of another namespace that exists."""
        owner = owner_of(cause or "")
        namespace = self.namespace_of(owner) if owner is not None else None
        return namespace is not None and namespace != run.metadata.namespace

    async def _look_up(self, decision: LookForRuns, known: Known, account: Account) -> Known:
        claim = known.claim
        if claim is None:
            return known
        at = self.clock().mono
        found = await _runs_of(decision, account)
        tries = (claim.lookup.tries if claim.lookup else 0) + 1
        return replace(known, claim=replace(claim, lookup=LookUp(at=at, tries=tries, found=found)))

    async def _search_past(self, decision: SearchPast, run: DbtRun, known: Known, account: Account) -> Known:
        """Asked at once, so that a list answers all that wait, but a list is begun in turn: thousands of jobs must not
        be searched before the first start. The places of starts are left free, as a search can take long.
        """
        before = known.looked_back
        tries = before.lookup.tries + 1 if before and before.number == decision.number else 1
        with account.client.look_up(decision.job_id, decision.marker, decision.retried, decision.since) as question:
            if decision.starts and not await account.searches.begin(_applicant(run)):
                return known
            try:
                at, found = await question.answer()
            finally:
                account.searches.end(run.uid)
        lookup = LookUp(at=at, tries=tries, found=found)
        return replace(known, looked_back=LookBack(number=decision.number, lookup=lookup))

    async def _sweep(self, decision: Sweep, run: DbtRun, known: Known, account: Account) -> Known:
        for twin in await _runs_of(decision, account):
            # Documented: dbt Cloud runs a job's runs one after the other, so a twin is mostly still queued.
            if twin.run_id != decision.attempt.run_id and not twin.state.over:
                await account.client.cancel(twin.run_id)
                told = f"Run {twin.run_id} had the same marker as run {decision.attempt.run_id} and was cancelled."
                self.emit(run, Event("Warning", "DuplicateCancelled", told))
        return replace(known, swept=known.swept | {decision.attempt.number})

    async def _fetch(self, decision: Fetch, known: Known, account: Account) -> Known:
        if isinstance(decision, FetchResults):
            results = await account.client.results(decision.run_id, decision.steps)
            return replace(known, results=replace(_tried_results(decision, known), done=True, results=results))
        tried, before = self._tried_details(decision, known), known.details
        if decision.watched:
            turn = account.looks.turn(tried.at, before.turn if before and before.run_id == decision.run_id else None)
            if turn is None or turn > tried.at:
                return replace(known, details=replace(tried, turn=turn))
        observation = await account.client.run(decision.run_id, steps=True)
        return replace(known, details=replace(tried, run=observation.run))

    async def _keep_artifacts(self, decision: KeepArtifacts, run: DbtRun, known: Known, account: Account) -> Known:
        before = known.kept if known.kept and known.kept.run_id == decision.run_id else None

        async def fetch(path: str, room: int) -> bytes | None:
            with account.containment.contain("file"):
                if path == ALL_RESULTS:
                    return await account.client.builds(decision.run_id, room, early=before is None)
                return await account.client.artifact(decision.run_id, path, room)

        async def store(name: str, files: Mapping[str, bytes]) -> None:
            self._check_lead()
            await self.objects.keep_artifacts(run, name, files)

        kept = await artifacts.keep(decision, run, before, fetch, store, lambda: self.clock().mono)
        return replace(known, kept=kept)

    # ── faults ──

    def _tried_details(self, decision: FetchDetails, known: Known) -> DetailsTry:
        before = known.details
        again = before is not None and (before.run_id, before.over) == (decision.run_id, decision.over)
        tries = before.tries + 1 if before is not None and again else 1
        kept = before.run if before is not None and before.run_id == decision.run_id and not decision.over else None
        return DetailsTry(run_id=decision.run_id, at=self.clock().mono, tries=tries, over=decision.over, run=kept)

    def _troubled(self, run: DbtRun, known: Known, trouble: Trouble) -> Known:
        since = known.trouble.since if known.trouble else trouble.since
        now = self.clock().mono
        # Spread, as all objects of a connection meet the same trouble at the same time.
        pause = min(max(now - since.mono, TROUBLE_PAUSE[0]), TROUBLE_PAUSE[1]) * random.uniform(0.75, 1.0)  # noqa: S311
        retry_at = max(now + pause, trouble.retry_at or 0.0)
        self.connections.doubt(run.uid, trouble.reason)
        # Forgotten, the account is connected to again, with what the Secret says by then.
        account_id = None if trouble.reason in DOUBTFUL else known.account_id
        told = replace(trouble, since=since, retry_at=retry_at)
        return replace(known, trouble=told, answered=False, account_id=account_id)


def _tried_results(decision: FetchResults, known: Known) -> ResultsTry:
    before = known.results
    tries = before.tries + 1 if before is not None and before.run_id == decision.run_id else 1
    return ResultsTry(run_id=decision.run_id, tries=tries, done=False)


def _applicant(run: DbtRun) -> Applicant:
    created = run.metadata.creation_timestamp
    return Applicant(
        uid=run.uid,
        namespace=run.metadata.namespace,
        priority=run.spec.priority,
        created=created.timestamp() if created else 0.0,
    )


async def _runs_of(decision: LookForRuns | Sweep, account: Account) -> tuple[RunFacts, ...]:
    """The runs that an attempt's claim may have started, oldest first."""
    attempt = decision.attempt
    if attempt.retry_of is not None:
        return await account.client.find_retries(decision.job_id, attempt.retry_of, decision.since)
    return await account.client.find_marked(decision.job_id, attempt.marker, decision.since)
