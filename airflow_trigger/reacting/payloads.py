"""What an asset event says about a run: JSON primitives, at most 2 kB, as Airflow's scheduler loads them all. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow_trigger.reacting.position import key_of
from dbtrun.api.mirrors import CAUSE_LABEL
from dbtrun.text import one_line

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_trigger.shared.objects import Run

MAX_MESSAGE: Final = 300
MAX_STATUSES: Final = 12

Payload = dict[str, Any]


def ended(namespace: str, run: Run) -> Payload:
    """The event of a run."""
    status = run.status
    counts = sorted(status.results.counts.items())[:MAX_STATUSES]
    # Text for times: a datetime passes the trigger and then ends the triggerer's supervisor, which has to store it as
    # JSON, again after each restart (read in Airflow 3.3).
    return {
        "key": key_of(run),
        "namespace": namespace,
        "name": run.metadata.name,
        "phase": status.phase,
        "reason": status.reason,
        "message": one_line(status.message, MAX_MESSAGE),
        "account_id": status.account_id,
        "job_id": status.job_id,
        "environment_id": status.environment_id,
        "run_id": run.run_id,
        "job_run_url": status.link,
        "cause": run.metadata.labels.get(CAUSE_LABEL),
        "started_at": _text(status.started_at),
        "finished_at": _text(status.finished_at),
        "completed_at": _text(status.completion_time),
        "results": {one_line(word, 40): count for word, count in counts},
    }


def gap(namespace: str, since: datetime, now: datetime, left_out: int = 0) -> Payload:
    """The event that says that events may be missing."""
    known = (
        f"{left_out} runs are omitted, because max_replay allows no more"
        if left_out
        else "the history in the namespace does not reach back so far"
    )
    return {
        "key": f"gap/{namespace}/{int(since.timestamp())}/{int(now.timestamp())}",
        "gap": True,
        "namespace": namespace,
        "since": _text(since),
        "until": _text(now),
        "left_out": left_out or None,
        "message": f"Runs that ended between {_text(since)} and {_text(now)} may have no event: {known}.",
    }


def nudge(namespace: str, now: datetime) -> Payload:
    """The event that brings no news: it lets the scheduler see those before it."""
    return {"key": f"nudge/{namespace}/{int(now.timestamp())}", "nudge": True, "namespace": namespace}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
