"""How the API writes things down. Recorded replies are the source where they and the official description differ.

The most surprising parts: run timestamps have a space and no `T`, relations are null unless asked for, every run has
the same 53 keys, durations count up while a run is queued.
"""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from watcher.simulator.logs import log_of
from watcher.simulator.model import RUN_BASE, Account, Job, Run, Status, humanized
from watcher.simulator.steps import Step, steps

if TYPE_CHECKING:
    from collections.abc import Collection

    from watcher.simulator.scenario import EnvironmentSpec, ProjectSpec

Json = dict[str, Any]

TRIGGER_BASE = 70403110300000
# Also for what the token may not see: a 404 does not prove that a run does not exist.
NOT_FOUND = "The requested resource was not found. Please check that you have the proper permissions."
INVALID = "The request was invalid. Please double check the provided data and try again."
# With 403, as captured by OpenMetadata's tests: the wrong account is never a 404.
WRONG_ACCOUNT = "Access denied: Token is not scoped to account."
SERVER_ERROR = "There was a server error. Please contact support at support@getdbt.com."
COLORS = {Status.SUCCESS: "#7cb342", Status.ERROR: "#e53935", Status.CANCELLED: "#9e9e9e"}


class ApiError(Exception):
    """A reply that is not a success."""

    def __init__(self, code: int, message: str, data: Any = None, developer_message: str | None = "") -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "status": {
                "code": code,
                "is_success": False,
                "user_message": message,
                "developer_message": developer_message,
            },
            "data": data,
        }


def bad_token() -> ApiError:
    """The refusal of a token."""
    # null here and "" in the other errors, as captured.
    return ApiError(401, "Invalid token.", developer_message=None)


def not_found() -> ApiError:
    """The refusal of an id that nothing has."""
    return ApiError(404, NOT_FOUND)


def invalid(**fields: str) -> ApiError:
    """The refusal of a wrong parameter or body."""
    return ApiError(400, INVALID, data=fields)


def enveloped(data: Any, extra: Json | None = None) -> Json:
    """A reply in the envelope of the API."""
    status = {"code": 200, "is_success": True, "user_message": "Success!", "developer_message": ""}
    return {"status": status, "data": data} | ({"extra": extra} if extra is not None else {})


def run_time(stamp: float | None) -> str | None:
    """The timestamps of runs: `2024-07-03 13:59:00.653171+00:00`."""
    # str, not isoformat: a space instead of the T, and no fraction if it is 0.
    return None if stamp is None else str(datetime.fromtimestamp(stamp, UTC))


def rfc3339(stamp: float) -> str:
    """The timestamps of everything else: `2024-03-25T13:47:20.129690Z`."""
    return datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def clock_face(seconds: float) -> str:
    """A duration as HH:MM:SS; hours go on beyond 23."""
    minutes, second = divmod(max(int(seconds), 0), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}"


def run_body(account: Account, run: Run, related: Collection[str], host: str) -> Json:
    """A run: 53 keys, always all of them (`audit` joins them when asked for)."""
    job = account.jobs[run.job_id]
    now = account.clock.stamp(account.clock.now())
    refusal = account.retry_refusal(run)
    end = now if run.finished_at is None else run.finished_at
    begun = end if run.started_at is None else run.started_at
    body: Json = {
        "id": run.id,
        "trigger_id": TRIGGER_BASE + run.id - RUN_BASE,
        "account_id": account.spec.id,
        "environment_id": run.environment_id,
        "project_id": run.project_id,
        "job_definition_id": run.job_id,
        "status": run.status,
        "dbt_version": run.dbt_version,
        # Recorded: null until the run leaves the queue, even if its trigger names a branch.
        "git_branch": (run.request.git_branch or "main") if run.dequeued_at else None,
        "git_sha": (run.request.git_sha or f"{run.id:040x}") if run.dequeued_at else None,
        "status_message": run.status_message,
        "owner_thread_id": None,
        "executed_by_thread_id": f"scheduler-run-{run.id}" if run.dequeued_at else None,
        "deferring_run_id": None,
        "artifacts_saved": account.has_artifacts(run),
        "artifact_s3_path": f"prod/runs/{run.id}/artifacts/target" if account.has_artifacts(run) else None,
        "has_docs_generated": run.status is Status.SUCCESS and "dbt docs generate" in run.commands,
        "has_sources_generated": False,
        "notifications_sent": run.status.final,
        "blocked_by": account.blocked_by(run),
        "created_at": run_time(run.created_at),
        "updated_at": run_time(run.updated_at),
        "dequeued_at": run_time(run.dequeued_at),
        "started_at": run_time(run.started_at),
        "finished_at": run_time(run.finished_at),
        "last_checked_at": None,
        "last_heartbeat_at": None,
        "should_start_at": run_time(run.created_at),
        "trigger": trigger_body(run) if "trigger" in related else None,
        "job": job_relation(account, job) if "job" in related else None,
        "environment": environment_v2(account, job.project, job.environment) if "environment" in related else None,
        "run_steps": run_steps(account, run, related),
        "status_humanized": run.status.name.capitalize(),
        # Recorded: true of queued runs as well.
        "in_progress": run.live,
        "is_complete": run.status.final,
        "is_success": run.status is Status.SUCCESS,
        "is_error": run.status is Status.ERROR,
        "is_cancelled": run.status is Status.CANCELLED,
        "duration": clock_face(end - run.created_at),
        "queued_duration": clock_face(begun - run.created_at),
        "run_duration": clock_face(end - begun),
        "duration_humanized": humanized(end - run.created_at),
        "queued_duration_humanized": humanized(begun - run.created_at),
        "run_duration_humanized": humanized(end - begun),
        "created_at_humanized": f"{humanized(now - run.created_at)} ago",
        # Recorded for a queued run.
        "finished_at_humanized": "0 minutes from now" if run.finished_at is None else f"{humanized(now - end)} ago",
        "retrying_run_id": run.retrying_run_id,
        "can_retry": refusal is None,
        "retry_not_supported_reason": refusal,
        "job_id": run.job_id,
        # Recorded: null in every state, and so is `used_repo_cache`.
        "is_running": None,
        "href": f"https://{host}/deploy/{account.spec.id}/projects/{run.project_id}/runs/{run.id}/",
        "used_repo_cache": None,
    }
    if "audit" in related:
        actor = {"actor": {"id": "1", "type": "service_token", "name": "simulator"}}
        body["audit"] = {"trigger": actor, "cancellation": actor if run.cancel_time is not None else None}
    return body


def trigger_body(run: Run) -> Json:
    """What was asked, echoed: the only trace of the caller that the API keeps."""
    return {
        "id": TRIGGER_BASE + run.id - RUN_BASE,
        "job_definition_id": run.job_id,
        **msgspec.structs.asdict(run.request),
        "created_at": run_time(run.created_at),
        "cause_humanized": run.request.cause,
        "job": None,
        "cause_category": run.category,
    }


def run_steps(account: Account, run: Run, related: Collection[str]) -> list[Json]:
    """The steps of a run."""
    if "run_steps" not in related and "debug_logs" not in related:
        return []
    return [step_body(account, step, debug="debug_logs" in related) for step in steps(run, account.clock)]


def step_body(account: Account, step: Step, *, debug: bool) -> Json:
    """One step; its logs grow while it runs, and `debug_logs` come only when asked for."""
    created = run_time(step.run.started_at)
    log = log_of(step)
    return {
        "id": step.id,
        "run_id": step.run.id,
        "account_id": account.spec.id,
        "index": step.index,
        "status": step.status,
        "name": step.name,
        "logs": log,
        # With ANSI codes, as in the logs that Dagster reads: a program that shows a log must expect them.
        "debug_logs": "".join(f"\x1b[0m{line} [debug] [MainThread]\n" for line in log.splitlines()) if debug else None,
        "log_path": None,
        "debug_log_path": None,
        "truncated_debug_logs": None,
        "started_at": run_time(step.started_at),
        "finished_at": run_time(step.finished_at),
        "status_color": COLORS.get(step.status, "#1e88e5"),
        "status_humanized": step.status.name.capitalize(),
        "duration": clock_face(step.seconds),
        "duration_humanized": humanized(step.seconds),
        "created_at": created,
        "updated_at": created,
        "run_step_command": {"run_step_id": step.id, "dbt_command": step.command} if step.command else None,
        "run_step_invocation": {"run_step_id": step.id, "run_id": step.run.id},
    }


def _definition(account: Account, job: Job) -> Json:
    """What the two shapes of a job have in common."""
    spec = job.spec
    return {
        "id": job.id,
        "account_id": account.spec.id,
        "project_id": job.project.id,
        "environment_id": job.environment.id,
        "name": spec.name,
        "description": "",
        "dbt_version": None,
        "raw_dbt_version": None,
        "created_at": rfc3339(job.created_at),
        "updated_at": rfc3339(job.created_at),
        "execute_steps": spec.steps,
        "execution": {"timeout_seconds": spec.timeout_seconds},
        "generate_docs": spec.generate_docs,
        "run_generate_sources": False,
        "run_compare_changes": False,
        "compare_changes_flags": "--select state:modified",
        # This and the next: required by the official description, missing in recordings of 2024.
        "run_lint": False,
        "errors_on_lint_failure": True,
        "deferring_environment_id": None,
        "deferring_job_definition_id": None,
        "is_deferrable": False,
        "job_type": "ci" if spec.parallel else "other",
        "lifecycle_webhooks": False,
        "lifecycle_webhooks_url": None,
        "settings": {"threads": 4, "target_name": "default"},
        "state": 1,
        "triggers": {
            "github_webhook": False,
            "git_provider_webhook": False,
            "schedule": False,
            "on_merge": False,
            "custom_branch_only": False,
        },
        "triggers_on_draft_pr": False,
        "run_failure_count": 0,
        "cost_optimization_features": [],
    }


def job_relation(account: Account, job: Job) -> Json:
    """A job within a run."""
    schedule = {"cron": "0 * * * *", "date": "every_day", "time": "every_hour"}
    return _definition(account, job) | {"schedule": schedule}


def job_body(account: Account, job: Job, related: Collection[str], host: str) -> Json:
    """A job as the job endpoints show it."""
    schedule = {
        "cron": "0 * * * *",
        "date": {"type": "every_day"},
        "time": {"type": "every_hour", "interval": 1},
    }
    body = _definition(account, job) | {
        "schedule": schedule,
        "generate_sources": False,
        "job_completion_trigger_condition": None,
        "fusion_readiness": None,
        "account": account_brief(account) if "account" in related else None,
        "project": project_brief(account, job.project) if "project" in related else None,
        "environment": environment_v2(account, job.project, job.environment) if "environment" in related else None,
    }
    runs = account.by_job.get(job.id, [])
    if "most_recent_run" in related:
        body["most_recent_run"] = run_body(account, runs[-1], (), host) if runs else None
    if "most_recent_completed_run" in related:
        last = next((run for run in reversed(runs) if run.status.final), None)
        body["most_recent_completed_run"] = run_body(account, last, (), host) if last else None
    return body


def account_brief(account: Account) -> Json:
    """An account within another reply."""
    return {"id": account.spec.id, "name": account.spec.name, "state": 1, "docs_job_id": None, "freshness_job_id": None}


def account_body(account: Account) -> Json:
    """An account."""
    created = rfc3339(account.created_at)
    return account_brief(account) | {
        "plan": "free" if account.spec.unpaid else "enterprise",
        "run_slots": account.spec.run_slots or 1000,
        "developer_seats": 10,
        "it_seats": 0,
        "explorer_seats": 0,
        "analyst_seats": 0,
        "read_only_seats": 0,
        "locked": False,
        "lock_reason": None,
        "lock_cause": None,
        "unlocked_at": None,
        "pending_cancel": False,
        "billing_email_address": None,
        "pod_memory_request_mebibytes": 600,
        "develop_pod_memory_request_mebibytes": 0,
        "run_duration_limit_seconds": 86400,
        # Documented as the default. What a start beyond it gets is not documented, so it is not simulated.
        "queue_limit": 50,
        "enterprise_login_slug": None,
        "business_critical": False,
        "starter_repo_url": None,
        "git_auth_level": "team",
        "identifier": f"act_{account.spec.id}",
        "trial_end_date": None,
        "static_subdomain": None,
        "vanity_subdomain": None,
        "run_locked_until": None,
        "copilot_locked_until": None,
        "agent_credit_locked": False,
        "account_migration_events": [],
        "groups": [],
        "created_at": created,
        "updated_at": created,
    }


def project_brief(account: Account, project: ProjectSpec) -> Json:
    """A project within another reply."""
    return {
        "id": project.id,
        "name": project.name,
        "account_id": account.spec.id,
        "description": None,
        "connection_id": None,
        "repository_id": None,
        "semantic_layer_config_id": None,
        "state": 1,
        "dbt_project_subdirectory": None,
        "docs_job_id": None,
        "freshness_job_id": None,
        "type": 0,
        "created_at": rfc3339(account.created_at),
        "updated_at": rfc3339(account.created_at),
    }


def project_body(account: Account, project: ProjectSpec) -> Json:
    """A project."""
    return project_brief(account, project) | {
        "connection": None,
        "environments": None,
        "repository": None,
        "group_permissions": None,
        "docs_job": None,
        "freshness_job": None,
        "fusion_readiness": None,
        "default_version": None,
    }


def environment_v2(account: Account, project: ProjectSpec, environment: EnvironmentSpec) -> Json:
    """An environment as version 2 of the API gives it."""
    return {
        "id": environment.id,
        "account_id": account.spec.id,
        "project_id": project.id,
        "name": environment.name,
        "connection_id": None,
        "credentials_id": None,
        "repository_id": None,
        "extended_attributes_id": None,
        "custom_branch": None,
        "use_custom_branch": False,
        "dbt_project_subdirectory": None,
        "dbt_version": environment.dbt_version,
        "raw_dbt_version": environment.dbt_version,
        "supports_docs": True,
        "deployment_type": "production",
        "type": "deployment",
        "created_by_id": None,
        "state": 1,
        "created_at": rfc3339(account.created_at),
        "updated_at": rfc3339(account.created_at),
        "repository": None,
        "connection": None,
        "jobs": None,
        "custom_environment_variables": None,
    }


def environment_v3(account: Account, project: ProjectSpec, environment: EnvironmentSpec) -> Json:
    """An environment as version 3 of the API gives it."""
    shared = environment_v2(account, project, environment)
    older = ("dbt_project_subdirectory", "raw_dbt_version", "created_by_id", "jobs", "repository_id")
    body = {key: value for key, value in shared.items() if key not in older}
    return body | {"enable_model_query_history": False, "enable_dbt_state": False, "primary_profile_id": None}


def phrase(code: int) -> str:
    """The text of a status code, for bodies that a proxy writes."""
    return HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "Unknown"
