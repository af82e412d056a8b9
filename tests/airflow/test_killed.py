"""kill -9 of a task's process at the worst instants: dbt Cloud sees one run, Airflow its true end."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.airflow.rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="session")


def kills(rig: Rig, dag_id: str) -> Counter[str]:
    """How many processes of the DAG were killed, by the try."""
    folder = Path(rig.airflow.env["DBTRUN_TEST_FOLDER"])
    return Counter(path.name.rpartition("-")[2] for path in folder.glob(f"kill-{dag_id}-*"))


async def test_kills_start_no_second_run_and_every_task_ends_as_dbt_did(rig: Rig) -> None:
    """Each of many tasks dies before it is deferred, and again when it is resumed."""
    tasks = rig.size // 4
    run = await rig.airflow.trigger("killed")
    ends = [10] * (tasks - 2) + [20] * 2
    async with rig.airflow.reading("killed.py"):
        await rig.airflow.until_all("killed", run, "deferred", tasks, tries=2)
        await rig.finish("killed", run, *ends)
        await rig.airflow.until_run("killed", run, seconds=280)
    assert kills(rig, "killed") == {"1": tasks, "2": tasks}
    assert await rig.dbt_statuses("killed", run) == ends
    states = {task["map_index"]: task["state"] for task in rig.airflow.tasks("killed", run)}
    assert states == {index: "success" if status == 10 else "failed" for index, status in enumerate(ends)}


async def test_a_kill_of_a_worker_that_waits_leaves_its_run_to_the_retry(rig: Rig) -> None:
    run = await rig.waiting("killed_in_worker", "running")
    os.kill(rig.airflow.task("killed_in_worker", run, "job")["pid"], signal.SIGKILL)
    await rig.airflow.until_state("killed_in_worker", run, "job", "running", tries=2)
    await rig.finish("killed_in_worker", run)
    await rig.airflow.until_state("killed_in_worker", run, "job", "success", tries=2)
    assert await rig.dbt_statuses("killed_in_worker", run) == [10]
