"""The DbtRun that a task's arguments ask for."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from airflow_trigger.failures import InvalidArgument
from airflow_trigger.shared.arguments import seconds
from airflow_trigger.task.attempts import Create
from airflow_trigger.task.identity import TaskKey, Try
from airflow_trigger.task.manifest import PULL_REQUEST, RUN_CONFIG, Wish, active_deadline, manifest
from airflow_trigger.task.tracing import traceparent
from dbtrun.api import DbtRun, parse
from watcher.dbtcloud.client import _body

TRY = Try(TaskKey("nightly", "r", "build"), 1, 0)


def made(create: Create = Create(1), /, **arguments: Any) -> dict[str, Any]:  # noqa: B008 - frozen
    given: dict[str, Any] = {"conn_id": "dbt_cloud_default", "job_id": 7}
    return manifest(Wish(**given | arguments), TRY, create)


def spec(create: Create = Create(1), /, **arguments: Any) -> dict[str, Any]:  # noqa: B008 - frozen
    found: dict[str, Any] = made(create, **arguments)["spec"]
    return found


def read(**arguments: Any) -> DbtRun:
    body = made(**arguments)
    return parse({**body, "metadata": {**body["metadata"], "namespace": "n", "uid": "u", "resourceVersion": "1"}})


def test_a_job_by_its_id_and_nothing_else_is_a_short_object() -> None:
    assert spec() == {"job": {"id": 7}, "pollIntervalSeconds": 60}


def test_a_job_by_its_names() -> None:
    names = {"job_name": "nightly", "project_name": "Shop", "environment_name": "Production"}
    assert spec(job_id=None, **names)["job"] == {"name": "nightly", "project": "Shop", "environment": "Production"}


def test_numbers_that_a_template_made_text_are_numbers() -> None:
    assert spec(
        job_id="7", account_id="12", run_config={"threads_override": "4", "generate_docs_override": "true"}
    ) == {
        "job": {"id": 7},
        "accountId": 12,
        "overrides": {"threads": 4, "generateDocs": True},
        "pollIntervalSeconds": 60,
    }


def test_additional_run_config_lies_over_the_arguments() -> None:
    config = {"cause": "release", "steps_override": ["dbt build"], "schema_override": "b", "git_branch": None}
    body = spec(cause="nightly", steps=["dbt run"], schema="a", run_config=config)
    assert body["cause"] == "release"
    assert body["overrides"] == {"steps": ("dbt build",), "schema": "b"}


def test_every_name_of_the_run_config_reaches_dbt_cloud_under_that_name() -> None:
    values: dict[str, Any] = dict.fromkeys(RUN_CONFIG, "1") | {"steps_override": ["dbt run"]}
    for pull_request in PULL_REQUEST:
        sent = _body(read(run_config=values | {pull_request: 5}).spec.overrides)
        assert values.keys() | {pull_request} == {key for key, value in sent.items() if value is not None}


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (2, {"limit": 2}),
        ({"limit": "2", "strategy": "Fresh"}, {"limit": 2, "strategy": "Fresh"}),
        ({"limit": 1, "backoff_seconds": 5}, {"limit": 1, "backoffSeconds": 5}),
        ({"limit": 1, "when": ["Failed", "TimedOut"]}, {"limit": 1, "when": ("Failed", "TimedOut")}),
    ],
)
def test_retries_inside_a_try(retry: object, expected: dict[str, Any]) -> None:
    assert spec(retry=retry)["retry"] == expected


def test_a_connection_is_a_secret() -> None:
    assert spec(conn_id="dbt_cloud_finance")["connectionRef"] == {"name": "dbt-cloud-finance"}
    assert spec(conn_id="dbt_cloud_finance", connection="other")["connectionRef"] == {"name": "other"}


def test_durations_and_policies() -> None:
    body = spec(queue_deadline=0.5, active_deadline=1e12, check_interval=1, deletion_policy="Orphan", ttl=90.0)
    assert body["queueDeadlineSeconds"] == 1
    assert body["activeDeadlineSeconds"] == 31_536_000
    assert body["pollIntervalSeconds"] == 5
    assert body["deletionPolicy"] == "Orphan"
    assert body["ttlSecondsAfterFinished"] == 90


def test_reuse_existing_run() -> None:
    assert spec(reuse=True)["reuse"] == "Running"


def test_files_to_keep() -> None:
    assert spec(artifacts=["run_results.json"])["artifacts"] == ("run_results.json",)


def test_a_resumed_run_is_named() -> None:
    assert spec(Create(2, resumes=99))["retryOf"] == 99


def test_overrides_that_a_resumed_run_does_not_get_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="not sent when dbt Cloud resumes run 99"):
        body = spec(Create(2, resumes=99), schema="other")
    assert body["overrides"] == {"schema": "other"}


def test_a_resumed_run_without_overrides_is_resumed_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec(Create(2, resumes=99), cause="month's end")


def test_a_run_that_was_lost_is_followed_and_still_ends_with_its_object() -> None:
    body = spec(Create(2, follows=99), run_config={"git_branch": "x"}, retry=3, reuse=True)
    assert body == {"runId": 99, "deletionPolicy": "Cancel", "pollIntervalSeconds": 60}


def test_a_long_reason_is_cut_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="cut to 200 characters"):
        assert len(spec(cause="x" * 300)["cause"]) == 200


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"job_id": None}, "Either job_id or project_name, environment_name, and job_name must be provided"),
        ({"job_id": None, "job_name": "n", "project_name": "p"}, "Either job_id or"),
        ({"job_id": "seven"}, "job_id must be a number of at least 1, not 'seven'"),
        ({"account_id": "mine"}, "account_id must be a number"),
        ({"artifacts": "run_results.json"}, "artifacts must be a list of paths below target/"),
        ({"steps": "dbt run"}, "steps_override must be a list of dbt commands, not 'dbt run'"),
        (
            {"run_config": {"treads_override": 4}},
            "additional_run_config has no treads_override; it takes cause, steps_",
        ),
        (
            {"run_config": {"threads_override": "many"}},
            r"additional_run_config\['threads_override'\] must be a number of at least 1, not 'many'",
        ),
        (
            {"run_config": "threads_override: 4"},
            "additional_run_config must be a mapping with text as its keys, not 'threads",
        ),
        ({"retry": {"limits": 1}}, "retry has no limits; it takes limit, strategy"),
        ({"retry": {"strategy": "Again"}}, "retry: Invalid enum value 'Again'"),
        ({"deletion_policy": "Keep"}, "deletion_policy must be Cancel or Orphan, not 'Keep'"),
        ({"conn_id": "my conn"}, "dbt_cloud_conn_id 'my conn' cannot name a connection Secret"),
    ],
)
def test_arguments_that_cannot_work_are_refused_in_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgument, match=sentence):
        made(**arguments)


def test_durations_may_be_timedeltas() -> None:
    assert seconds("ttl", timedelta(minutes=2)) == 120.0
    assert seconds("ttl", None) is None


@pytest.mark.parametrize("value", [-1, "soon", True, float("inf"), timedelta(seconds=-1)])
def test_a_duration_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="ttl must be seconds or a timedelta"):
        seconds("ttl", value)


@pytest.mark.parametrize(
    ("given", "execution_timeout", "timeout", "expected"),
    [
        (300.0, timedelta(hours=1), 60.0, 300.0),
        (None, timedelta(hours=1), 604_800.0, 3_600.0),
        (None, None, 604_800.0, 604_800.0),
        (None, None, 60.0, 86_400.0),
    ],
)
def test_a_run_that_nobody_can_end_any_more_ends(
    given: float | None, execution_timeout: timedelta | None, timeout: float, expected: float
) -> None:
    assert active_deadline(given, execution_timeout, timeout) == expected


def test_the_trace_of_the_task_is_named() -> None:
    with TracerProvider().get_tracer("airflow").start_as_current_span("worker.build"):
        named = traceparent()
    assert named is not None
    annotations = manifest(Wish(conn_id="dbt_cloud_default", job_id=1), TRY, Create(1), named)["metadata"][
        "annotations"
    ]
    assert annotations["dbtrun.dev/traceparent"] == named


def test_without_traces_nothing_is_named() -> None:
    assert traceparent() is None
    assert "dbtrun.dev/traceparent" not in made()["metadata"]["annotations"]
