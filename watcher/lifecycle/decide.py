"""The one question: what is the next thing to do with this object?"""

from __future__ import annotations

from typing import NamedTuple

from watcher.api import Attempt, DbtRun, Phase, Reason, Status
from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import Decision, Wait
from watcher.lifecycle.ended import ended_step
from watcher.lifecycle.facts import Instant
from watcher.lifecycle.following import following_step
from watcher.lifecycle.known import DENIED_INTERVAL, Known, wanted_run
from watcher.lifecycle.outcome import STOP_REASONS, Outcome
from watcher.lifecycle.pending import pending_step
from watcher.lifecycle.policy import Policy
from watcher.lifecycle.submitting import submitting_step


def decide(run: DbtRun, known: Known, now: Instant, policy: Policy) -> Decision:
    """The next thing to do, or until when to wait.

    `known` has passed through `remember`. Doing the decision and deciding again comes to an end: each decision but Wait
    changes the object, or what is known of it.
    """
    case = Case(run=run, known=known, now=now, policy=policy)
    if run.deleting and not case.held:
        return Wait(None, "the object is going")
    if case.phase.final:
        return ended_step(case)
    lie = tampered(run.status)
    if lie is not None:
        return case.finish(Outcome(Phase.ERROR, Reason.STATUS_TAMPERED, lie))
    if case.phase is Phase.SUBMITTING:
        return submitting_step(case)
    return following_step(case) if case.phase.live else pending_step(case)


def tampered(status: Status) -> str | None:
    """What in the status the watcher never writes; the rules that follow rely on it."""
    phase = status.phase or Phase.PENDING
    if _honest(phase, status, status.attempt):
        return None
    return (
        f"The status says {phase} without what belongs to it: it was not written by the watcher. Create a new object."
    )


def _honest(phase: Phase, status: Status, attempt: Attempt | None) -> bool:
    if attempt is None or attempt.phase is not phase:
        return attempt is None and phase is Phase.PENDING
    if phase is Phase.PENDING:
        return True
    if phase is Phase.SUBMITTING:
        return None not in (attempt.claim_time, status.job_id) and bool(attempt.marker or attempt.retry_of)
    known_run = attempt.run_id is not None and attempt.run_id == status.run_id
    return known_run and (phase is not Phase.CANCELLING or status.reason in STOP_REASONS)


class Interest(NamedTuple):
    """A run to be polled, at least every so many seconds."""

    run_id: int
    interval: int


def interest(run: DbtRun, known: Known) -> Interest | None:
    """What the poller shall watch for this object: a live run, or one that it wants to adopt."""
    phase = run.status.phase or Phase.PENDING
    adopting = phase is Phase.PENDING and run.spec.adopts and known.account_id is not None
    run_id = wanted_run(run)
    if run_id is None or not (phase.live or adopting):
        return None
    denied = known.missing_since is not None
    return Interest(run_id, DENIED_INTERVAL if denied else run.spec.poll_interval_seconds)
