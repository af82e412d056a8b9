"""What `dbtrun run` and `dbtrun retry` create."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from dbtrun.cli.main import main
from dbtrun.cli.manifest import again, base_of
from dbtrun.cli.view import converted
from tests.unit.cli.builders import body


def created(*arguments: str) -> Any:
    result = CliRunner().invoke(main, ["run", "--dry-run", *arguments])
    assert result.exit_code == 0, result.output
    return yaml.safe_load(result.stdout)


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["run", "--dry-run", *arguments])
    assert result.exit_code == 2
    return result.stderr


def test_a_job_by_its_id() -> None:
    assert created("98765") == {
        "apiVersion": "dbtrun.dev/v1alpha1",
        "kind": "DbtRun",
        "metadata": {"generateName": "job-98765-"},
        "spec": {"job": {"id": 98765}},
    }


def test_a_job_by_its_names() -> None:
    made = created("Nightly build", "--project", "sales", "--environment", "production")
    assert made["spec"]["job"] == {"name": "Nightly build", "project": "sales", "environment": "production"}
    assert made["metadata"] == {"generateName": "nightly-build-"}


def test_every_option_is_a_field() -> None:
    spec = created(
        "1", "--connection", "dbt", "--step", "dbt seed", "--step", "dbt build", "--schema", "s", "--git-branch", "b",
        "--git-sha", "c0ffee", "--threads", "4", "--target", "t", "--dbt-version", "latest", "--no-generate-docs",
        "--cause", "why", "--retries", "2", "--reuse", "--artifact", "manifest.json", "--deadline", "2h",
        "--queue-deadline", "10m", "--ttl", "1d",
    )["spec"]  # fmt: skip
    assert spec == {
        "job": {"id": 1},
        "connectionRef": {"name": "dbt"},
        "cause": "why",
        "overrides": {
            "schema": "s", "gitBranch": "b", "gitSha": "c0ffee", "threads": 4, "target": "t", "dbtVersion": "latest",
            "generateDocs": False, "steps": ["dbt seed", "dbt build"],
        },
        "retry": {"limit": 2},
        "reuse": "Running",
        "artifacts": ["manifest.json"],
        "activeDeadlineSeconds": 7200,
        "queueDeadlineSeconds": 600,
        "ttlSecondsAfterFinished": 86400,
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [["nightly"], ["nightly", "--project", "sales"], ["1", "--environment", "p"]])
def test_a_name_needs_project_and_environment(arguments: list[str]) -> None:
    assert "together with --project and --environment" in refused(*arguments)


def test_a_duration_that_is_none() -> None:
    assert "'soon' is not a duration: write 90s, 5m or 1h30m." in refused("1", "--deadline", "soon")


@pytest.mark.parametrize(
    ("job", "base"),
    [("98765", "job-98765"), ("Nightly!", "nightly"), ("売上", "job"), ("a" * 80, "a" * 50), ("2nd run", "2nd-run")],
)
def test_a_name_begins_with_the_job(job: str, base: str) -> None:
    assert base_of(job) == base


def repeated(fresh: bool = False, name: str = "nightly", **more: Any) -> Any:
    old = body(name, **more)
    return again(old, converted(old), fresh=fresh)


def test_a_retry_resumes_a_failed_run() -> None:
    spec = {"job": {"id": 1}, "cancel": True, "suspend": False, "retry": {"limit": 2}, "cause": "nightly load"}
    made = repeated(spec=spec, phase="Failed", runId=77)
    assert made["spec"] == {"job": {"id": 1}, "retry": {"limit": 2}, "cause": "nightly load", "retryOf": 77}
    assert made["metadata"] == {"generateName": "nightly-retry-"}


@pytest.mark.parametrize("phase", ["Succeeded", "Cancelled", "TimedOut", "Error"])
def test_what_did_not_fail_is_run_anew(phase: str) -> None:
    assert repeated(phase=phase, runId=77)["spec"] == {"job": {"id": 98765}, "cause": "Retry of nightly"}


def test_a_fresh_retry_resumes_nothing() -> None:
    assert "retryOf" not in repeated(fresh=True, phase="Failed", runId=77)["spec"]


def test_a_run_that_was_adopted_is_run_by_its_job() -> None:
    made = repeated(spec={"runId": 77, "deletionPolicy": "Cancel"}, phase="Succeeded", runId=77, jobId=5)
    assert made["spec"] == {"job": {"id": 5}, "cause": "Retry of nightly"}


def test_a_run_that_was_adopted_and_whose_job_is_not_known() -> None:
    with pytest.raises(ValueError, match="its job is not known"):
        repeated(spec={"runId": 77}, phase="Error")


def test_names_of_retries_do_not_grow() -> None:
    assert repeated(name="nightly-retry-x7k2p", phase="Error")["metadata"] == {"generateName": "nightly-retry-"}
