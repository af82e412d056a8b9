"""After the end: settle what is left (a twin, the finalizer, the conditions of a new generation), then the TTL."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from dbtrun.api import FINALIZER, DbtRun
from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import Decision, DeleteObject, RemoveFinalizer, Sweep, Wait
from watcher.lifecycle.statuses import stands, with_attempt
from watcher.lifecycle.submitting import searched
from watcher.lifecycle.tampering import tampered

EXPIRES_SOON: Final = 60.0
"""Seconds before its TTL is over in which a finished object is kept at hand."""


def ended_step(case: Case) -> Decision:
    """The next thing to do for an object whose phase is final."""
    return _sweep(case) or (RemoveFinalizer() if case.held else None) or _stamp(case) or _expire(case)


def rests_until(run: DbtRun, now: datetime) -> float | None:
    """Until when a finished object needs nothing, in seconds since the epoch (`inf`: for ever); None: look at it.

    For whatever needs nothing, `ended_step` waits; so it need not be kept for a look.
    """
    status, attempt = run.status, run.status.attempt
    if status.phase is None or not status.phase.final or run.deleting or run.unread:
        return None
    if FINALIZER in run.metadata.finalizers or (attempt is not None and attempt.sweep_after is not None):
        return None
    if not stands(status, run.metadata.generation) or tampered(run) is not None:
        return None
    ttl, ended = run.spec.ttl_seconds_after_finished, status.completion_time
    if ttl is None or ended is None:
        return math.inf
    until = ended.timestamp() + ttl - EXPIRES_SOON
    return until if until > now.timestamp() else None


def _stamp(case: Case) -> Decision | None:
    untouched = not case.run.unread and stands(case.status, case.run.metadata.generation)
    return None if untouched else case.write()


def _sweep(case: Case) -> Decision | None:
    """The finalizer stays until a possible twin was looked for, but not for ever."""
    attempt = case.attempt
    if attempt is None or attempt.sweep_after is None:
        return None
    overdue = case.now.wall > attempt.sweep_after + timedelta(seconds=case.policy.deletion_grace)
    if overdue or case.swept(attempt):
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
