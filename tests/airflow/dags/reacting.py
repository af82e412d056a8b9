"""DAGs that react to runs which no task of theirs started."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from airflow.providers.common.compat.sdk import DAG, BaseOperator, Context

from airflow_trigger.event_sensor import DbtRunEventSensor

CLUSTER: dict[str, Any] = {
    "namespace": os.environ["DBTRUN_TEST_NAMESPACE"],
    "config_file": os.environ["DBTRUN_TEST_KUBECONFIG"],
}

with DAG("next_run", schedule=None):
    DbtRunEventSensor(task_id="next", labels={"test": "next-run"}, poke_interval=1, **CLUSTER)

try:
    from airflow.sdk import Asset, AssetAny, AssetWatcher
except ImportError:
    AssetWatcher = None  # type: ignore[assignment, misc]

if AssetWatcher is not None:
    from faulty_trigger import FaultyTrigger  # type: ignore[import-not-found]

    from airflow_trigger.assets import dbt_asset, new_runs
    from airflow_trigger.event_trigger import DbtRunEventTrigger
    from airflow_trigger.model_assets import DbtRunAssetsOperator

    RUNS = dbt_asset(
        name="reacting", labels={"test": "reacting"}, phases=["Succeeded", "Failed"], max_replay=2_000, **CLUSTER
    )

    class Collect(BaseOperator):
        """Returns the keys of the runs that are new."""

        def execute(self, context: Context) -> list[str]:
            return [run["key"] for run in new_runs(context)]

    with DAG("reacting", schedule=[RUNS], max_active_runs=8):
        Collect(task_id="collect", inlets=[RUNS])

    MANY = [
        dbt_asset(name=f"many-{number}", labels={"test": f"many-{number}"}, **CLUSTER)
        for number in range(int(os.environ["DBTRUN_TEST_WATCHERS"]))
    ]

    with DAG("many", schedule=AssetAny(*MANY)):
        Collect(task_id="collect")

    MODELS: dict[str, Any] = {
        "task_id": "emit",
        "name": "{{ dag_run.conf['name'] }}",
        "namespace_uri": "postgres://warehouse:5432",
        **CLUSTER,
    }

    with DAG("models", schedule=None):
        DbtRunAssetsOperator(**MODELS)

    class KilledOperator(DbtRunAssetsOperator):
        """Its process gets kill -9 at another point in each of its first four tries."""

        def execute(self, context: Context) -> list[str]:
            die_in_try(1, context)
            told = super().execute(cast("Context", {**context, "outlet_events": Deadly(context)}))
            die_in_try(4, context)
            return told

    class Deadly:
        """Airflow's accessor of a task's events, and what happens at the first and in the middle."""

        def __init__(self, context: Context) -> None:
            self._context, self._count = context, 0

        def __getitem__(self, alias: Any) -> Deadly:
            self._events = self._context["outlet_events"][alias]
            return self

        def add(self, *arguments: Any, **more: Any) -> None:
            self._events.add(*arguments, **more)
            self._count += 1
            if self._count in (1, 250):
                die_in_try(2 if self._count == 1 else 3, self._context)

    def die_in_try(number: int, context: Context) -> None:
        """Writes down whose process ends, and ends it as the kernel would."""
        task = context["ti"]
        if task.try_number == number:
            (Path(os.environ["DBTRUN_TEST_FOLDER"]) / f"kill-{task.dag_id}-{number}").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with DAG("models_killed", schedule=None, default_args={"retries": 4, "retry_delay": timedelta(seconds=0.1)}):
        KilledOperator(**MODELS)

    # `dbt_asset` would refuse the job: this stands for what only another release understands.
    UNUSABLE = DbtRunEventTrigger(asset="unusable", job_id="nonsense", of_another_release=True, **CLUSTER)

    FAULTY = FaultyTrigger(asset="faulty", labels={"test": "faulty"}, **CLUSTER)

    with DAG("faulty", schedule=[Asset("faulty", watchers=[AssetWatcher(name="dbtrun", trigger=FAULTY)])]):
        Collect(task_id="collect")

    with DAG("unusable", schedule=[Asset("unusable", watchers=[AssetWatcher(name="dbtrun", trigger=UNUSABLE)])]):
        Collect(task_id="collect")
