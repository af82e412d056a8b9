"""The documented fan-out: ten jobs between a start and a finish. One of them can be caught before it defers."""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Context, TaskDeferred
from airflow.providers.standard.operators.empty import EmptyOperator

from airflow_trigger.operator import DbtRunOperator


class HeldOperator(DbtRunOperator):
    """Its first try stays between creating its DbtRun and deferring until somebody ends its pod.

    The pod's name is the XCom `held`.
    """

    def execute(self, context: Context) -> int | None:
        try:
            return super().execute(context)
        except TaskDeferred:
            if context["ti"].try_number == 1:
                context["ti"].xcom_push(key="held", value=socket.gethostname())
                time.sleep(3600)
            raise


def job(number: int) -> DbtRunOperator:
    """A task of the fan-out. Only the held one has a second try, for it loses its first."""
    held: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(seconds=1)}
    operator, more = (HeldOperator, held) if number == 0 else (DbtRunOperator, {})
    return operator(task_id=f"job_{number}", job_id=333, deferrable=True, **more)


with DAG("ten", schedule=None):
    begin, finish = EmptyOperator(task_id="start"), EmptyOperator(task_id="finish")
    for number in range(10):
        begin >> job(number) >> finish
