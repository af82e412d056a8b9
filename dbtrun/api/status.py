"""The truth: what the watcher writes under `status`, or since when it does not know.

Bounded whatever dbt Cloud returns: the constants here are the bounds, applied by the lifecycle.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final

from dbtrun.api.phases import Phase
from dbtrun.api.reasons import Reason
from dbtrun.api.spec import Fields

MAX_STATUS: Final = 64_000
"""Bytes of a status as JSON."""
MAX_MESSAGE: Final = 1_024
"""Characters of a message."""
MAX_STEPS: Final = 50
"""Steps listed; a run with more shows the first ones."""
MAX_STEP_NAME: Final = 200
"""Characters of a step's name."""
FAILED_NODE: Final = frozenset({"error", "fail", "runtime error", "partial success"})
"""The node statuses of run_results.json that fail a run (`skipped` follows from them, `warn` does not fail)."""
MAX_FAILURES: Final = 20
"""Failed nodes listed."""
MAX_FAILURE_MESSAGE: Final = 500
"""Characters of a failed node's message."""
MAX_LOG_TAIL: Final = 4_000
"""Characters of a failed step's log."""
MAX_UNREAD_STEPS: Final = 50
"""Steps named whose results could not be read."""
MAX_PROBLEM: Final = 300
"""Characters of why an artifact was not kept."""


class ConditionType(StrEnum):
    """The conditions of a DbtRun. `Reconciling` and `Stalled` are abnormal-true, for kstatus (Flux, `kubectl wait`)."""

    SUCCEEDED = "Succeeded"
    FINISHED = "Finished"
    REACHABLE = "Reachable"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class ConditionStatus(StrEnum):
    """The three values of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Fields, frozen=True, kw_only=True):
    """As metav1.Condition: `last_transition_time` changes with `status` only."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str
    last_transition_time: datetime
    observed_generation: int


class Step(Fields, frozen=True, kw_only=True):
    """One command of a run. `status` is dbt Cloud's word, as Success or Error."""

    index: int
    name: str
    status: str
    started_at: datetime | None = None
    finished_at: datetime | None = None


class FailedNode(Fields, frozen=True, kw_only=True):
    """A model, test, seed or snapshot that did not pass."""

    unique_id: str
    status: str
    message: str = ""


class Results(Fields, frozen=True, kw_only=True):
    """The outcome by node of all dbt steps of a run. For each node, the last step that ran it counts."""

    counts: dict[str, int]
    """Nodes by dbt's word for how they ended."""
    failures: tuple[FailedNode, ...] = ()
    """The first that failed, of the last step first."""
    unread_steps: tuple[int, ...] = ()
    """Steps whose results could not be read: their nodes are not counted."""


class FailedStep(Fields, frozen=True, kw_only=True):
    """The step at which a run ended that did not succeed, with the end of its log, without secrets."""

    index: int
    name: str
    log_tail: str = ""


RUN_RESULTS: Final = "run_results.json"
"""The file in which dbt writes the results of a step."""
KINDS: Final = ("model.", "seed.", "snapshot.")
"""How the unique ids of the nodes begin that a warehouse has as relations."""
ALL_RESULTS: Final = "dbtrun/results.json"
"""A file that the watcher makes: the last result of each model, seed and snapshot of a run, whichever step it is of."""


class Artifact(Fields, frozen=True, kw_only=True):
    """A file of the run that was asked for: where it is kept, or the `problem` for which it is not."""

    path: str
    config_map: str | None = None
    key: str | None = None
    bytes: int | None = None
    problem: str | None = None

    @property
    def kept(self) -> bool:
        """Whether it can be read from the ConfigMap."""
        return self.config_map is not None


class Attempt(Fields, frozen=True, kw_only=True):
    """One dbt Cloud run, from the claim to its end. An attempt starts at most one run."""

    number: int
    phase: Phase
    marker: str = ""
    """What our start request carries in its cause; empty for an adopted run and for a retry from failure."""
    retry_of: int | None = None
    """Id of the failed run that this attempt resumes (FromFailure): such a run is recognised by it, it has no cause."""
    adopted: bool = False
    claim_time: datetime | None = None
    """When the start was last claimed, by the API server's clock. Absent: nothing was sent for this attempt."""
    first_claim_time: datetime | None = None
    """When it was claimed first: a start that stays undecided is given up counting from here."""
    not_before: datetime | None = None
    """A retry waits for this instant."""
    sweep_after: datetime | None = None
    """The submission was recovered: look once more for a twin after this instant."""
    run_id: int | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: Reason | None = None
    message: str = ""


class Status(Fields, frozen=True, kw_only=True):
    """What is known of a DbtRun.

    Times named `…At`, except `last_observed_at`, come from dbt Cloud's clock; `last_observed_at` and times named
    `…Time` come from the API server's clock, which the watcher follows.
    """

    observed_generation: int = -1
    """-1: no watcher has written a status. The CRD has the same default: tools take an absent one for observed."""
    phase: Phase | None = None
    reason: Reason | None = None
    message: str = ""
    account_id: int | None = None
    host: str | None = None
    """With the account: where the runs are, from the first claim on."""
    project_id: int | None = None
    environment_id: int | None = None
    job: str | None = None
    """For people: the job's name where the spec has it, else its id."""
    job_id: int | None = None
    run_id: int | None = None
    url: str | None = None
    start_time: datetime | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    completion_time: datetime | None = None
    last_observed_at: datetime | None = None
    """When dbt Cloud last reported something new, by the API server's clock, by which the watcher judges its age."""
    estimated_completion_time: datetime | None = None
    progress: str | None = None
    steps: tuple[Step, ...] = ()
    failed_step: FailedStep | None = None
    results: Results | None = None
    artifacts: tuple[Artifact, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    conditions: tuple[Condition, ...] = ()

    @property
    def final(self) -> bool:
        """Whether the object has ended."""
        return self.phase is not None and self.phase.final

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that counts now: the last one."""
        return self.attempts[-1] if self.attempts else None

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of that type, if it was ever set."""
        return next((c for c in self.conditions if c.type is kind), None)
