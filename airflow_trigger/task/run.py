"""One DbtRun as a task reads it, with what the task wrote on it. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_trigger.shared.objects import Meta, Results, Run, RunSpec, RunStatus
from airflow_trigger.task.identity import CONSUMED, TRY, WAITING_TRY, Mark
from dbtrun.api.views import FailedNode, FailedStep, Step
from dbtrun.text import natural

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_trigger.task.identity import TaskKey


class TaskMeta(Meta, frozen=True, kw_only=True):
    """With what the task wrote on the object."""

    namespace: str = ""
    creation_timestamp: str = ""
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class TaskSpec(RunSpec, frozen=True, kw_only=True):
    """With what it runs, as it is on the wire, and the wish to end it."""

    job: dict[str, Any] | None = None
    overrides: dict[str, Any] | None = None
    retry_of: int | None = None
    cancel: bool = False


class TaskResults(Results, frozen=True, kw_only=True):
    """With the first failed nodes."""

    failures: tuple[FailedNode, ...] = ()


class TaskStatus(RunStatus, frozen=True, kw_only=True):
    """The status, with what a task's log says about an end."""

    queued_at: datetime | None = None
    progress: str | None = None
    steps: tuple[Step, ...] = ()
    failed_step: FailedStep | None = None
    results: TaskResults = TaskResults()


class TaskRun(Run, frozen=True, kw_only=True):
    """One DbtRun as a task cares."""

    metadata: TaskMeta
    spec: TaskSpec
    status: TaskStatus = TaskStatus()

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    @property
    def number(self) -> int:
        """Its place among the objects of its task."""
        return natural(self.metadata.labels.get(TRY, "")) or 0

    @property
    def waiting(self) -> Mark:
        """The last try that took it on."""
        return Mark.parse(self.metadata.annotations.get(WAITING_TRY))

    @property
    def consumed(self) -> bool:
        """Whether Airflow has read the outcome."""
        return CONSUMED in self.metadata.annotations

    @property
    def mark(self) -> Mark:
        """The try that reported the outcome to Airflow, else the last that took it on."""
        return Mark.parse(self.metadata.annotations[CONSUMED]) if self.consumed else self.waiting

    @property
    def unwanted(self) -> bool:
        """Whether somebody asked for its end."""
        return self.spec.cancel or self.deleting


def own(runs: Iterable[TaskRun], key: TaskKey) -> list[TaskRun]:
    """Those that have the names which the task gives, the oldest first: anyone can give an object its labels."""
    return sorted((run for run in runs if run.name == key.object_name(run.number)), key=lambda run: run.number)
