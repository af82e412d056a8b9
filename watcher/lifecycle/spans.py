"""One trace of each attempt, from the times that its status has: so a trace survives restarts of the watcher.

An attempt waits to be claimed, is started, runs in dbt Cloud, and its end is reported. Each of these is a span.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from dbtrun.api import TRACEPARENT_ANNOTATION, Attempt, DbtRun, Phase, Status


class Span(NamedTuple):
    """A part of an attempt; each begins where the one before it ends."""

    name: str
    start: datetime
    end: datetime


class Trace(NamedTuple):
    """An attempt that has ended."""

    attributes: dict[str, str | int]
    failed: str | None
    """Why it did not succeed, in a sentence."""
    linked: str | None
    """The `traceparent` of the client that created the object (W3C Trace Context), unchanged."""
    spans: tuple[Span, ...]


def ended_traces(run: DbtRun, after: Status, now: datetime) -> Iterator[Trace]:
    """The traces of the attempts that end with this write."""
    before = {attempt.number: attempt for attempt in run.status.attempts}
    began = run.metadata.creation_timestamp or now
    for attempt in after.attempts:
        known = before.get(attempt.number)
        if _over(attempt) and not (known is not None and _over(known)):
            yield _trace(run, after, attempt, began, now)
        # So the pause before a retry is in the next attempt's `claim`, and no time is in none or in two of the traces.
        began = attempt.finished_at or began


def _over(attempt: Attempt) -> bool:
    return attempt.phase.final


def _trace(run: DbtRun, after: Status, attempt: Attempt, began: datetime, now: datetime) -> Trace:
    spans = []
    moments = {"claim": attempt.claim_time, "start": attempt.queued_at, "wait": attempt.finished_at, "end": now}
    # Only what took place. Clocks differ, so no span ends before it begins.
    for name, moment in moments.items():
        if moment is not None:
            spans.append(Span(name, began, max(began, moment)))
            began = spans[-1].end
    told: dict[str, str | int | None] = {
        "k8s.namespace.name": run.metadata.namespace,
        "dbtrun.name": run.metadata.name,
        "dbtrun.uid": run.uid,
        "dbtrun.attempt": attempt.number,
        "dbtrun.phase": attempt.phase.value,
        "dbtrun.reason": attempt.reason and attempt.reason.value,
        "dbt_cloud.host": after.host,
        "dbt_cloud.account_id": after.account_id,
        "dbt_cloud.job_id": after.job_id,
        "dbt_cloud.run_id": attempt.run_id,
    }
    return Trace(
        attributes={key: value for key, value in told.items() if value is not None},
        failed=None if attempt.phase is Phase.SUCCEEDED else attempt.message,
        linked=run.metadata.annotations.get(TRACEPARENT_ANNOTATION),
        spans=tuple(spans),
    )
