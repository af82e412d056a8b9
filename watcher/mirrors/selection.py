"""Which runs a mirror is about, and which of them are the watcher's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Final

import msgspec

from dbtrun.api.mirrors import Cause, Select
from dbtrun.values import digest
from watcher.lifecycle.facts import RunFacts
from watcher.lifecycle.marker import owner_of

WORDS: Final = {
    "api": Cause.API,
    "ci": Cause.CI,
    "merge": Cause.MERGE,
    "rerun": Cause.RERUN,
    "scheduled": Cause.SCHEDULED,
    "job completion": Cause.JOB_COMPLETION,
    "ui": Cause.UI,
}
"""dbt Cloud's `cause_category`, and the name that the API has for it."""
REMEMBERED: Final = 50_000
"""Run ids of our own that are kept: a run that ended is listed again for two hours at most."""


def cause_of(run: RunFacts) -> Cause:
    """What started the run."""
    return WORDS.get((run.cause_category or "").lower(), Cause.OTHER)


def selects(select: Select, run: RunFacts, projects: frozenset[int] | None = None) -> bool:
    """Whether the mirror is about the run.

    Args:
        projects: the only ones that its namespace may see with its connection; None: all.
    """
    if projects is not None and run.project_id not in projects:
        return False
    return (
        (not select.job_ids or run.job_id in select.job_ids)
        and (not select.environment_ids or run.environment_id in select.environment_ids)
        and (not select.project_ids or run.project_id in select.project_ids)
        and (not select.causes or cause_of(run) in select.causes)
    )


def known_as(select: Select) -> str:
    """The same text for the same selection."""
    return digest(msgspec.json.encode(select).decode())


class Origin(Enum):
    """Who started a run."""

    OURS = auto()
    """A DbtRun of this cluster, or it resumes a run of one."""
    OTHER_CLUSTER = auto()
    """It carries a marker of an object that does not exist here."""
    ELSEWHERE = auto()


class Own:
    """The runs that DbtRuns of this cluster have started or follow.

    A retry or a rerun carries no marker, so it is told by the run that it resumes.

    Args:
        exists: whether a DbtRun of this uid exists.
    """

    def __init__(self, exists: Callable[[str], bool], limit: int = REMEMBERED) -> None:
        self._exists = exists
        self._limit = limit
        self._ids: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ids)

    def note(self, run_ids: Iterable[int]) -> None:
        """A DbtRun that no mirror has created has these runs."""
        for run_id in run_ids:
            self._ids[run_id] = None
            self._ids.move_to_end(run_id)
        while len(self._ids) > self._limit:
            self._ids.popitem(last=False)

    def origin(self, run: RunFacts) -> Origin:
        """Who started the run."""
        if run.run_id in self._ids:
            return Origin.OURS
        if run.retrying_run_id in self._ids:
            self.note([run.run_id])  # what resumes this one is ours, too
            return Origin.OURS
        owner = owner_of(run.cause or "")
        if owner is None:
            return Origin.ELSEWHERE
        return Origin.OURS if self._exists(owner) else Origin.OTHER_CLUSTER
