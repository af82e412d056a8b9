"""Many mapped tasks, of which workers are killed at the worst instants: before they defer, and on resuming."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DAG, Context, TaskDeferred

from airflow_trigger.operator import DbtRunOperator

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(os.environ["DBTRUN_TEST_FOLDER"])
ENDLESS = 103
SIZE = int(os.environ["DBTRUN_TEST_SIZE"])
KILLED = SIZE // 4
DEFAULTS = {
    "config_file": os.environ["DBTRUN_TEST_KUBECONFIG"],
    "namespace": os.environ["DBTRUN_TEST_NAMESPACE"],
    # The third try is the last: with one more, a failed run would be run again, as a retry should.
    "retries": 2,
    "retry_delay": timedelta(seconds=0.1),
}


class KilledOperator(DbtRunOperator):
    """Its process gets kill -9 in the first try before it is deferred, in the second when it is resumed."""

    def execute(self, context: Context) -> int | None:
        try:
            return super().execute(context)
        except TaskDeferred:
            die_in_try(1, context)
            raise

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> int | None:
        die_in_try(2, context)
        return super().execute_complete(context, event)


def die_in_try(number: int, context: Context) -> None:
    """Writes down whose process ends, and ends it as the kernel would."""
    task = context["ti"]
    if task.try_number != number:
        return
    (FOLDER / f"kill-{task.dag_id}-{task.task_id}-{task.map_index}-{task.try_number}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


with DAG("mapped", schedule=None, default_args=DEFAULTS):
    DbtRunOperator.partial(task_id="job", deferrable=True).expand(job_id=[ENDLESS] * (SIZE - KILLED))
    KilledOperator.partial(task_id="killed", deferrable=True).expand(job_id=[ENDLESS] * KILLED)

with DAG("killed_in_worker", schedule=None, default_args=DEFAULTS):
    DbtRunOperator(task_id="job", job_id=ENDLESS, deferrable=False)
