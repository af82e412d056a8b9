"""A task for each way to fail, one for each connection that cannot be used, and one whose log somebody reads."""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_trigger.failures import DbtRunException
from airflow_trigger.operator import DbtRunOperator

DEFAULTS = {"config_file": os.environ["DBTRUN_TEST_KUBECONFIG"], "namespace": os.environ["DBTRUN_TEST_NAMESPACE"]}
NAMES = ("clone", "profile", "deps", "parse", "model", "test", "freshness", "time-out")
FIRST = 501


def alert(context: Any) -> None:
    """As the documented callback; the log takes the place of a pager."""
    error = context["exception"]
    if isinstance(error, DbtRunException):
        failed = [node["unique_id"] for node in error.failures]
        told = {"run_id": error.run_id, "url": error.url, "reason": error.reason, "failed": failed}
        context["ti"].xcom_push(key="alert", value=told | {"log_lines": error.log_tail.count("\n")})


with DAG("causes", schedule=None, default_args=DEFAULTS):
    for job_id, name in enumerate(NAMES, FIRST):
        DbtRunOperator(task_id=name, job_id=job_id, deferrable=True, on_failure_callback=alert)

with DAG("mistyped", schedule=None, default_args=DEFAULTS):
    for task, connection in {"job": "no-such-connection", "refused": "refused", "opaque": "opaque"}.items():
        DbtRunOperator(task_id=task, job_id=101, connection=connection, deferrable=True)

with DAG("reading", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=103, deferrable=True, log_steps=True)
