"""Which runs a mirror is about, and which of them are the watcher's own."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import msgspec

from dbtrun.api.mirrors import Cause, Select
from dbtrun.values import digest, keep_newest
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
    # This limit is the operator's, `select` the author's: `allJobs` selects whatever it leaves, and not more.
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

    A retry or a rerun carries no marker, so it is told by the run that it resumes. Run ids are numbers of an account:
    another account, at another host of dbt Cloud, may have the same.

    Args:
        exists: whether a DbtRun of this uid exists.
    """

    def __init__(self, exists: Callable[[str], bool], limit: int = REMEMBERED) -> None:
        self._exists = exists
        self._limit = limit
        self._started: dict[tuple[int, int], None] = {}
        self._resumed: dict[tuple[int, int], None] = {}
        self._followed: dict[tuple[str, int, int], None] = {}

    def __len__(self) -> int:
        return len(self._started) + len(self._resumed) + len(self._followed)

    def started(self, account_id: int, run_id: int) -> None:
        """A DbtRun has started the run."""
        keep_newest(self._started, (account_id, run_id), None, self._limit)

    def resumed(self, account_id: int, run_id: int) -> None:
        """A DbtRun resumes the run, no matter who started it."""
        keep_newest(self._resumed, (account_id, run_id), None, self._limit)

    def followed(self, namespace: str, account_id: int, run_id: int) -> None:
        """A DbtRun of the namespace follows the run of somebody else: there it has its object.

        Anybody can follow any run, so this hides the run from no other namespace.
        """
        keep_newest(self._followed, (namespace, account_id, run_id), None, self._limit)

    def origin(self, run: RunFacts, namespace: str) -> Origin:
        """Who started the run, for a mirror of the namespace."""
        account_id, run_id = run.account_id, run.run_id
        if (account_id, run_id) in self._started or (namespace, account_id, run_id) in self._followed:
            return Origin.OURS
        resumes = run.retrying_run_id and (account_id, run.retrying_run_id)
        if resumes in self._started or resumes in self._resumed:
            self.started(account_id, run_id)  # what resumes this one is ours, too
            return Origin.OURS
        # Only now the marker: a DbtRun that was deleted early does not exist any more, but its run is among the ids
        # above.
        owner = owner_of(run.cause or "")
        if owner is None:
            return Origin.ELSEWHERE
        return Origin.OURS if self._exists(owner) else Origin.OTHER_CLUSTER
