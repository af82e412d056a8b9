"""The documented DAGs, with only the import lines and the class names changed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, BaseOperator, Context
from airflow.providers.standard.operators.empty import EmptyOperator

from airflow_trigger.operator import DbtRunOperator
from airflow_trigger.trigger import DbtRunTrigger

FOLDER = Path(os.environ["DBTRUN_TEST_FOLDER"])
CLUSTER = {"kubernetes_conn_id": "kubernetes_default"}
"""Where the cluster is. With Airflow in it, nobody needs this."""
ENDLESS = 103

with DAG("single", schedule=None, default_args=CLUSTER):
    DbtRunOperator(task_id="run_dbt_job", job_id=12345, deferrable=True, timeout=7200, check_interval=300)


class WaitForRun(BaseOperator):
    """An operator of the user's own around the trigger."""

    template_fields = ("run_id",)

    def __init__(self, *, run_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id

    def execute(self, context: Context) -> None:
        self.defer(
            trigger=DbtRunTrigger(
                conn_id="dbt_cloud_default",
                run_id=int(self.run_id),
                end_time=time.time() + 3600,
                poll_interval=60,
                account_id=70403103922125,
                # A triggerer in the cluster needs neither.
                namespace=os.environ["DBTRUN_TEST_NAMESPACE"],
                config_file=os.environ["DBTRUN_TEST_KUBECONFIG"],
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        return event


with DAG("triggered", schedule=None):
    WaitForRun(task_id="wait", run_id="{{ dag_run.conf['run_id'] }}")

with DAG("loop", schedule=None, default_args=CLUSTER):
    for job_id in [111, 222, 333]:
        DbtRunOperator(task_id=f"run_job_{job_id}", job_id=job_id, deferrable=True, wait_for_termination=True)

with DAG("intervals", schedule=None, default_args=CLUSTER):
    DbtRunOperator(task_id="fast_job", job_id=111, deferrable=True, check_interval=30, timeout=1800)
    DbtRunOperator(task_id="slow_job", job_id=222, deferrable=True, check_interval=600, timeout=28800)


def tell_timeout_from_failure(context: Context) -> None:
    """Writes down what the documentation's callback would tell people."""
    kind = "timeout" if "timeout" in str(context["exception"]).lower() else "failure"
    task = context["task_instance"]
    (FOLDER / f"callback-{task.run_id}-{task.task_id}").write_text(kind)


with DAG("called_back", schedule=None, default_args=CLUSTER):
    # The failing one as documented; the late one as documented but for the time that a test can wait.
    DbtRunOperator(
        task_id="failing_job",
        job_id=111,
        deferrable=True,
        timeout=43200,
        on_failure_callback=tell_timeout_from_failure,
    )
    DbtRunOperator(
        task_id="late_job", job_id=222, deferrable=True, timeout=15, on_failure_callback=tell_timeout_from_failure
    )

with DAG("ten", schedule=None, default_args=CLUSTER):
    begin, finish = EmptyOperator(task_id="start"), EmptyOperator(task_id="finish")
    for number in range(10):
        begin >> DbtRunOperator(task_id=f"job_{number}", job_id=333, deferrable=True) >> finish
