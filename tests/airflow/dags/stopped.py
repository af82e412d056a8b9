"""Tasks that wait for an endless run until somebody ends them."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_trigger.operator import DbtRunOperator

ENDLESS = 103
DEFAULTS = {
    "config_file": os.environ["DBTRUN_TEST_KUBECONFIG"],
    "namespace": os.environ["DBTRUN_TEST_NAMESPACE"],
    # Airflow 2 lets a task that was cleared on its worker wait as long as one that failed.
    "retry_delay": timedelta(seconds=0.1),
}

with DAG("endless", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=True)

# A retry would take over what is not cancelled.
with DAG("endless_in_worker", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=False, retries=1)

with DAG("once_in_worker", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=False)

with DAG("endless_left_alone", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=True, cancel_on_kill=False)

with DAG("endless_left_alone_in_worker", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=False, cancel_on_kill=False)

with DAG("limited", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=True, execution_timeout=timedelta(seconds=20))

with DAG("limited_left_alone", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(
        task_id="job",
        job_id=ENDLESS,
        deferrable=True,
        execution_timeout=timedelta(seconds=20),
        cancel_on_kill=False,
    )

with DAG("limited_in_worker", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(
        task_id="job",
        job_id=ENDLESS,
        deferrable=False,
        execution_timeout=timedelta(seconds=20),
        retries=1,
        # Later than the test looks.
        retry_delay=timedelta(hours=1),
        # By default the watcher would cancel at the same time.
        active_deadline=timedelta(hours=1),
    )

with DAG("limited_dag_run", schedule=None, default_args=DEFAULTS, dagrun_timeout=timedelta(seconds=60)):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=True)

with DAG("limited_dag_run_in_worker", schedule=None, default_args=DEFAULTS, dagrun_timeout=timedelta(seconds=60)):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=False, retries=1)

with DAG("late_in_worker", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=False, timeout=15)
