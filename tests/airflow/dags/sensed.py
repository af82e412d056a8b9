"""Sensors: in the documented DAG, with only the import lines and the class names changed, and in every mode."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_trigger.operator import DbtRunOperator
from airflow_trigger.sensor import DbtRunSensor

CLUSTER = {"kubernetes_conn_id": "kubernetes_default"}
"""Where the cluster is. With Airflow in it, nobody needs this."""

with DAG("sensed", schedule=None, default_args=CLUSTER):
    start = DbtRunOperator(task_id="start_job", job_id=12345, wait_for_termination=False)
    monitor = DbtRunSensor(
        task_id="monitor_dbt_job",
        run_id="{{ task_instance.xcom_pull(task_ids='start_job') }}",
        deferrable=True,
        timeout=14400,
        poke_interval=180,
    )
    start >> monitor

with DAG("sensed_by_name", schedule=None, default_args=CLUSTER):
    begin = DbtRunOperator(task_id="begin", job_id=12345, wait_for_termination=False)
    name = "{{ task_instance.xcom_pull(task_ids='begin', key='dbtrun_name') }}"
    begin >> DbtRunSensor(task_id="poked", name=name, mode="poke", poke_interval=2)
    begin >> DbtRunSensor(task_id="rescheduled", name=name, mode="reschedule", poke_interval=5)
    begin >> DbtRunSensor(task_id="deferred", name=name, deferrable=True)
