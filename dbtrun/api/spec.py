"""The intent: what a user writes under `spec`. The CRD in the chart says the same in OpenAPI; a test compares them."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Fields(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of all API types: immutable, camelCase on the wire, absent when default, unknown keys ignored."""


class RetryStrategy(StrEnum):
    """How the next attempt runs: from the failed step on, or from the beginning."""

    FROM_FAILURE = "FromFailure"
    FRESH = "Fresh"


class RetryWhen(StrEnum):
    """Ends after which another attempt is made. Never one that was asked for, never a deadline of ours."""

    FAILED = "Failed"
    CANCELLED = "Cancelled"
    TIMED_OUT = "TimedOut"


class Reuse(StrEnum):
    """Whether to attach to a run of the same job that is already live."""

    NEVER = "Never"
    RUNNING = "Running"


class DeletionPolicy(StrEnum):
    """What deleting the object does to a live run."""

    CANCEL = "Cancel"
    ORPHAN = "Orphan"


class ConnectionRef(Fields, frozen=True, kw_only=True):
    """A Secret in the object's own namespace."""

    name: str


class Job(Fields, frozen=True, kw_only=True):
    """What to start: by id, or by the three names together."""

    id: int | None = None
    name: str | None = None
    project: str | None = None
    environment: str | None = None


class PullRequestId(Fields, frozen=True, kw_only=True):
    """The pull request a run belongs to, under its host's name; exactly one."""

    github: int | None = None
    gitlab: int | None = None
    azure_dev_ops: int | None = None
    other: int | None = None


class Overrides(Fields, frozen=True, kw_only=True):
    """What this run does differently from its job. Absent fields keep the job's value."""

    steps: tuple[str, ...] | None = None
    schema: str | None = None
    git_branch: str | None = None
    git_sha: str | None = None
    threads: int | None = None
    target: str | None = None
    dbt_version: str | None = None
    generate_docs: bool | None = None
    timeout_seconds: int | None = None
    pull_request_id: PullRequestId | None = None


class Retry(Fields, frozen=True, kw_only=True):
    """When and how another attempt is made."""

    limit: int = 0
    strategy: RetryStrategy = RetryStrategy.FROM_FAILURE
    backoff_seconds: int = 30
    when: tuple[RetryWhen, ...] = (RetryWhen.FAILED,)


class Spec(Fields, frozen=True, kw_only=True):
    """A DbtRun's intent. Exactly one of `job` and `run_id` is set; the API server holds that."""

    connection_ref: ConnectionRef | None = None
    job: Job | None = None
    run_id: int | None = None
    account_id: int | None = None
    cause: str | None = None
    overrides: Overrides = Overrides()
    reuse: Reuse = Reuse.NEVER
    retry_of: int | None = None
    retry: Retry = Retry()
    artifacts: tuple[str, ...] = ()
    queue_deadline_seconds: int | None = None
    active_deadline_seconds: int | None = None
    connection_deadline_seconds: int = 600
    lost_contact_deadline_seconds: int = 21_600
    poll_interval_seconds: int = 30
    priority: int = 0
    suspend: bool = False
    cancel: bool = False
    deletion_policy: DeletionPolicy | None = None
    ttl_seconds_after_finished: int | None = None

    @property
    def adopts(self) -> bool:
        """Whether the object follows a run that exists already and must never start one."""
        return self.run_id is not None
