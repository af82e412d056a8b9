"""Before a start: what must be settled before an attempt is claimed, or an existing run is taken over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec.structs import replace

from dbtrun.api import START_COPY_ANNOTATION, Attempt, Phase, Reason, RetryStrategy, Reuse
from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import (
    AddFinalizer,
    ClaimStart,
    Decision,
    Event,
    FindLive,
    FindProjects,
    ProveToken,
    ResolveJob,
    SearchPast,
)
from watcher.lifecycle.facts import RunFacts, RunState
from watcher.lifecycle.known import certain
from watcher.lifecycle.marker import marker
from watcher.lifecycle.outcome import Outcome
from watcher.lifecycle.statuses import NO_RUN, run_fields, run_times, seconds, with_attempt
from watcher.lifecycle.sweeping import later
from watcher.lifecycle.unwritten import stop_unwritten

FIRST: Final = datetime(2001, 1, 1, tzinfo=UTC)
"""Before any run: for an object that does not say when it was created."""


def pending_step(case: Case) -> Decision:
    """The next thing to do for an object whose present attempt has not been claimed."""
    overdue = case.deletion_overdue("The finalizer was removed before the run was seen.")
    # The order: an object that is not wanted ends also while it is suspended or its connection does not work, and one
    # that is held back asks nothing of its connection.
    first = overdue or _end_unwanted(case) or _hold_back(case) or case.contact()
    if first is not None:
        return first
    wanted, got = case.spec.account_id, case.known.account_id
    if wanted is None or wanted == got:
        return _adopt(case) if case.spec.adopts else _start(case)
    if case.run.mirrored:
        # Nobody has written the field, and the run's end is in the account that it names.
        waits = f"The run is of account {wanted}, and the connection is for account {got}: correct the connection."
        return case.rest_pending("the connection is for another account", Reason.INVALID_CONNECTION, waits)
    message = f"spec.accountId is {wanted}, but the connection is for account {got}: correct one of them."
    return case.finish(Outcome(Phase.ERROR, Reason.INVALID_CONNECTION, message))


def _end_unwanted(case: Case) -> Decision | None:
    """The end of an object of which nothing was started, if nobody wants it any more."""
    if case.run.deleting and not (case.spec.adopts and case.run.cancels_on_deletion):
        reason, why = Reason.DELETED, "The object was deleted"
    elif case.spec.cancel and not case.spec.adopts:
        reason, why = Reason.CANCEL_REQUESTED, "spec.cancel was set"
    else:
        return None
    told = f"{why} before anything was started."
    if not (case.spec.adopts or not case.run.may_start or past_is_clear(case)):
        trouble, since = case.known.trouble, case.known.unusable_since
        # A refusal that lasts is believed. In an outage the object waits for the search that follows.
        cannot_ask = (
            trouble is not None
            and since is not None
            # Of the first, no request was sent.
            and (trouble.reason is Reason.INVALID_CONNECTION or case.now.mono - since >= case.policy.trouble_grace)
        )
        if not cannot_ask or _number(case) <= case.known.submitted:
            return None  # there may be a run to cancel, which the status does not know after a restore
        told = f"{why}. No run is known, and the connection cannot be used to search for one."
    return case.finish(Outcome(Phase.CANCELLED, reason, told))


def _hold_back(case: Case) -> Decision | None:
    if not (case.spec.adopts or case.run.may_start):
        metadata = case.run.metadata
        told = (
            "This object is a copy of another one: it was restored from a backup, or created from the output of "
            f"kubectl. It starts nothing by itself. To start it: kubectl -n {metadata.namespace} annotate dbtrun "
            f"{metadata.name} {START_COPY_ANNOTATION}={case.run.uid}"
        )
        event = None if case.status.reason is Reason.COPIED else Event("Warning", Reason.COPIED.value, told)
        write = case.write(event, phase=Phase.PENDING, reason=Reason.COPIED, message=told)
        return write or case.rest(why="a copy")
    if case.spec.cancel or case.run.deleting:
        return None  # what was started, if anything, is looked up now and not when another attempt would be due
    if case.spec.suspend:
        return case.rest(why="suspended", phase=Phase.PENDING, reason=Reason.SUSPENDED, message="spec.suspend is true.")
    not_before = case.attempt.not_before if case.attempt else None
    # Never this far ahead, unless a clock was wrong: then it means nothing.
    distant = case.now.wall + timedelta(seconds=case.spec.retry.backoff_seconds + case.policy.clock_skew)
    if not_before is not None and case.now.wall < not_before <= distant:
        return case.rest(case.mono(not_before), why="backoff before the next attempt")
    return None


def _start(case: Case) -> Decision:
    job_id = case.known.job_id if case.spec.job is None or case.spec.job.id is None else case.spec.job.id
    if case.known.job_refused is not None:
        return case.finish(Outcome(Phase.ERROR, Reason.JOB_NOT_FOUND, case.known.job_refused))
    if job_id is None:
        assert case.spec.job is not None, "the API server holds that job or runId is set"  # noqa: S101
        return ResolveJob(case.spec.job)
    # Before the search and the look for a live run: outside of its projects, a namespace learns nothing of runs.
    if case.known.projects is not None:
        resumed = case.attempt.retry_of if case.attempt else case.spec.retry_of
        touched = case.known.touched
        if touched is None or (touched.job_id, touched.resumed) != (job_id, resumed):
            return FindProjects(job_id, resumed)
        outside = _refuse_projects(case, *touched.projects)
        if outside is not None:
            return outside
    if not past_is_clear(case):
        return _take_hold(case) or _search_past(case, job_id)
    if case.spec.reuse is Reuse.RUNNING and case.attempt is None:
        if not case.known.reuse_checked:
            return FindLive(job_id)
        if case.known.reusable is not None:
            return _take_hold(case) or take_on(
                case, Attempt(number=1, phase=Phase.PENDING, adopted=True), case.known.reusable
            )
    # The finalizer precedes whatever a deletion would have to cancel. The claim comes last: the start must be sent
    # within the submit window after it, so nothing else may have to be waited for then.
    proof = ProveToken(job_id) if case.known.token_doubtful else None
    return _take_hold(case) or _wait_for_slot(case) or proof or _claim(case, job_id)


def _refuse_projects(case: Case, *projects: int | None) -> Decision | None:
    allowed = case.known.projects
    refused = [project for project in projects if allowed is not None and project not in allowed]
    if not refused:
        return None
    named = "a project that dbt Cloud does not name" if refused[0] is None else f"project {refused[0]}"
    message = (
        f"The namespace {case.run.metadata.namespace} may not use {named} with the default connection: name a Secret "
        "in spec.connectionRef, or have the project added to the Helm value connection.projects."
    )
    return case.finish(Outcome(Phase.ERROR, Reason.PROJECT_NOT_ALLOWED, message))


def _wait_for_slot(case: Case) -> Decision | None:
    """The line for a run slot. An object whose priority changes asks again, by claiming."""
    place = case.known.place
    if place is None or place.priority != case.spec.priority:
        return None
    if place.within is None:
        return case.rest(why="the account's live runs are being counted")
    line = "next in line" if place.within == 1 else f"among the first {place.within} in line"
    return case.rest_pending(
        "waiting for a run slot",
        Reason.WAITING_FOR_SLOT,
        f"Waiting for a run slot: the account has {place.limit} live runs, the connection's "
        f"max-concurrent-runs; {line}.",
    )


def _take_hold(case: Case) -> Decision | None:
    settled = (case.held and not case.run.unmarked) or not case.run.owes_cancel
    return None if settled or case.run.deleting else AddFinalizer()


def _adopt(case: Case) -> Decision:
    observation = case.known.observation
    if observation is None:
        return case.rest_pending("waiting to see the run", Reason.ACCEPTED, f"Looking for run {case.spec.run_id}.")
    if observation.run is not None:
        return (
            _refuse_projects(case, observation.run.project_id)
            or stop_unwritten(case, observation.run)
            or _take_hold(case)
            or take_on(case, Attempt(number=1, phase=Phase.PENDING, adopted=True), observation.run)
        )
    until = case.denied_until(observation, case.policy.adopt_grace)
    if until is not None:
        return case.rest(until, why="dbt Cloud does not know the run")
    message = f"dbt Cloud has no run {case.spec.run_id} in account {case.known.account_id}, or hides it from the token."
    return case.finish(Outcome(Phase.ERROR, Reason.RUN_NOT_FOUND, message))


def _claim(case: Case, job_id: int) -> Decision:
    now = seconds(case.now.wall)
    attempt = case.attempt or first_attempt(case)
    claimed = replace(
        attempt,
        phase=Phase.SUBMITTING,
        marker=marker(case.run.uid, attempt.number) if attempt.marker else "",
        # With its fraction, which distinguishes two claims of one attempt.
        claim_time=case.now.wall,
        first_claim_time=attempt.first_claim_time or now,
        not_before=None,
        sweep_after=_swept_later(case, attempt),
        reason=None,
        message="",
    )
    return ClaimStart(
        case.settled(
            phase=Phase.SUBMITTING,
            reason=Reason.CLAIMED,
            message=f"Starting job {job_id}.",
            job_id=job_id,
            account_id=case.known.account_id,
            host=case.known.host,
            start_time=case.status.start_time or now,
            attempts=with_attempt(case.status, claimed),
        )
    )


def _number(case: Case) -> int:
    return case.attempt.number if case.attempt else 1


def past_is_clear(case: Case) -> bool:
    """Whether the attempt to be claimed has no run that the status does not know of."""
    number, known = _number(case), case.known
    if certain(case.run, known, number):
        return True
    back = known.looked_back
    if back is None or back.number != number or back.lookup.found:
        return False
    # What this process has submitted may show as late as any start.
    return number > known.submitted or back.lookup.at >= known.submitted_at + case.policy.quiet_period


def _search_past(case: Case, job_id: int) -> Decision:
    """A cluster can be restored from a backup, so a status may be older than the runs of its object."""
    number, back = _number(case), case.known.looked_back
    if back is not None and back.number == number:
        if back.lookup.found:
            return _take_up_again(case, back.lookup.found)
        due = back.lookup.at + case.policy.lookup_pause(back.lookup.tries)
        if due > case.now.mono:
            return case.rest(
                due,
                why="searching for a run again",
                phase=Phase.PENDING,
                reason=Reason.LOOKING_UP,
                message="The status is older than the start of a run; the watcher is searching for the run.",
            )
    wanted = not (case.run.deleting or case.spec.cancel)
    mark = marker(case.run.uid, number)
    return SearchPast(job_id, number, mark, _run_to_resume(case), _past_since(case), starts=wanted)


def _run_to_resume(case: Case) -> int | None:
    """The run that the attempt resumes, or may have resumed before the status went back."""
    if case.attempt is None:
        return case.spec.retry_of
    if case.attempt.retry_of is not None or case.spec.retry.strategy is RetryStrategy.FRESH:
        return case.attempt.retry_of
    return next((before.run_id for before in reversed(case.status.attempts[:-1])), None)


def _past_since(case: Case) -> datetime:
    """An attempt is not older than the one before it, nor than its object."""
    before = case.status.attempts[-2] if len(case.status.attempts) > 1 else None
    if before is not None and before.queued_at is not None:
        return before.queued_at
    created = case.run.metadata.creation_timestamp or FIRST
    # The instant is compared with dbt Cloud's, whose clock may be behind the API server's.
    return created - timedelta(seconds=case.policy.clock_skew)


def _take_up_again(case: Case, found: tuple[RunFacts, ...]) -> Decision:
    """The oldest run is the attempt's; a younger one is a twin, and the sweep cancels it."""
    run = found[0]
    attempt = case.attempt or first_attempt(case)
    resumed = run.retrying_run_id if run.retrying_run_id == _run_to_resume(case) else None
    attempt = replace(
        attempt,
        retry_of=resumed,
        marker=marker(case.run.uid, attempt.number) if resumed is None else "",
        not_before=None,
        first_claim_time=attempt.first_claim_time or seconds(_past_since(case)),
        # Of several, the others are to be cancelled, and at once: they run beside this one.
        sweep_after=seconds(case.now.wall) if len(found) > 1 else _swept_later(case, attempt),
    )
    told = (
        f"dbt Cloud run {run.run_id} was already started for attempt {attempt.number}, but the status does not name it."
        " Was the cluster restored from a backup? The watcher follows this run and starts no other."
    )
    return take_on(case, attempt, run, Event("Warning", "RunFound", told))


def _swept_later(case: Case, attempt: Attempt) -> datetime | None:
    """What this process has submitted may come later than assumed: then the sweep ends it."""
    if attempt.number > case.known.submitted:
        return attempt.sweep_after
    return later(case)


def first_attempt(case: Case) -> Attempt:
    """The attempt that an object begins with, before its first claim."""
    resumed = case.spec.retry_of
    mark = marker(case.run.uid, 1) if resumed is None else ""
    return Attempt(number=1, phase=Phase.PENDING, marker=mark, retry_of=resumed)


def live_phase(run: RunFacts) -> tuple[Phase, Reason]:
    """The phase and reason of a run that is not over."""
    queued = run.state is RunState.QUEUED
    return (Phase.QUEUED, Reason.RUN_QUEUED) if queued else (Phase.RUNNING, Reason.RUN_STARTED)


def take_on(case: Case, attempt: Attempt, run: RunFacts, event: Event | None = None) -> Decision:
    """Records that this run is the attempt's. From here on it is followed, and cancelled if asked for."""
    phase, reason = live_phase(run)
    verb = "Following" if attempt.adopted or event else "Started"
    taken = replace(attempt, phase=phase, run_id=run.run_id, **run_times(run))
    return case.change(
        event or Event("Normal", "Adopted" if attempt.adopted else "Started", f"{verb} dbt Cloud run {run.run_id}."),
        **{
            **NO_RUN,
            **run_fields(run),
            "account_id": case.known.account_id or case.status.account_id or run.account_id,
            "host": case.known.host or case.status.host,
            "phase": phase,
            "reason": reason,
            "message": f"{verb} run {run.run_id}.",
            "start_time": case.status.start_time or seconds(case.now.wall),
            "attempts": with_attempt(case.status, taken),
        },
    )
