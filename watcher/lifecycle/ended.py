"""After the end: settle what is left (a twin, the finalizer, the conditions of a new generation), then the TTL."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import Decision, DeleteObject, RemoveFinalizer, Sweep, Wait
from watcher.lifecycle.statuses import with_attempt
from watcher.lifecycle.submitting import searched


def ended_step(case: Case) -> Decision:
    """The next thing to do for an object whose phase is final."""
    return _sweep(case) or (RemoveFinalizer() if case.held else None) or case.write() or _expire(case)


def _sweep(case: Case) -> Decision | None:
    """The finalizer stays until a possible twin was looked for, but not for ever."""
    attempt = case.attempt
    if attempt is None or attempt.sweep_after is None:
        return None
    overdue = case.now.wall > attempt.sweep_after + timedelta(seconds=case.policy.deletion_grace)
    if overdue or attempt.number in case.known.swept:
        if case.run.deleting and case.known.unwritten:
            return None
        return case.write(attempts=with_attempt(case.status, replace(attempt, sweep_after=None)))
    # Never this far ahead, unless a clock was wrong: an object must not be held until then.
    distant = case.now.wall + timedelta(seconds=case.policy.quiet_period + case.policy.clock_skew)
    if case.now.wall < attempt.sweep_after <= distant:
        return case.rest(case.mono(attempt.sweep_after), why="a twin may still appear")
    return case.reconnect() or Sweep(*searched(case, attempt))


def _expire(case: Case) -> Decision:
    ttl, ended = case.spec.ttl_seconds_after_finished, case.status.completion_time
    if ttl is None or ended is None or case.run.deleting:
        return Wait(None, "finished")
    expires = case.mono(ended) + ttl
    return DeleteObject() if expires <= case.now.mono else Wait(expires, "kept until its TTL")
