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


async def test_of_many_mapped_tasks_each_starts_one_run_though_every_fourth_is_killed_twice(rig: Rig) -> None:
    """They wait on one watch; a killed one dies before it is deferred, and again when it is resumed."""
    killed = range(0, rig.size, 4)
    failing = killed[-2:]
    ends = [20 if index in failing else 10 for index in range(rig.size)]
    run = await rig.airflow.trigger("mapped")
    async with rig.airflow.reading("killed.py"):
        await rig.airflow.until_all("mapped", run, "deferred", rig.size)
        await rig.until_dbt("mapped", run, [3] * rig.size)
        assert await rig.watches() == 1
        await rig.finish("mapped", run, *ends)
        await rig.airflow.until_run("mapped", run, seconds=280)
    assert kills(rig, "mapped") == {"1": len(killed), "2": len(killed)}
    assert await rig.dbt_statuses("mapped", run) == sorted(ends)
    states = {task["map_index"]: task["state"] for task in rig.airflow.tasks("mapped", run)}
    assert states == {index: "success" if status == 10 else "failed" for index, status in enumerate(ends)}


async def test_a_kill_of_a_worker_that_waits_leaves_its_run_to_the_retry(rig: Rig) -> None:
    run = await rig.waiting("killed_in_worker", "running")
    os.kill(rig.airflow.task("killed_in_worker", run, "job")["pid"], signal.SIGKILL)
    await rig.airflow.until_state("killed_in_worker", run, "job", "running", tries=2)
    await rig.finish("killed_in_worker", run)
    await rig.airflow.until_state("killed_in_worker", run, "job", "success", tries=2)
    assert await rig.dbt_statuses("killed_in_worker", run) == [10]
