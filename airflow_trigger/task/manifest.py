"""From an operator's arguments, rendered, to the DbtRun they ask for. Pure.

Templates render to strings, and people write numbers as strings: what reads as the right kind is taken, everything
else is refused in a sentence that names the argument, before anything is created.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import fields, replace

from airflow_trigger.failures import InvalidArgument
from airflow_trigger.shared.arguments import boolean, mapping, number, shown, text, texts
from airflow_trigger.shared.naming import connection_name, object_name
from airflow_trigger.task.attempts import Create
from airflow_trigger.task.identity import WAITING_TRY, Try
from dbtrun.api import (
    API_VERSION,
    KIND,
    TRACEPARENT_ANNOTATION,
    ConnectionRef,
    DeletionPolicy,
    Job,
    Overrides,
    Retry,
    Reuse,
    Spec,
    to_wire,
)

T = TypeVar("T")

MAX_CAUSE: Final = 200
"""Characters: dbt Cloud takes 255, and the watcher's marker needs its part."""
MAX_SECONDS: Final = 31_536_000
MIN_POLL: Final = 5
MAX_POLL: Final = 3_600
DAY: Final = 86_400

RUN_CONFIG: Final = {
    "steps_override": "steps",
    "schema_override": "schema",
    "git_branch": "gitBranch",
    "git_sha": "gitSha",
    "threads_override": "threads",
    "target_name_override": "target",
    "dbt_version_override": "dbtVersion",
    "generate_docs_override": "generateDocs",
    "timeout_seconds_override": "timeoutSeconds",
}
"""Names of dbt Cloud's API, and what they are in `spec.overrides`."""
TEXTS: Final = frozenset({"schema_override", "git_branch", "git_sha", "target_name_override", "dbt_version_override"})
NUMBERS: Final = frozenset({"threads_override", "timeout_seconds_override"})
FLAGS: Final = frozenset({"generate_docs_override"})
PULL_REQUEST: Final = {
    "github_pull_request_id": "github",
    "gitlab_merge_request_id": "gitlab",
    "azure_pull_request_id": "azureDevOps",
    "non_native_pull_request_id": "other",
}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a task wants to run. Durations in seconds."""

    conn_id: object
    connection: object = None
    job_id: object = None
    project_name: object = None
    environment_name: object = None
    job_name: object = None
    account_id: object = None
    cause: object = None
    steps: object = None
    schema: object = None
    run_config: object = field(default_factory=dict)
    reuse: bool = False
    retry: object = None
    queue_deadline: float | None = None
    active_deadline: float | None = None
    check_interval: float = 60.0
    deletion_policy: object = None
    artifacts: object = None
    ttl: float | None = None


def manifest(wish: Wish, attempt: Try, create: Create, traceparent: str | None = None) -> dict[str, Any]:
    """The DbtRun to create.

    Args:
        traceparent: of the trace that the task is part of; None: of none.

    Raises:
        InvalidArgument: an argument cannot be used.
    """
    if create.follows is None:
        spec = _start(wish, create.resumes)
    else:
        # The task's own run, of which the object lost sight: it still ends with the object.
        policy = _policy(wish.deletion_policy) or DeletionPolicy.CANCEL
        spec = to_wire(replace(_common(wish), run_id=create.follows, deletion_policy=policy))
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": attempt.key.object_name(create.number),
            "labels": attempt.key.labels(create.number),
            "annotations": {
                **attempt.key.annotations(),
                WAITING_TRY: str(attempt.mark),
                **({TRACEPARENT_ANNOTATION: traceparent} if traceparent is not None else {}),
            },
        },
        "spec": spec,
    }


def _start(wish: Wish, resumes: int | None) -> dict[str, Any]:
    cause, overrides = _run_config(wish)
    if resumes is not None and overrides != Overrides():
        warnings.warn(
            "steps_override, schema_override and additional_run_config are not sent when dbt Cloud resumes run "
            f"{resumes} from its failure, only if it refuses and the whole job runs again.",
            UserWarning,
            stacklevel=2,
        )
    if cause is not None and len(cause) > MAX_CAUSE:
        warnings.warn(f"trigger_reason is cut to {MAX_CAUSE} characters.", UserWarning, stacklevel=2)
        cause = cause[:MAX_CAUSE]
    spec = replace(
        _common(wish),
        job=job_of(wish),
        cause=cause,
        overrides=overrides,
        reuse=Reuse.RUNNING if wish.reuse else Reuse.NEVER,
        retry=retry_of(wish.retry),
        retry_of=resumes,
        deletion_policy=_policy(wish.deletion_policy),
    )
    # msgspec leaves a default out only if it is the same object, and an equal one comes as {}.
    return {key: value for key, value in to_wire(spec).items() if value != {}}


def _common(wish: Wish) -> Spec:
    name = object_name("connection", wish.connection) or connection_name("dbt_cloud_conn_id", wish.conn_id)
    return Spec(
        connection_ref=None if name is None else ConnectionRef(name=name),
        account_id=number("account_id", wish.account_id),
        queue_deadline_seconds=whole_seconds(wish.queue_deadline),
        active_deadline_seconds=whole_seconds(wish.active_deadline),
        poll_interval_seconds=min(max(round(wish.check_interval), MIN_POLL), MAX_POLL),
        artifacts=texts("artifacts", wish.artifacts, "paths below target/"),
        ttl_seconds_after_finished=None if wish.ttl is None else max(0, round(wish.ttl)),
    )


def job_of(wish: Wish) -> Job:
    """The job, by its id or by the three names.

    Raises:
        InvalidArgument: neither is given.
    """
    job_id = number("job_id", wish.job_id)
    if job_id is not None:
        return Job(id=job_id)
    project, environment, name = (
        text(argument, getattr(wish, argument)) for argument in ("project_name", "environment_name", "job_name")
    )
    if not (project and environment and name):
        raise InvalidArgument("Either job_id or project_name, environment_name, and job_name must be provided.")
    return Job(name=name, project=project, environment=environment)


def _run_config(wish: Wish) -> tuple[str | None, Overrides]:
    """Cause and overrides; `additional_run_config` is laid over the arguments, as the provider does."""
    config = mapping("additional_run_config", wish.run_config)
    configured = text("additional_run_config['cause']", config.pop("cause", None))
    cause = configured or text("trigger_reason", wish.cause)
    pull_request = {PULL_REQUEST[key]: config.pop(key) for key in PULL_REQUEST.keys() & config.keys()}
    unknown = sorted(config.keys() - RUN_CONFIG.keys())
    # The provider sends what it does not know. Here there is no field for it, and a run without it would be another
    # one.
    if unknown:
        known = ", ".join(("cause", *RUN_CONFIG, *PULL_REQUEST))
        raise InvalidArgument(f"additional_run_config has no {', '.join(unknown)}; it takes {known}")
    given: dict[str, Any] = {
        "steps": texts("steps_override", wish.steps, "dbt commands") or None,
        "schema": text("schema_override", wish.schema),
    }
    given |= {RUN_CONFIG[key]: _configured(key, value) for key, value in config.items()}
    if any(value is not None for value in pull_request.values()):
        given["pullRequestId"] = pull_request
    present = {key: value for key, value in given.items() if value is not None}
    return cause, _converted("additional_run_config", present, Overrides)


def _configured(key: str, value: object) -> object:
    """A value of `additional_run_config`, refused under its own name; None: the job's own."""
    argument = f"additional_run_config[{key!r}]"
    if key in TEXTS:
        return text(argument, value)
    if key in NUMBERS:
        return number(argument, value)
    if key in FLAGS:
        return boolean(argument, None if value == "" else value)
    return texts(argument, value, "dbt commands") or None


def _converted(argument: str, wire: Mapping[str, Any], kind: type[T]) -> T:
    """The fields of an API type, under its names; templates render to text, so `"4"` counts as 4."""
    try:
        return msgspec.convert(wire, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{argument}: {error}") from None


def retry_of(value: object) -> Retry:
    """`retry` as a number of further attempts, or a mapping with the fields of `spec.retry`.

    Raises:
        InvalidArgument: it is neither.
    """
    # False equals 0, but nobody means by it a number of attempts.
    if value is None or (value == 0 and not isinstance(value, bool)) or value == "0":
        return Retry()
    if not isinstance(value, Mapping):
        return Retry(limit=number("retry", value) or 0)
    names = {item.name: item.encode_name for item in fields(Retry)}
    wire = {names.get(str(key), str(key)): item for key, item in value.items()}
    unknown = sorted(wire.keys() - set(names.values()))
    if unknown:
        raise InvalidArgument(f"retry has no {', '.join(unknown)}; it takes {', '.join(names.values())}")
    return _converted("retry", wire, Retry)


def _policy(value: object) -> DeletionPolicy | None:
    try:
        return None if value is None else DeletionPolicy(str(value))
    except ValueError:
        raise InvalidArgument(f"deletion_policy must be Cancel or Orphan, not {shown(value)}") from None


def whole_seconds(duration: float | None) -> int | None:
    """Seconds as the API takes them: 1 up to a year."""
    return None if duration is None else min(max(1, math.ceil(duration)), MAX_SECONDS)


def active_deadline(given: float | None, execution_timeout: timedelta | None, timeout: float) -> float:
    """How long a run may go on when nobody is there to end it, in seconds.

    A task that is killed while nothing of Airflow runs cannot cancel; so there is always an end. Without a wish of its
    own it is never earlier than what the task itself would wait.
    """
    if given is not None:
        return given
    return execution_timeout.total_seconds() if execution_timeout is not None else max(timeout, DAY)
