"""Between a claim and a run id: the start is sent once, or a search finds out whether it was.

Why a claim left by another process can be resolved: its start was sent within `submit_window` of the claim, or never.
Once `quiet_period` has passed since the claim was first seen, a search that finds no run proves that none was started.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from msgspec.structs import replace

from dbtrun.api import Attempt, Phase, Reason
from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import ClaimStart, Decision, Event, LookForRuns, RemoveFinalizer, Resume, Start
from watcher.lifecycle.facts import NotSent, Refused, Started
from watcher.lifecycle.known import Claim, LookUp
from watcher.lifecycle.marker import marked_cause, marker
from watcher.lifecycle.outcome import Outcome
from watcher.lifecycle.pending import first_attempt, take_on
from watcher.lifecycle.statuses import seconds, with_attempt
from watcher.lifecycle.sweeping import later, searched
from watcher.lifecycle.unwritten import stop_unwritten

SEARCHING: Final = "It is not known whether dbt Cloud started the run; the watcher is searching for it."


def submitting_step(case: Case, attempt: Attempt) -> Decision:
    """The next thing to do for an object whose present attempt is claimed and has no run yet."""
    claim = case.known.claim
    assert claim is not None, "remember() dates every claim"  # noqa: S101
    if case.run.deleting and not case.run.cancels_on_deletion:
        return RemoveFinalizer()
    # Only the process that wrote a claim may send it, and only once: what another one has sent is not known here.
    if claim.own and not claim.sent:
        return _send(case, claim, attempt)
    match claim.submission:
        case Started(run):
            return stop_unwritten(case, run) or take_on(case, attempt, run)
        case Refused(reason, message):
            return _handle_refusal(case, attempt, reason, message)
        case NotSent():
            return _release(case, attempt)
    return _resolve(case, claim, attempt)


def _send(case: Case, claim: Claim, attempt: Attempt) -> Decision:
    unwanted = _end_unwanted(case, attempt)
    if unwanted is not None:
        return unwanted
    # By the monotonic clock, as the wall clock may be set back in between. Another process that finds this claim counts
    # on nothing being sent after the window.
    if case.now.mono - claim.since > case.policy.submit_window:
        return _release(case, attempt)
    away = case.reconnect()
    if away is not None:
        return away
    if attempt.retry_of is not None:
        return Resume(attempt.retry_of)
    job_id = case.status.job_id
    assert job_id is not None, "a claim carries its job"  # noqa: S101
    return Start(job_id, marked_cause(case.run, attempt.marker), case.spec.overrides)


def _end_unwanted(case: Case, attempt: Attempt) -> Decision | None:
    """The end of an attempt of which nothing was started, if nobody wants it any more."""
    if case.run.deleting:
        reason, why = Reason.DELETED, "The object was deleted"
    elif case.spec.cancel:
        reason, why = Reason.CANCEL_REQUESTED, "spec.cancel was set"
    else:
        return None
    return case.finish(Outcome(Phase.CANCELLED, reason, f"{why} before anything was started."), attempt=attempt)


def _without_claim(attempt: Attempt) -> Attempt:
    """The attempt without its claim: as nothing was started, the time to give up counts from the next one."""
    # Once it was claimed again, though, a late run of the first claim may still appear.
    first = None if attempt.sweep_after is None else attempt.first_claim_time
    return replace(attempt, phase=Phase.PENDING, claim_time=None, first_claim_time=first)


def _release(case: Case, attempt: Attempt) -> Decision:
    """Nothing was started: the claim is released, and the attempt is claimed again when dbt Cloud can be asked."""
    released = _without_claim(attempt)
    changes: dict[str, Any] = {"attempts": with_attempt(case.status, released)}
    # Nothing is left of it, and no run can exist: the object becomes as it was before its first claim, which named an
    # account. The host or the token in its Secret may be wrong.
    if released == first_attempt(case) and case.known.submitted == 0:
        changes = {"attempts": (), "account_id": None, "host": None, "job_id": None}
    return case.change(
        phase=Phase.PENDING,
        reason=Reason.ACCEPTED,
        message="Nothing was started yet; the watcher tries again.",
        **changes,
    )


def _handle_refusal(case: Case, attempt: Attempt, reason: Reason, message: str) -> Decision:
    if attempt.retry_of is None:
        return case.finish(Outcome(Phase.ERROR, reason, message))
    # A retry from failure has conditions that only dbt Cloud checks: the job's latest run, dbt 1.6 or newer, and a
    # run_results.json (documented as `retry_not_supported_reason`).
    fresh = replace(_without_claim(attempt), retry_of=None, marker=marker(case.run.uid, attempt.number))
    told = (
        f"dbt Cloud refused to resume run {attempt.retry_of} from its failure, so the whole job runs again: {message}"
    )
    return case.change(
        Event("Warning", "ResumeRefused", told),
        phase=Phase.PENDING,
        reason=Reason.ACCEPTED,
        message=told,
        attempts=with_attempt(case.status, fresh),
    )


def _resolve(case: Case, claim: Claim, attempt: Attempt) -> Decision:
    lookup, ours = claim.lookup, case.run.may_start and not case.run.is_foreign(attempt)
    # Should dbt Cloud show a run later than assumed, the sweep ends it.
    swept = replace(attempt, sweep_after=later(case))
    if lookup is not None and lookup.found:
        # The oldest run is the attempt's; a younger one is a twin, and the sweep cancels it.
        oldest = lookup.found[0]
        if not ours:
            return take_on(case, replace(attempt, adopted=True), oldest)
        if len(lookup.found) > 1:
            swept = replace(attempt, sweep_after=seconds(case.now.wall))
        return stop_unwritten(case, oldest) or take_on(case, swept, oldest)
    overdue = case.deletion_overdue(
        "The finalizer was removed although it is not known whether dbt Cloud started its run."
    )
    if overdue is not None:
        return overdue
    quiet_ends = claim.since + case.policy.quiet_period
    if lookup is None or lookup.at < quiet_ends:
        return _look_up(case, attempt, lookup, quiet_ends)
    if not ours:
        return _release(case, attempt)
    # No run carries the marker, that is certain: the same attempt is claimed again, and swept once it has its run.
    return (
        _end_unwanted(case, swept)
        or case.contact()
        or ClaimStart(
            case.settled(
                reason=Reason.CLAIMED,
                message="dbt Cloud had not started the run; it is started now.",
                attempts=with_attempt(case.status, replace(swept, claim_time=case.now.wall)),
            )
        )
    )


def _look_up(case: Case, attempt: Attempt, lookup: LookUp | None, quiet_ends: float) -> Decision:
    """One more search for the runs of the claim, until the time to give up has come."""
    first = attempt.first_claim_time or attempt.claim_time or case.now.wall
    limit = case.spec.lost_contact_deadline_seconds
    if case.now.wall >= first + timedelta(seconds=limit):
        mark = f"cause {attempt.marker}" if attempt.retry_of is None else f"retried run {attempt.retry_of}"
        message = (
            f"The watcher could not find out in {limit} s whether dbt Cloud started a run: "
            f"look for {mark} in job {case.status.job_id}."
        )
        return case.finish(Outcome(Phase.ERROR, Reason.SUBMISSION_UNDECIDED, message))
    told = case.write(reason=Reason.LOOKING_UP, message=SEARCHING)
    if told is not None and not case.known.unwritten:
        return told
    if lookup is not None:
        due = min(lookup.at + case.policy.lookup_pause(lookup.tries), quiet_ends)
        if due > case.now.mono:
            return case.rest(due, why="looking the run up again")
    return case.contact() or LookForRuns(*searched(case, attempt))
