"""Runs as the ledger has them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from watcher.lifecycle.facts import RunFacts, RunState

NOON: Final = datetime(2026, 7, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """So many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def finished(run_id: int, seconds: float = 0.0, **changes: Any) -> RunFacts:
    """A run that ended so many seconds after noon."""
    facts: dict[str, Any] = {
        "run_id": run_id,
        "account_id": 1,
        "job_id": 10,
        "project_id": 3,
        "environment_id": 4,
        "state": RunState.SUCCESS,
        "cause": "Kicked off from UI",
        "cause_category": "ui",
        "finished_at": at(seconds),
    }
    return RunFacts(**(facts | changes))
