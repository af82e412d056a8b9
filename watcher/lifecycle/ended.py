"""After the end: settle what is left (a twin, the finalizer, the conditions of a new generation), then the TTL."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

from dbtrun.api import FINALIZER, DbtRun
from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import Decision, DeleteObject, RemoveFinalizer, Wait
from watcher.lifecycle.statuses import stands
from watcher.lifecycle.sweeping import sweep_ended
from watcher.lifecycle.tampering import tampered

EXPIRES_SOON: Final = 60.0
"""Seconds before its TTL is over in which a finished object is kept in memory."""


def ended_step(case: Case) -> Decision:
    """The next thing to do for an object whose phase is final."""
    attempt = case.attempt
    # The sweep comes first: once the finalizer is gone, so may be the object, and nobody remembers the twin. The TTL
    # comes last, as it deletes what the others need.
    unsettled = (
        (sweep_ended(case, attempt) if attempt is not None else None)
        or (RemoveFinalizer() if case.held else None)
        or (None if _is_stamped(case.run) else case.write())
    )
    if unsettled is not None:
        return unsettled
    ttl, ended = case.spec.ttl_seconds_after_finished, case.status.completion_time
    if ttl is None or ended is None or case.run.deleting:
        return Wait(None, "finished")
    expires = case.mono(ended) + ttl
    return DeleteObject() if expires <= case.now.mono else Wait(expires, "kept until its TTL")


def rests_until(run: DbtRun, now: datetime) -> float | None:
    """Until when a finished object needs nothing, in seconds since the epoch (`inf`: for ever); None: look at it.

    For whatever needs nothing, `ended_step` waits; so it need not be kept for a look.
    """
    status, attempt = run.status, run.status.attempt
    if not status.final or run.deleting:
        return None
    if FINALIZER in run.metadata.finalizers or (attempt is not None and attempt.sweep_after is not None):
        return None
    if not _is_stamped(run) or tampered(run) is not None:
        return None
    ttl, ended = run.spec.ttl_seconds_after_finished, status.completion_time
    if ttl is None or ended is None:
        return math.inf
    until = ended.timestamp() + ttl - EXPIRES_SOON
    return until if until > now.timestamp() else None


def _is_stamped(run: DbtRun) -> bool:
    return not run.unread and stands(run.status, run.metadata.generation)
