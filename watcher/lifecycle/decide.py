"""The one question: what is the next thing to do with this object?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final, NamedTuple

from msgspec import structs

from dbtrun.api import DbtRun, Phase, Reason
from dbtrun.values import Instant
from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import AddFinalizer, Decision, Wait, Write
from watcher.lifecycle.ended import ended_step
from watcher.lifecycle.following import following_step, looks_from
from watcher.lifecycle.known import DENIED_INTERVAL, Known, wanted_run
from watcher.lifecycle.outcome import Outcome
from watcher.lifecycle.pending import pending_step
from watcher.lifecycle.policy import Policy
from watcher.lifecycle.statuses import NO_RUN
from watcher.lifecycle.submitting import submitting_step
from watcher.lifecycle.tampering import tampered
from watcher.lifecycle.unwritten import let_go

OTHERS: Final = "Another watcher serves this namespace with another dbt Cloud account and follows this object."


def decide(run: DbtRun, known: Known, now: Instant, policy: Policy) -> Decision:
    """The next thing to do, or until when to wait.

    `known` has passed through `remember`. Doing the decision and deciding again comes to an end: each decision but Wait
    changes the object, or what is known of it.
    """
    case = Case(run=run, known=known, now=now, policy=policy)
    if run.deleting and not case.held:
        # Another controller's finalizer may still hold it. Everything that this one owes is settled.
        return Wait(None, "the object is going")
    if case.followed_by_others and known.trouble is not None:
        return Wait(known.trouble.retry_at, OTHERS)
    return let_go(case, _next(case))


def _next(case: Case) -> Decision:
    run = case.run
    # Before all else: the steps below believe what the status says, and sums with a time of the year 9999 would raise.
    lie = tampered(run)
    if lie is not None:
        nothing = {**NO_RUN, "start_time": None, "artifacts": (), "attempts": (), "conditions": ()}
        return case.finish(Outcome(Phase.ERROR, Reason.STATUS_TAMPERED, lie), attempt=None, **nothing)
    if case.phase.final:
        return ended_step(case)
    attempt = case.attempt
    if case.phase is Phase.PENDING or attempt is None:  # any other phase is an attempt's, or tampered with
        decision = pending_step(case)
        ended = case.facts is not None and case.facts.state.over
        if not (run.mirrored and ended and isinstance(decision, Write) and decision.status.attempt is not None):
            return decision
        # A mirrored object takes on a run that is over. Its end is written at once: two writes for each run that others
        # start, and no Event.
        taken = replace(case, run=structs.replace(run, status=decision.status))
        following = following_step(taken, decision.status.attempt)
        return replace(following, event=None) if isinstance(following, Write) else following
    if run.owes_cancel and not (case.held or run.deleting):
        return AddFinalizer()  # somebody took it away, and with it the cancel that a deletion owes the run
    step = submitting_step if case.phase is Phase.SUBMITTING else following_step
    return step(case, attempt)


def may_wait(run: DbtRun, decision: Decision, policy: Policy) -> bool:
    """Whether the decision only reports that a queued run has begun, so that starts of other runs may go first.

    A deadline that could pass meanwhile counts from the times in the status, so such a run is reported at once.
    """
    queue, active = run.spec.queue_deadline_seconds, run.spec.active_deadline_seconds
    if not isinstance(decision, Write) or queue or (active or math.inf) <= policy.news_grace:
        return False
    return (run.status.phase, decision.status.phase) == (Phase.QUEUED, Phase.RUNNING)


class Interest(NamedTuple):
    """A run to be polled, at least every so many seconds."""

    run_id: int
    interval: int
    looks_from: float | None = None
    """Monotonic seconds from which the object wants a turn to look at the run's steps; None: it wants none."""


def interest(run: DbtRun, known: Known, now: Instant, policy: Policy) -> Interest | None:
    """What the poller shall watch for this object: a live run, or one that it wants to adopt."""
    phase = run.status.phase or Phase.PENDING
    adopting = phase is Phase.PENDING and run.spec.adopts and known.account_id is not None
    run_id = wanted_run(run)
    if run_id is None or not (phase.live or adopting):
        return None
    denied = known.missing_since is not None
    case = Case(run=run, known=known, now=now, policy=policy)
    # A denial is believed if a poll repeats it after a minute. With the user's interval, which may be an hour, it would
    # take that long to end the object, or to learn that its run is there after all.
    interval = DENIED_INTERVAL if denied else run.spec.poll_interval_seconds
    return Interest(run_id, interval, looks_from(case, case.facts) if phase.live else None)
