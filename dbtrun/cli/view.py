"""What the command line reads of a DbtRun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import msgspec

from dbtrun.api import FINAL_PHASES, KIND, Phase
from dbtrun.api.views import Condition, FailedNode, FailedStep, Reference, Step, View

NO_PHASE: Final = "-"
"""Shown for an object that no watcher has seen yet."""


class Meta(View, frozen=True, kw_only=True):
    """Identity, age and version."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 1
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class JobRef(View, frozen=True, kw_only=True):
    """A job, by its id or by its names."""

    id: int | None = None
    name: str | None = None
    project: str | None = None
    environment: str | None = None


class RetryRules(View, frozen=True, kw_only=True):
    """How many attempts may follow the first."""

    limit: int = 0


class RunSpec(View, frozen=True, kw_only=True):
    """What was asked for."""

    connection_ref: Reference | None = None
    job: JobRef | None = None
    run_id: int | None = None
    retry: RetryRules = RetryRules()
    suspend: bool = False
    cancel: bool = False


class Results(View, frozen=True, kw_only=True):
    """How the nodes ended."""

    counts: dict[str, int] = msgspec.field(default_factory=dict)
    failures: tuple[FailedNode, ...] = ()
    unread_steps: tuple[int, ...] = ()


class Artifact(View, frozen=True, kw_only=True):
    """A file of the run that was asked for."""

    path: str = ""
    config_map: str | None = None
    key: str | None = None
    bytes: int | None = None
    problem: str | None = None


class Attempt(View, frozen=True, kw_only=True):
    """One dbt Cloud run of the object."""

    number: int = 0
    phase: str = ""
    run_id: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: str = ""
    message: str = ""


class RunStatus(View, frozen=True, kw_only=True):
    """What the watcher says."""

    observed_generation: int = -1
    phase: str = ""
    reason: str = ""
    message: str = ""
    account_id: int | None = None
    host: str | None = None
    job: str | None = None
    job_id: int | None = None
    run_id: int | None = None
    url: str | None = None
    start_time: datetime | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    completion_time: datetime | None = None
    estimated_completion_time: datetime | None = None
    progress: str | None = None
    steps: tuple[Step, ...] = ()
    failed_step: FailedStep | None = None
    results: Results | None = None
    artifacts: tuple[Artifact, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    conditions: tuple[Condition, ...] = ()


class Run(View, frozen=True, kw_only=True):
    """One DbtRun."""

    metadata: Meta
    spec: RunSpec = RunSpec()
    status: RunStatus = RunStatus()

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    @property
    def phase(self) -> str:
        """Where it stands."""
        return self.status.phase or NO_PHASE

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self.status.phase in FINAL_PHASES

    @property
    def succeeded(self) -> bool:
        """Whether dbt Cloud reported success."""
        return self.status.phase == Phase.SUCCEEDED

    @property
    def run_id(self) -> int | None:
        """The dbt Cloud run, as soon as it is known."""
        return self.status.run_id or self.spec.run_id

    @property
    def job(self) -> str:
        """The job for people: its name where it is known, else its id."""
        wanted = self.spec.job or JobRef()
        known = self.status.job or wanted.name or self.status.job_id or wanted.id
        return "" if known is None else str(known)

    def condition(self, kind: str) -> Condition | None:
        """The condition of that type, if the watcher has set it."""
        return next((found for found in self.status.conditions if found.type == kind), None)


class UnreadableRun(ValueError):
    """The object has a field of another type than this version knows."""


RUN: Final = msgspec.json.Decoder(Run)


def read(body: bytes | msgspec.Raw) -> Run:
    """A DbtRun in JSON.

    Raises:
        UnreadableRun: a field has another type than here.
    """
    with readable():
        return RUN.decode(body)


def converted(body: Mapping[str, Any]) -> Run:
    """The same of an object that is decoded already.

    Raises:
        UnreadableRun: it is not a DbtRun of this release.
    """
    with readable():
        return msgspec.convert(body, Run)


@contextmanager
def readable(kind: str = KIND) -> Iterator[None]:
    """Around the decoding of an object.

    Raises:
        UnreadableRun: a field has another type than here.
    """
    try:
        yield
    except msgspec.MsgspecError as error:
        raise UnreadableRun(f"The {kind} cannot be read: {error}. Is the chart of another version?") from None
