"""A task that waits for a DbtRun which is there already, by the trigger alone."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from airflow.providers.common.compat.sdk import DAG, AirflowException, BaseOperator, Context

from airflow_trigger.trigger import DbtRunTrigger


class WaitFor(BaseOperator):
    """Defers until the DbtRun `name` is over."""

    template_fields = ("name",)

    def __init__(self, *, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name

    def execute(self, context: Context) -> None:
        trigger = DbtRunTrigger(
            end_time=time.time() + 3600,
            name=self.name,
            namespace=os.environ["DBTRUN_TEST_NAMESPACE"],
            config_file=os.environ["DBTRUN_TEST_KUBECONFIG"],
        )
        self.defer(trigger=trigger, method_name="done")

    def done(self, context: Context, event: dict[str, Any]) -> int:
        if event["status"] != "success":
            raise AirflowException(event["message"])
        ours = sorted(name for name in sys.modules if name.partition(".")[0] == "watcher")
        if ours:
            raise AirflowException(f"Airflow has imported {ours}")
        return int(event["run_id"])


with DAG("smoke", schedule=None):
    WaitFor(task_id="wait", name="{{ dag_run.conf['name'] }}")
