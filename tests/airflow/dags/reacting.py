"""DAGs that react to runs which no task of theirs started."""

from __future__ import annotations

import os
from typing import Any

from airflow.providers.common.compat.sdk import DAG, BaseOperator, Context

from airflow_trigger.event_sensor import DbtRunEventSensor

CLUSTER: dict[str, Any] = {
    "namespace": os.environ["DBTRUN_TEST_NAMESPACE"],
    "config_file": os.environ["DBTRUN_TEST_KUBECONFIG"],
}

with DAG("next_run", schedule=None):
    DbtRunEventSensor(task_id="next", labels={"test": "next-run"}, poke_interval=1, **CLUSTER)

try:
    from airflow.sdk import AssetWatcher
except ImportError:
    AssetWatcher = None  # type: ignore[assignment, misc]

if AssetWatcher is not None:
    from airflow_trigger.assets import dbt_asset, new_runs
    from airflow_trigger.model_assets import DbtRunAssetsOperator

    RUNS = dbt_asset(
        name="reacting", labels={"test": "reacting"}, phases=["Succeeded", "Failed"], max_replay=2_000, **CLUSTER
    )

    class Collect(BaseOperator):
        """Returns the keys of the runs that are new."""

        def execute(self, context: Context) -> list[str]:
            return [run["key"] for run in new_runs(context)]

    with DAG("reacting", schedule=[RUNS], max_active_runs=4):
        Collect(task_id="collect", inlets=[RUNS])

    with DAG("models", schedule=None):
        DbtRunAssetsOperator(
            task_id="emit", name="{{ dag_run.conf['name'] }}", namespace_uri="postgres://warehouse:5432", **CLUSTER
        )
