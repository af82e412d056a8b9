"""While a dbt Cloud run is live: report its state, cancel it if asked for, and recognise its end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from msgspec.structs import replace

from dbtrun.api import Attempt, Phase, Reason, RetryStrategy, RetryWhen
from dbtrun.api.watched import is_watched
from watcher.lifecycle.case import Case
from watcher.lifecycle.cause import told_step
from watcher.lifecycle.decisions import (
    Connect,
    Decision,
    Event,
    FetchDetails,
    FetchResults,
    FindOwner,
    RemoveFinalizer,
)
from watcher.lifecycle.facts import RunFacts, RunState
from watcher.lifecycle.keeping import keep_step, told_artifacts
from watcher.lifecycle.known import DetailsTry, ResultsTry, saw_live
from watcher.lifecycle.marker import marker
from watcher.lifecycle.outcome import Outcome, outcome_of
from watcher.lifecycle.pending import live_phase
from watcher.lifecycle.statuses import NO_RUN, run_times, seconds, shown_steps, with_attempt
from watcher.lifecycle.sweeping import sweep_before_retry, sweep_live
from watcher.lifecycle.unwritten import cancel_due, stop_wish

NOT_RETRIED: Final = (
    "It is not retried, because this watcher did not see the run live and cannot tell whether a DbtRun asked for the "
    "cancel."
)

FOREIGN: Final = (
    "It is not cancelled, because a DbtRun of another namespace has started it: cancel that DbtRun, or the run in dbt "
    "Cloud."
)

COPY_NOT_RETRIED: Final = "It is not retried, because this object is a copy."


def following_step(case: Case, attempt: Attempt) -> Decision:
    """The next thing to do for an object whose run is known and was live when last seen."""
    if case.run.deleting and not case.run.cancels_on_deletion:
        return RemoveFinalizer()
    # An end that is known is reported first: neither a deadline nor an outage can change it any more.
    facts = case.facts
    if facts is not None and facts.state.over:
        return _fetch_details(case, facts) or _end(case, attempt, facts)
    # A run that was denied once may be followed into an outage: losing contact comes before believing the denial.
    first = (
        case.deletion_overdue(
            f"The finalizer was removed; dbt Cloud has not confirmed that run {case.status.run_id} was cancelled."
        )
        or case.lost_contact()
        or (Connect() if case.known.account_id is None and not case.pausing else None)
    )
    if first is not None:
        return first
    observation = case.known.observation
    if observation is not None and observation.run is None:
        until = case.denied_until(observation, case.policy.missing_grace)
        if until is not None:
            return case.rest(until, why="dbt Cloud denies the run")
        message = f"dbt Cloud no longer knows run {case.status.run_id}, or hides it from the token."
        return case.finish(Outcome(Phase.ERROR, Reason.RUN_NOT_FOUND, message))
    return sweep_live(case, attempt) or _stop(case, attempt) or _report(case, attempt, facts)


# ── the end ──


def _fetch_details(case: Case, facts: RunFacts) -> Decision | None:
    """Failed nodes are worth a request, but not a delay. Of a success everything is known."""
    if facts.state is RunState.SUCCESS or facts.started_at is None or case.pausing:
        return None
    tried, read, tries = _details(case, facts), _results(case, facts), case.policy.details_tries
    if tried is None or not tried.over or (tried.run is None and tried.tries < tries):
        return case.reconnect() or FetchDetails(facts.run_id, over=True)
    if read is None or not (read.done or read.tries >= tries):
        steps = tried.run.steps if tried.run is not None else None
        return case.reconnect() or FetchResults(facts.run_id, steps or ())
    return None


def _details(case: Case, facts: RunFacts) -> DetailsTry | None:
    tried = case.known.details
    return tried if tried is not None and tried.run_id == facts.run_id else None


def _results(case: Case, facts: RunFacts) -> ResultsTry | None:
    read = case.known.results
    return read if read is not None and read.run_id == facts.run_id else None


def _end(case: Case, attempt: Attempt, facts: RunFacts) -> Decision:
    asked_for = _why_cancelled(case, facts)
    tried, read = _details(case, facts), _results(case, facts)
    results = read.results if read else None
    step = told_step(tried.run) if tried and tried.over else None
    outcome = outcome_of(facts, asked_for, results, step)
    ended = replace(attempt, **run_times(facts))
    changes: dict[str, Any] = {**run_times(facts), **_steps_at_end(case, facts, tried), "failed_step": step}
    if results is not None:
        changes["results"] = results
    # Perhaps it was cancelled at our request, which a restored status does not know any more.
    retry, cancel = case.spec.retry, case.known.cancel
    ours = outcome.retryable is RetryWhen.CANCELLED and (
        (cancel is not None and cancel.run_id == attempt.run_id) or not saw_live(case.run, case.known, attempt.number)
    )
    unwanted = asked_for is not None or ours or case.spec.cancel or case.run.deleting or case.spec.adopts
    retryable = outcome.retryable in retry.when
    if retryable and case.run.may_start and not unwanted and attempt.number <= retry.limit:
        return sweep_before_retry(case, attempt) or _next_attempt(case, ended, facts, outcome)
    if retryable and not case.run.may_start:
        outcome = outcome._replace(message=f"{outcome.message} {COPY_NOT_RETRIED}")
    elif ours and RetryWhen.CANCELLED in retry.when:
        outcome = outcome._replace(message=f"{outcome.message} {NOT_RETRIED}")
    changes["artifacts"] = told_artifacts(case, facts)
    return keep_step(case, facts) or case.finish(outcome, attempt=ended, **changes)


def _why_cancelled(case: Case, facts: RunFacts) -> Reason | None:
    """Why we cancelled the run, if we did. The status may not say so, if it could not be written."""
    if case.phase is Phase.CANCELLING:
        return case.status.reason
    passed, observation = _deadline(case), case.known.observation
    if passed is not None and observation is not None and facts.finished_at is not None:
        # A cancel because of a deadline may have been sent although the status could not be written. A run that ended
        # before the deadline was stopped by somebody else.
        late = facts.finished_at - observation.clock_offset >= passed[0]
        return passed[1] if late else stop_wish(case)
    return stop_wish(case)


def _steps_at_end(case: Case, facts: RunFacts, tried: DetailsTry | None) -> dict[str, Any]:
    if tried and tried.over and tried.run and tried.run.steps:
        return shown_steps(tried.run.steps)
    if facts.state is RunState.SUCCESS and case.status.steps:
        # A run that succeeded has done all its steps, so they need no request; only their times stay unknown.
        total = (case.status.progress or f"0/{len(case.status.steps)}").partition("/")[2]
        passed = tuple(replace(step, status="Success") for step in case.status.steps)
        return {"steps": passed, "progress": f"{total}/{total}"}
    return {}


def _next_attempt(case: Case, attempt: Attempt, facts: RunFacts, outcome: Outcome) -> Decision:
    retry = case.spec.retry
    number = attempt.number + 1
    # `can_retry` is dbt Cloud's word at the end of the run: a younger run of the job may have made it outdated.
    resumes = retry.strategy is RetryStrategy.FROM_FAILURE and facts.can_retry
    ended = replace(attempt, phase=outcome.phase, reason=outcome.reason, message=outcome.message, sweep_after=None)
    following = Attempt(
        number=number,
        phase=Phase.PENDING,
        # A retry from failure has no cause of its own: it is recognized by the run that it resumes.
        marker="" if resumes else marker(case.run.uid, number),
        retry_of=facts.run_id if resumes else None,
        not_before=seconds(case.now.wall) + timedelta(seconds=retry.backoff_seconds),
    )
    message = f"Attempt {attempt.number} of {retry.limit + 1}: {outcome.message}"
    return case.change(
        Event("Warning", "Retrying", message),
        **{
            **NO_RUN,
            "phase": Phase.PENDING,
            "reason": Reason.RETRY_BACKOFF,
            "message": message,
            "attempts": (*with_attempt(case.status, ended), following),
        },
    )


# ── on the way ──


def _stop(case: Case, attempt: Attempt) -> Decision | None:
    run_id = case.status.run_id
    assert run_id is not None, "only a known run is cancelled"  # noqa: S101
    if case.phase is Phase.CANCELLING:
        return cancel_due(case, run_id)
    reason = _stop_reason(case)
    if reason is None:
        return None
    if case.owner_unknown(run_id):
        return None if case.pausing else case.reconnect() or FindOwner(run_id)
    if case.foreign(run_id):
        return RemoveFinalizer(Event("Warning", "NotCancelled", FOREIGN)) if case.run.deleting else None
    queue, active = case.spec.queue_deadline_seconds, case.spec.active_deadline_seconds
    words = {
        Reason.DELETED: "the object is being deleted",
        Reason.CANCEL_REQUESTED: "spec.cancel is true",
        Reason.QUEUE_DEADLINE_EXCEEDED: f"it did not begin in {queue} s (spec.queueDeadlineSeconds)",
        Reason.ACTIVE_DEADLINE_EXCEEDED: f"it ran for {active} s (spec.activeDeadlineSeconds)",
    }
    return (cancel_due(case, run_id) if case.known.unwritten else None) or case.write(
        phase=Phase.CANCELLING,
        reason=reason,
        message=f"Cancelling run {run_id}: {words[reason]}.",
        attempts=with_attempt(case.status, replace(attempt, phase=Phase.CANCELLING, reason=reason)),
    )


def _stop_reason(case: Case) -> Reason | None:
    if case.run.deleting:
        return Reason.DELETED
    if case.spec.cancel:
        return Reason.CANCEL_REQUESTED
    passed = _deadline(case)
    return passed[1] if passed is not None and passed[0] <= case.now.wall else None


def _deadline(case: Case) -> tuple[datetime, Reason] | None:
    """The next deadline by our clock, from instants that are in the status, so that it survives a restart.

    Those are dbt Cloud's instants: before it has told its clock, no deadline of it has passed.
    """
    observation = case.known.observation
    if observation is None:
        return None
    offset = observation.clock_offset
    started, queued = case.status.started_at, case.status.queued_at
    active, queue = case.spec.active_deadline_seconds, case.spec.queue_deadline_seconds
    if started is not None:
        return (started - offset + timedelta(seconds=active), Reason.ACTIVE_DEADLINE_EXCEEDED) if active else None
    if queued is not None and queue:
        return queued - offset + timedelta(seconds=queue), Reason.QUEUE_DEADLINE_EXCEEDED
    return None


def _watched(case: Case) -> bool:
    return is_watched(case.run.metadata.annotations, case.now.wall)


def _watched_due(case: Case, facts: RunFacts | None) -> float | None:
    """When the steps are read next because somebody watches them."""
    if facts is None or facts.started_at is None or not _watched(case):
        return None
    tried = _details(case, facts)
    return max(tried.turn or 0.0, tried.at + case.policy.watched_interval) if tried else case.now.mono


def looks_from(case: Case, facts: RunFacts | None) -> float | None:
    """From when on the steps are worth a look when it is the object's turn; None: not, or somebody watches them.

    No timer of the object waits for it: where there are thousands, few get their turn.
    """
    observation = case.known.observation
    if facts is None or observation is None or facts.started_at is None or facts.state.over or _watched(case):
        return None
    tried = _details(case, facts)
    if tried is not None:
        return tried.at + case.policy.details_interval
    return case.mono(facts.started_at - observation.clock_offset) + case.policy.details_after


def _report(case: Case, attempt: Attempt, facts: RunFacts | None) -> Decision:
    """The state of the run, after a look at its steps if it is time for one."""
    if facts is None:
        return case.rest(*_wakeups(case, attempt, facts), why="waiting to see the run")
    watched, turn = _watched(case), case.known.turn
    has_turn = turn is not None and case.now.mono - turn <= case.policy.turn_seconds
    due = _watched_due(case, facts) if watched else looks_from(case, facts) if has_turn else None
    if due is not None and due <= case.now.mono and not case.pausing:
        return FetchDetails(facts.run_id, over=False, watched=watched)
    changes: dict[str, Any] = {**run_times(facts)}
    typical, tried = case.known.typical, _details(case, facts)
    estimated = case.status.estimated_completion_time is not None
    if not estimated and typical is not None and facts.started_at is not None and facts.retrying_run_id is None:
        changes["estimated_completion_time"] = seconds(facts.started_at + typical)
    if tried is not None and tried.run is not None and tried.run.steps:
        changes |= shown_steps(tried.run.steps)
    if case.phase is not Phase.CANCELLING:
        phase, reason = live_phase(facts)
        word = "is queued" if phase is Phase.QUEUED else "is running"
        refused = f" {FOREIGN}" if case.foreign(facts.run_id) and _stop_reason(case) is not None else ""
        changes |= {"phase": phase, "reason": reason, "message": f"Run {facts.run_id} {word}.{refused}"}
    told = replace(attempt, phase=changes.get("phase", attempt.phase), **run_times(facts))
    return case.rest(
        *_wakeups(case, attempt, facts), why="the run is live", attempts=with_attempt(case.status, told), **changes
    )


def _wakeups(case: Case, attempt: Attempt, facts: RunFacts | None) -> list[float | None]:
    cancel, deadline = case.known.cancel, _deadline(case)
    cancelling = case.phase is Phase.CANCELLING
    trouble = case.known.trouble
    return [
        case.mono(deadline[0]) if deadline and not cancelling else None,
        cancel.at + case.policy.cancel_repeat if cancelling and cancel else None,
        case.mono(attempt.sweep_after) if attempt.sweep_after else None,
        _watched_due(case, facts),
        trouble.retry_at if trouble else None,
    ]
