"""Third-party clients, unchanged, over https: what they rely on is what the simulator owes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.patience import patience
from watcher.simulator.scenario import ACCOUNT_ID, DEFAULT_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = Path(__file__).parent / "clients"


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which a client finds the simulator and trusts it."""
    directory = tmp_path_factory.mktemp("clients")
    command = [sys.executable, "-m", "dbtrun", "simulate", "--port", "0", "--tls-dir", str(directory), "--speed", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        host = process.stdout.readline().split()[3].removeprefix("https://").rstrip(",")
        ca = str(directory / "ca.pem")
        connection = {"conn_type": "dbt_cloud", "host": host, "login": str(ACCOUNT_ID), "password": DEFAULT_TOKEN}
        yield {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "AIRFLOW_HOME": str(directory),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_DBT_CLOUD_DEFAULT": json.dumps(connection),
            "DBT_CLOUD_HOST": host,
            "DBT_CLOUD_SERVICE_TOKEN": DEFAULT_TOKEN,
            "REQUESTS_CA_BUNDLE": ca,
            "SSL_CERT_FILE": ca,
        }
        process.kill()


def use(script: str, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, str(CLIENTS / script)]
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=patience(120), check=False
    )
    assert finished.returncode == 0, finished.stderr
    seen: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return seen


@pytest.fixture(scope="module")
def airflow(reached: dict[str, str]) -> dict[str, Any]:
    return use("use_airflow.py", reached)


@pytest.fixture(scope="module")
def dbtc(reached: dict[str, str]) -> dict[str, Any]:
    return use("use_dbtc.py", reached)


def test_airflow_finds_a_job_by_its_names_starts_it_and_waits(airflow: dict[str, Any]) -> None:
    assert airflow["started"]["trigger"]["cause"] == "from Airflow"
    assert airflow["started"]["trigger"]["threads_override"] == 8
    assert airflow["started"]["job_id"] == airflow["job"]
    assert airflow["waited"] is True
    assert airflow["finished"]["status"] == 10
    assert [step["name"] for step in airflow["finished"]["run_steps"]][3:] == [
        "Invoke dbt with `dbt run`",
        "Invoke dbt with `dbt docs generate`",
    ]


def test_airflow_reads_the_artifacts(airflow: dict[str, Any]) -> None:
    assert airflow["artifacts"] == ["manifest.json", "run_results.json", "catalog.json"]
    assert airflow["contents"] == ["manifest.json", "run_results.json"]


def test_airflow_polls_asynchronously_as_its_trigger_does(airflow: dict[str, Any]) -> None:
    assert airflow["status, asynchronously"] == 10
    assert airflow["cause, asynchronously"] == "from Airflow"


def test_airflow_sees_a_failure_and_retries_from_it(airflow: dict[str, Any]) -> None:
    assert "reached terminal status ERROR" in airflow["failure"]
    assert (airflow["retried"], airflow["retry waited"]) == (True, True)


def test_airflow_cancels_a_running_run_and_finds_it_among_the_live_ones(airflow: dict[str, Any]) -> None:
    assert (airflow["live"], airflow["cancel waited"]) == ([True], True)


def test_airflow_pages_through_runs_and_tests_its_connection(airflow: dict[str, Any]) -> None:
    assert airflow["listed"] >= 4
    assert airflow["unknown run"].startswith("404")
    assert airflow["connection"] == [True, "Successfully connected to dbt Cloud."]


def test_dbtc_starts_lists_retries_and_cancels(dbtc: dict[str, Any]) -> None:
    assert dbtc["jobs"] == ["broken build", "daily build", "endless build", "flaky build"]
    assert "from dbtc" in dbtc["live"]
    assert (dbtc["finished"], dbtc["failed"]) == (10, 20)
    assert (dbtc["retried"], dbtc["cancelled"]) == (True, True)
    assert dbtc["latest"] == dbtc["started"]


def test_dbtc_reads_artifacts(dbtc: dict[str, Any]) -> None:
    assert dbtc["artifacts"] == ["manifest.json", "run_results.json"]
    assert {result["status"] for result in dbtc["results"]} == {"success"}
