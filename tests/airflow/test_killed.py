"""kill -9 of a task's process at the worst instants: dbt Cloud sees one run, Airflow its true end."""

from __future__ import annotations

import os
import signal
from collections import Counter
from operator import itemgetter
from pathlib import Path

import pytest

from tests.airflow.rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="session")


def kills(rig: Rig, dag_id: str) -> Counter[str]:
    """How many processes of the DAG were killed, by the try."""
    folder = Path(rig.airflow.env["DBTRUN_TEST_FOLDER"])
    return Counter(path.name.rpartition("-")[2] for path in folder.glob(f"kill-{dag_id}-*"))


async def test_of_many_mapped_tasks_each_starts_one_run_though_a_quarter_is_killed_twice(rig: Rig) -> None:
    """They wait on one watch; a killed one dies before it is deferred, and again when it is resumed."""
    killed = rig.size // 4
    ends = [*[10] * (rig.size - 2), 20, 20]
    run = await rig.airflow.trigger("mapped")
    async with rig.airflow.reading("killed.py"):
        await rig.airflow.until_all("mapped", run, "deferred", rig.size)
        await rig.until_dbt("mapped", run, [3] * rig.size)
        assert await rig.watches() == 1
        await rig.finish("mapped", run, *ends)
        await rig.airflow.until_run("mapped", run, seconds=280)
    assert kills(rig, "mapped") == {"1": killed, "2": killed}
    assert await rig.dbt_statuses("mapped", run) == sorted(ends)
    tasks = sorted(rig.airflow.tasks("mapped", run), key=itemgetter("task_id", "map_index"))
    assert [task["state"] for task in tasks] == ["success" if status == 10 else "failed" for status in ends]


async def test_a_kill_of_a_worker_that_waits_leaves_its_run_to_the_retry(rig: Rig) -> None:
    run = await rig.waiting("killed_in_worker", "running")
    os.kill(rig.airflow.task("killed_in_worker", run, "job")["pid"], signal.SIGKILL)
    await rig.airflow.until_state("killed_in_worker", run, "job", "running", tries=2)
    await rig.finish("killed_in_worker", run)
    await rig.airflow.until_state("killed_in_worker", run, "job", "success", tries=2)
    assert await rig.dbt_statuses("killed_in_worker", run) == [10]
