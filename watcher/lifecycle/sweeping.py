"""The sweep: one more search for the runs of an attempt whose start was in doubt, to cancel a twin of its run.

dbt Cloud may list a run later than assumed. `sweep_after` in the attempt says from when on to search; it is removed
once the search is done.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from dbtrun.api import Attempt
from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import Decision, Sweep
from watcher.lifecycle.statuses import seconds, with_attempt


def later(case: Case) -> datetime:
    """When a run of a start that is in doubt now is listed, if there is one."""
    return seconds(case.now.wall) + timedelta(seconds=case.policy.quiet_period)


def searched(case: Case, attempt: Attempt) -> tuple[int, Attempt, datetime]:
    """Where to search for an attempt's runs: the job, the attempt, and how far back."""
    job_id = case.status.job_id
    assert job_id is not None, "a claim carries its job"  # noqa: S101
    first = attempt.first_claim_time or attempt.claim_time or case.now.wall
    return job_id, attempt, first - timedelta(seconds=case.policy.clock_skew)


def sweep_live(case: Case, attempt: Attempt) -> Decision | None:
    """The sweep of an attempt whose run is live. None: it is not due, or dbt Cloud cannot be asked now."""
    if attempt.sweep_after is None or attempt.sweep_after > case.now.wall or case.pausing:
        return None
    return _record(case, attempt) if case.swept(attempt) else Sweep(*searched(case, attempt))


def sweep_before_retry(case: Case, attempt: Attempt) -> Decision | None:
    """The sweep of an attempt that is followed by another, which would not search for this one's twin."""
    if attempt.sweep_after is None or case.swept(attempt) or case.pausing:
        return None
    return case.reconnect() or Sweep(*searched(case, attempt))


def sweep_ended(case: Case, attempt: Attempt) -> Decision | None:
    """The sweep of the last attempt of a finished object. The finalizer waits for it, but not for ever."""
    if attempt.sweep_after is None:
        return None
    # A dbt Cloud that never answers again must not hold the object for ever.
    overdue = case.now.wall > attempt.sweep_after + timedelta(seconds=case.policy.deletion_grace)
    if overdue or case.swept(attempt):
        return None if case.run.deleting and case.known.unwritten else _record(case, attempt)
    # Never this far ahead, unless a clock was wrong: an object must not be held until then.
    distant = case.now.wall + timedelta(seconds=case.policy.quiet_period + case.policy.clock_skew)
    if case.now.wall < attempt.sweep_after <= distant:
        return case.rest(case.mono(attempt.sweep_after), why="a twin may still appear")
    return case.reconnect() or Sweep(*searched(case, attempt))


def _record(case: Case, attempt: Attempt) -> Decision | None:
    return case.write(attempts=with_attempt(case.status, replace(attempt, sweep_after=None)))
