"""The things that can be done next: one value each, so that a decision can be compared, logged and counted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from dbtrun.api import Attempt, Job, Overrides, Status
from watcher.lifecycle.facts import StepFacts


@dataclass(frozen=True, slots=True)
class Event:
    """Something a person should see in `kubectl describe`; never one per poll."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (monotonic seconds) unless something is heard. None: only an edit changes that."""

    until: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Write:
    """Store this status."""

    status: Status
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class ClaimStart:
    """Store this status, whose last attempt claims a start; a conflict means that nothing was claimed."""

    status: Status


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Hold the object back from deletion: a run is about to be ours."""


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Let the object go."""

    event: Event | None = None


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """The object has outlived its `ttlSecondsAfterFinished`."""


@dataclass(frozen=True, slots=True)
class Connect:
    """Read the object's connection."""


@dataclass(frozen=True, slots=True)
class ResolveJob:
    """Find the job's id by its names."""

    job: Job


@dataclass(frozen=True, slots=True)
class FindLive:
    """Find a live run of the job to attach to."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Start:
    """Start the job: one request, never repeated."""

    job_id: int
    cause: str
    overrides: Overrides


@dataclass(frozen=True, slots=True)
class Resume:
    """Resume a failed run from its failure: one request, never repeated."""

    run_id: int


@dataclass(frozen=True, slots=True)
class LookForRuns:
    """Find the runs that the attempt's claim may have started, created after `since`."""

    job_id: int
    attempt: Attempt
    since: datetime


@dataclass(frozen=True, slots=True)
class SearchPast:
    """Find the runs that an attempt had before this process knew of it, created after `since`, in one search."""

    job_id: int
    number: int
    marker: str
    retried: int | None
    """The run that the attempt may have resumed: such a run has no marker."""
    since: datetime
    starts: bool
    """Whether the attempt is claimed if no run is found."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Find a twin of the attempt's run and cancel it."""

    job_id: int
    attempt: Attempt
    since: datetime


@dataclass(frozen=True, slots=True)
class ProveToken:
    """Ask for something of the job, as the token was refused: a claim whose start is refused again is two writes."""

    job_id: int


@dataclass(frozen=True, slots=True)
class FindOwner:
    """Find out whether a run that this object did not start is that of another namespace's object."""

    run_id: int


@dataclass(frozen=True, slots=True)
class FindProjects:
    """Find the projects of the job, and of the run that the attempt resumes."""

    job_id: int
    resumed: int | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask dbt Cloud to cancel the run; safe to repeat."""

    run_id: int


@dataclass(frozen=True, slots=True)
class FetchDetails:
    """Ask for the steps, and for an ended run for the log of the failed one."""

    run_id: int
    over: bool
    watched: bool = False
    """Somebody reads the steps as they come."""


@dataclass(frozen=True, slots=True)
class FetchResults:
    """Ask what became of the nodes of an ended run, step by step."""

    run_id: int
    steps: tuple[StepFacts, ...]
    """Empty: they are not known."""


@dataclass(frozen=True, slots=True)
class KeepArtifacts:
    """Copy these files of the ended run to where they stay."""

    run_id: int
    paths: tuple[str, ...]


Change = Write | AddFinalizer | RemoveFinalizer | DeleteObject
"""One write to the Kubernetes API server."""

Send = Start | Resume
"""One request to dbt Cloud that starts a run, and is never repeated."""

Fetch = FetchDetails | FetchResults

Question = ResolveJob | FindLive | FindOwner | FindProjects | LookForRuns | SearchPast | Sweep | Cancel | Fetch
"""Requests to dbt Cloud that are safe to repeat."""

Errand = ClaimStart | Send | KeepArtifacts | ProveToken | Question
"""What needs the object's dbt Cloud account."""

Decision = Wait | Connect | Change | Errand
