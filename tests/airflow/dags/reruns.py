"""DAGs whose tasks are run again, each in one of the ways that Airflow has. Their dbt runs end by themselves."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

try:
    from airflow.sdk import task
except ImportError:
    from airflow.decorators import task  # type: ignore[attr-defined,no-redef]

from airflow_trigger.operator import DbtRunOperator

FOLDER = Path(os.environ["DBTRUN_TEST_FOLDER"])
SUCCESS, FAILURE = 101, 102
DEFAULTS = {
    "config_file": os.environ["DBTRUN_TEST_KUBECONFIG"],
    "namespace": os.environ["DBTRUN_TEST_NAMESPACE"],
    "retry_delay": timedelta(seconds=0.1),
}
START = datetime(2026, 1, 1, tzinfo=UTC)
DAILY: dict[str, Any] = {"schedule": "@daily", "start_date": START, "catchup": True, "is_paused_upon_creation": True}
"""Scheduled runs begin when a test wants them."""
SHAPE = FOLDER / "shape.json"
"""What a test changes in the DAGs: `retries` by DAG, and `length` of what is mapped."""


def shape(key: str, otherwise: int) -> int:
    """As the file says now."""
    return int(json.loads(SHAPE.read_text()).get(key, otherwise)) if SHAPE.exists() else otherwise


for name in ("cleared", "run_cleared", "created_again", "reset", "deleted"):
    with DAG(f"rerun_{name}", schedule=None, default_args=DEFAULTS):
        DbtRunOperator(task_id="job", job_id=SUCCESS, deferrable=False)

with DAG("rerun_deferred", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=SUCCESS, deferrable=True)

with DAG("rerun_not_waited_for", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=SUCCESS, wait_for_termination=False)

for name, before in (("raised", 1), ("lowered", 2), ("set_to_0", 1)):
    with DAG(f"rerun_{name}", schedule=None, default_args=DEFAULTS):
        DbtRunOperator(task_id="job", job_id=SUCCESS, deferrable=False, retries=shape(name, before))

with DAG("rerun_failed", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=FAILURE, deferrable=False, retries=1)

with DAG("rerun_downstream", schedule=None, default_args=DEFAULTS):
    first = DbtRunOperator(task_id="first", job_id=SUCCESS, deferrable=False)
    job = DbtRunOperator(task_id="job", job_id=SUCCESS, deferrable=False)
    last = DbtRunOperator(task_id="last", job_id=SUCCESS, deferrable=False)
    first >> job >> last

with DAG("rerun_by_date", **DAILY, end_date=START + timedelta(days=2), default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=SUCCESS, deferrable=False)

with DAG("rerun_caught_up", **DAILY, end_date=START + timedelta(days=1), default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=SUCCESS, deferrable=False)

with DAG("rerun_backfilled", **{**DAILY, "catchup": False}, end_date=START, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=SUCCESS, deferrable=False)

with DAG("rerun_reset_parent", schedule=None):
    TriggerDagRunOperator(
        task_id="go",
        trigger_dag_id="rerun_reset",
        trigger_run_id="again",
        reset_dag_run=True,
        wait_for_completion=True,
        poke_interval=2,
    )

with DAG("rerun_mapped", schedule=None, default_args=DEFAULTS):

    @task
    def lengths() -> list[int]:
        return [SUCCESS] * shape("length", 3)

    DbtRunOperator.partial(task_id="job", deferrable=False).expand(job_id=lengths())

with DAG("rerun_torn_down", schedule=None, default_args=DEFAULTS):
    up = DbtRunOperator(task_id="up", job_id=SUCCESS, deferrable=False).as_setup()  # type: ignore[no-untyped-call]
    work = EmptyOperator(task_id="work")
    down = DbtRunOperator(task_id="down", job_id=SUCCESS, deferrable=False).as_teardown(setups=up)
    up >> work >> down

with DAG("burst", schedule=None, default_args=DEFAULTS | {"retries": 0}):
    DbtRunOperator.partial(task_id="job", deferrable=True).expand(job_id=[SUCCESS, 105] * 6)
