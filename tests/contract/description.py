"""The official description of the API, patched where recorded replies of the real thing contradict it.

`data/openapi-v2.facts.json` holds the facts of dbt-labs/dbt-cloud-openapi-spec (openapi-v2.yaml at 1f274f7): paths,
types, required keys, enums. Each patch below says what it changes and why. What the description cannot say (which keys
a run always has, error bodies) is tested by hand.
"""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openapi_schema_validator import OAS30ReadValidator, oas30_format_checker

if TYPE_CHECKING:
    import httpx

Schema = dict[str, Any]

DATA = Path(__file__).parent / "data" / "openapi-v2.facts.json"
ACCOUNT = "/api/v2/accounts/{account_id}"
SPACED = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?\+00:00$"}

# Recorded replies carry null here although the description knows no null at all (`nullable` occurs nowhere in it).
NULLABLE = {
    "RunResponse": """git_branch git_sha status_message owner_thread_id executed_by_thread_id deferring_run_id
        artifact_s3_path dequeued_at started_at finished_at last_checked_at last_heartbeat_at trigger job environment
        retrying_run_id retry_not_supported_reason is_running used_repo_cache""",
    "RunTrigger": """git_branch git_sha azure_pull_request_id github_pull_request_id gitlab_merge_request_id
        non_native_pull_request_id schema_override dbt_version_override threads_override target_name_override
        generate_docs_override timeout_seconds_override steps_override""",
    "RunStep": "debug_logs log_path debug_log_path",
    "RunStepResponse": """debug_logs log_path debug_log_path truncated_debug_logs started_at finished_at
        run_step_command""",
    "RunAuditResult": "cancellation",
    "RunFailureDetailsResponse": "failed_step",
    "ListOfStringsEnveloped": "data",
    "ResponseStatus": "developer_message",
    "InternalJobDefinition": "dbt_version deferring_environment_id deferring_job_definition_id",
    "HumanReadableJobDefinitionResponse": """dbt_version raw_dbt_version deferring_environment_id
        deferring_job_definition_id lifecycle_webhooks_url account project environment""",
    "EnvironmentV2": """connection_id credentials_id repository_id extended_attributes_id custom_branch
        dbt_project_subdirectory created_by_id""",
    "EnvironmentV2Response": """connection_id credentials_id repository_id extended_attributes_id custom_branch
        dbt_project_subdirectory created_by_id repository connection jobs custom_environment_variables""",
    "EnvironmentV3": "connection_id credentials_id extended_attributes_id custom_branch primary_profile_id",
    "Project": """description connection_id repository_id semantic_layer_config_id dbt_project_subdirectory
        docs_job_id freshness_job_id""",
    "ProjectResponse": """description connection_id repository_id semantic_layer_config_id dbt_project_subdirectory
        docs_job_id freshness_job_id connection environments repository group_permissions docs_job freshness_job
        default_version""",
    "Account": "docs_job_id freshness_job_id",
    "AccountResponse": """lock_reason lock_cause unlocked_at billing_email_address enterprise_login_slug
        starter_repo_url trial_end_date static_subdomain vanity_subdomain run_locked_until docs_job_id
        freshness_job_id copilot_locked_until""",
}
# The timestamps of runs and steps have a space where RFC 3339 has a T.
SPACED_TIMES = {
    "RunResponse": "created_at updated_at dequeued_at started_at finished_at should_start_at",
    "RunStepResponse": "created_at updated_at started_at finished_at",
}
# Numbers whose meaning the description gives only in prose.
ENUMS = {
    ("RunResponse", "status"): [1, 2, 3, 10, 20, 30],
    ("RunStep", "status"): [1, 2, 3, 10, 20, 30],
    ("RunStepResponse", "status"): [1, 2, 3, 10, 20, 30],
}


@cache
def patched() -> Schema:
    document: Schema = json.loads(DATA.read_text())
    schemas = document["components"]["schemas"]
    for name, fields in SPACED_TIMES.items():
        for field in fields.split():
            schemas[name]["properties"][field] = copy.deepcopy(SPACED)
    for (name, field), values in ENUMS.items():
        schemas[name]["properties"][field]["enum"] = values
    for name, fields in NULLABLE.items():
        properties = schemas[name]["properties"]
        for field in fields.split():
            properties[field] = {"oneOf": [properties[field], {"enum": [None]}]}
    _patch_parameters(document)
    _add_v3(document)
    return document


def _patch_parameters(document: Schema) -> None:
    """The limits that the release notes set and the description does not."""
    for parameter in document["paths"][f"{ACCOUNT}/runs/"]["get"]["parameters"]:
        schema = parameter["schema"]
        if parameter["name"] == "limit":
            schema["maximum"] = 100
        elif parameter["name"] == "order_by":
            schema["enum"] = [f"{sign}{name}" for name in ("id", "created_at", "finished_at") for sign in ("", "-")]
        elif schema.get("type") == "array":
            # Arrays travel as a JSON literal in one parameter, which the description has no way to say.
            parameter["schema"] = {"type": "string"}


def _add_v3(document: Schema) -> None:
    """The file describes v2; its own V3 schemas say what the v3 twins answer."""
    paths, schemas = document["paths"], document["components"]["schemas"]
    for path in ("projects/", "projects/{id}/"):
        paths[f"/api/v3/accounts/{{account_id}}/{path}"] = {"get": paths[f"{ACCOUNT}/{path}"]["get"]}
    paths["/api/v3/accounts/{account_id}/"] = {"get": paths[f"{ACCOUNT}/"]["get"]}
    for many, path in ((True, "environments/"), (False, "environments/{id}/")):
        envelope = copy.deepcopy(schemas["EnvironmentV2ListEnveloped" if many else "EnvironmentV2Enveloped"])
        item = {"$ref": "#/components/schemas/EnvironmentV3"}
        envelope["properties"]["data"] = {"type": "array", "items": item} if many else item
        responses = {"200": {"content": {"application/json": {"schema": envelope}}}}
        paths[f"/api/v3/accounts/{{account_id}}/projects/{{project_id}}/{path}"] = {"get": {"responses": responses}}


# Not described, yet real clients use them: only their envelope can be checked.
UNDESCRIBED = re.compile(r"/api/(v2/whoami|v[23]/accounts|v3/accounts/[0-9]+/webhooks/subscriptions?(/.*)?)/?")
FAILURE: Schema = {
    "type": "object",
    "required": ["status", "data"],
    "properties": {
        "status": {"$ref": "#/components/schemas/ResponseStatus"},
        "data": {"type": "object", "nullable": True},
    },
}


def schema_of(method: str, path: str) -> Schema | None:
    """What a successful reply must look like; None where the description leaves it open (artifacts).

    :raises LookupError: no such operation is described.
    """
    for template, operations in patched()["paths"].items():
        if method.lower() in operations and _pattern(template).fullmatch(path):
            content = operations[method.lower()]["responses"]["200"].get("content", {})
            schema: Schema | None = content.get("application/json", {}).get("schema")
            return schema
    raise LookupError(f"{method} {path} is not described")


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Artifact paths have slashes in them, which OpenAPI cannot say."""
    inner = re.sub(r"\\{remainder\\}", ".+", re.escape(template.rstrip("/")))
    return re.compile(re.sub(r"\\{\w+\\}", r"\\d+", inner) + "/?")


@cache
def _validator(schema: str) -> OAS30ReadValidator:
    document = json.loads(schema) | {"components": patched()["components"]}
    return OAS30ReadValidator(document, format_checker=oas30_format_checker)


def complaints(schema: Schema, body: Any) -> list[str]:
    whole = {"allOf": [schema]}  # a bare $ref would hide the components beside it
    return [f"{error.json_path}: {error.message}" for error in _validator(json.dumps(whole)).iter_errors(body)]


async def check(response: httpx.Response) -> None:
    """An httpx event hook: every reply that passes is as described."""
    path = response.request.url.path
    if path.startswith("/_simulator"):
        return
    await response.aread()
    if response.status_code != 200:
        schema: Schema | None = FAILURE
    elif UNDESCRIBED.fullmatch(path):
        schema = {"type": "object", "required": ["status", "data"]}
    else:
        schema = schema_of(response.request.method, path)
    found = complaints(schema, response.json()) if schema else []
    assert not found, f"{response.request.method} {path}: {found[:5]}"
