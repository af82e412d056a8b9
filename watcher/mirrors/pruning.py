"""Which DbtRuns of a mirror are kept: the history limits, for each job and outcome."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dbtrun.api import Phase
from dbtrun.api.mirrors import HistoryLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A finished DbtRun of a mirror."""

    uid: str
    name: str
    run_id: int
    job_id: int
    phase: Phase
    finished_at: datetime
    """When the run ended, by dbt Cloud's clock."""
    completed_at: datetime
    """When the object became final, by the watcher's clock. It can be hours after the run's end."""

    @property
    def order(self) -> tuple[datetime, int]:
        """Older first."""
        return self.finished_at, self.run_id


def surplus(kept: Iterable[Kept], limit: HistoryLimit) -> list[Kept]:
    """Those beyond the limits, the oldest first."""
    groups: dict[tuple[int, bool], list[Kept]] = defaultdict(list)
    for run in kept:
        groups[run.job_id, run.phase is Phase.SUCCEEDED].append(run)
    beyond: list[Kept] = []
    for (_, succeeded), runs in groups.items():
        most = limit.succeeded if succeeded else limit.failed
        runs.sort(key=lambda run: run.order)
        beyond += runs[: max(0, len(runs) - most)]
    return sorted(beyond, key=lambda run: run.order)
