"""What a task after the run does with it: read a file of it, list it."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from airflow_trigger.artifacts import DbtRunArtifactOperator
from airflow_trigger.listing import DbtRunListOperator
from airflow_trigger.operator import DbtRunOperator

FOLDER = Path(os.environ["DBTRUN_TEST_FOLDER"])
CLUSTER = {"kubernetes_conn_id": "kubernetes_default"}

with DAG("files", schedule=None, default_args=CLUSTER):
    build = DbtRunOperator(task_id="build", job_id=12345, deferrable=True, artifacts=["run_results.json"])
    build >> DbtRunArtifactOperator(
        task_id="results",
        name="{{ ti.xcom_pull(task_ids='build', key='dbtrun_name') }}",
        path="run_results.json",
        output_file_name=str(FOLDER / "run_results.json"),
    )
    build >> DbtRunListOperator(task_id="listed", by_dag="files", status_filter="Succeeded")
