"""The DbtRunMirror API: which runs of an account appear as DbtRuns, and how far the watcher has come.

The CRD in the chart says the same in OpenAPI; a test compares them.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from dbtrun.api.names import API_VERSION, GROUP
from dbtrun.api.objects import Object
from dbtrun.api.phases import Phase
from dbtrun.api.spec import ConnectionRef, Fields
from dbtrun.api.status import ConditionStatus

MIRROR_KIND: Final = "DbtRunMirror"
MIRROR_PLURAL: Final = "dbtrunmirrors"

JOB_LABEL: Final = f"{GROUP}/job-id"
ENVIRONMENT_LABEL: Final = f"{GROUP}/environment-id"
CAUSE_LABEL: Final = f"{GROUP}/cause"
"""What started the run, in dbt Cloud's words."""

MAX_RECENT: Final = 2_000
"""Runs that a status remembers: those of the last two hours, as far as there are no more."""


class Cause(StrEnum):
    """What starts a run, by the names that this API has for it."""

    API = "api"
    CI = "ci"
    MERGE = "merge"
    RERUN = "rerun"
    SCHEDULED = "scheduled"
    JOB_COMPLETION = "job-completion"
    UI = "ui"
    OTHER = "other"
    """Anything else, and what dbt Cloud does not say."""


class Appear(StrEnum):
    """When a run gets its DbtRun."""

    FINISHED = "Finished"
    STARTED = "Started"


class MirrorCondition(StrEnum):
    """The conditions of a DbtRunMirror."""

    READY = "Ready"
    REACHABLE = "Reachable"
    CAUGHT_UP = "CaughtUp"


class Select(Fields, frozen=True, kw_only=True):
    """Which runs: each field that is given must match. The API server holds that one is, or `all_jobs`."""

    job_ids: tuple[int, ...] = ()
    environment_ids: tuple[int, ...] = ()
    project_ids: tuple[int, ...] = ()
    causes: tuple[Cause, ...] = ()
    all_jobs: bool = False
    other_clusters: bool = False
    """Whether runs that the watcher of another cluster has started are mirrored, too."""


class HistoryLimit(Fields, frozen=True, kw_only=True):
    """How many finished DbtRuns of each job are kept."""

    succeeded: int = 50
    failed: int = 50

    def of(self, phase: Phase) -> int:
        """The limit for those that ended in this phase."""
        return self.succeeded if phase is Phase.SUCCEEDED else self.failed


class Template(Fields, frozen=True, kw_only=True):
    """What each DbtRun gets."""

    labels: dict[str, str] = msgspec.field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    ttl_seconds_after_finished: int | None = 604_800


class MirrorSpec(Fields, frozen=True, kw_only=True):
    """The intent of a DbtRunMirror."""

    select: Select
    connection_ref: ConnectionRef | None = None
    appear: Appear = Appear.FINISHED
    since: datetime | None = None
    template: Template = Template()
    history_limit: HistoryLimit = HistoryLimit()
    max_per_minute: int = 60
    suspend: bool = False


class Recent(Fields, frozen=True, kw_only=True):
    """A run that was dealt with and may be listed again."""

    run_id: int
    finished_at: datetime


class CursorStatus(Fields, frozen=True, kw_only=True):
    """How far the finished runs were dealt with, by dbt Cloud's clock."""

    finished_at: datetime
    floor: datetime
    """Runs that finished before are not looked at any more."""
    recent: tuple[Recent, ...] = ()
    selection: str = ""
    """What the mirror selected: another selection does not show what finished before it was made."""


class MirrorConditionStatus(Fields, frozen=True, kw_only=True):
    """As metav1.Condition."""

    type: MirrorCondition
    status: ConditionStatus
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int


class MirrorStatus(Fields, frozen=True, kw_only=True):
    """How far the watcher has come with a DbtRunMirror."""

    observed_generation: int = -1
    account_id: int | None = None
    host: str | None = None
    cursor: CursorStatus | None = None
    pruned_through: datetime | None = None
    """The latest `completionTime` of a DbtRun that the history limits have removed."""
    lag_seconds: int | None = None
    late_runs: int = 0
    conditions: tuple[MirrorConditionStatus, ...] = ()

    def condition(self, kind: MirrorCondition) -> MirrorConditionStatus | None:
        """The condition of that type, if it was ever set."""
        return next((c for c in self.conditions if c.type is kind), None)


class DbtRunMirror(Object, frozen=True, kw_only=True):
    """Runs that others start, as DbtRuns."""

    spec: MirrorSpec
    status: MirrorStatus = MirrorStatus()

    @property
    def owner_reference(self) -> dict[str, object]:
        """By which Kubernetes deletes its DbtRuns after it."""
        return {
            "apiVersion": API_VERSION,
            "kind": MIRROR_KIND,
            "name": self.metadata.name,
            "uid": self.uid,
            "controller": True,
        }
