"""What a status can say that the watcher never writes. The other rules rely on its absence.

Anyone who may write a status can end the object with it. They must not be able to start or cancel the run of another
object, to make the object fail for ever, or to keep it when it is deleted.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from dbtrun.api import MARKER_PREFIX, Attempt, ConditionType, DbtRun, Phase, Status
from watcher.lifecycle.marker import marker
from watcher.lifecycle.outcome import STOP_REASONS

YEARS: Final = range(2000, 9000)
"""The years of every time that is used in sums, which would overflow beyond them."""
MAX_ATTEMPTS: Final = 21
"""The CRD's: 20 retries at most."""
RAN: Final = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.TIMED_OUT})
"""Ends that only a run can have."""


def tampered(run: DbtRun) -> str | None:
    """What the watcher never writes, in a sentence for the object's owner."""
    lie = _lie(run)
    if lie is None:
        return None
    told = f"{lie}: it was not written by the watcher. Create a new object."
    if run.spec.adopts:
        return told
    return (
        f"{told} A run that this object started is no longer followed; its cause begins with {MARKER_PREFIX}{run.uid}."
    )


def _lie(run: DbtRun) -> str | None:
    status = run.status
    numbers = [0, *(attempt.number for attempt in status.attempts), MAX_ATTEMPTS + 1]
    if not all(before < after for before, after in pairwise(numbers)):
        return "The attempts in the status are not numbered in order"
    reachable = status.condition(ConditionType.REACHABLE)
    times = [status.queued_at, status.started_at, status.completion_time]
    times += [reachable.last_transition_time] if reachable else []
    for attempt in status.attempts:
        times += [attempt.claim_time, attempt.first_claim_time, attempt.not_before, attempt.sweep_after]
        # A copy has the markers of the object that it was made of; it starts and sweeps nothing by them.
        mark, number = attempt.marker, attempt.number
        copied = run.copied and mark.startswith(MARKER_PREFIX) and mark.endswith(f"/{number}")
        if not copied and mark not in ("", marker(run.uid, number)):
            return "The status has a marker of another object"
    # An OverflowError would not end this object: its reconcile would fail for ever, as nobody else writes its status.
    if any(time is not None and time.year not in YEARS for time in times):
        return "The status contains an invalid time"
    phase = status.phase or Phase.PENDING
    # An adopted run is never retried, so no attempt of its object waits to be claimed.
    if phase is Phase.PENDING and run.spec.adopts and status.attempts:
        return "The status has an attempt that the watcher would not have made yet"
    return (
        None
        if _honest(phase, status, status.attempt)
        else f"The status says {phase} without the fields that belong to it"
    )


def _honest(phase: Phase, status: Status, attempt: Attempt | None) -> bool:
    """Whether the watcher writes this phase beside this last attempt."""
    if attempt is not None and attempt.phase is not phase:
        return False
    known_run = attempt is not None and attempt.run_id is not None and attempt.run_id == status.run_id
    if phase.final:
        told = status.completion_time is not None and bool(status.message)
        return told and (known_run or phase not in RAN)
    if attempt is None:
        return phase is Phase.PENDING
    match phase:
        case Phase.PENDING:
            return attempt.run_id is None and attempt.claim_time is None
        case Phase.SUBMITTING:
            return None not in (attempt.claim_time, status.job_id) and bool(attempt.marker or attempt.retry_of)
        case Phase.CANCELLING:
            return known_run and status.reason in STOP_REASONS
        case _:
            return known_run
