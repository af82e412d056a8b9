"""A task whose process is killed or whose worker is told to stop: dbt Cloud sees one run, Airflow its true end."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import suppress
from operator import itemgetter
from pathlib import Path

import pytest

from tests.airflow.rig import SIZE, Rig
from tests.stack import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(1500)]


def kills(rig: Rig, dag_id: str) -> Counter[str]:
    """How many processes of the DAG were killed, by the try."""
    folder = Path(rig.airflow.env["DBTRUN_TEST_FOLDER"])
    return Counter(path.name.rpartition("-")[2] for path in folder.glob(f"kill-{dag_id}-*"))


async def test_of_many_mapped_tasks_each_starts_one_run_though_a_quarter_is_killed_twice(rig: Rig) -> None:
    """They wait on one watch; a killed one dies before it is deferred, and again when it is resumed."""
    killed = SIZE // 4
    failed = max(1, killed // 2)  # they were killed: another would be tried again
    ends = [*[10] * (SIZE - failed), *[20] * failed]
    run = await rig.airflow.trigger("mapped")
    async with rig.airflow.reading("killed.py"):
        await rig.airflow.until_all("mapped", run, "deferred", SIZE)
        await rig.until_dbt("mapped", run, [3] * SIZE)

        async def one_is_open() -> bool:
            return await rig.watches() == 1

        await until(one_is_open, 60, "all wait on one watch")
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


async def test_a_worker_that_is_told_to_stop_leaves_its_run_to_the_retry(rig: Rig) -> None:
    """As Kubernetes deletes or evicts a pod on a node that lives: SIGTERM, and SIGKILL after the grace period."""
    dag_id = "killed_in_worker"
    run = await rig.waiting(dag_id, "running")
    process = rig.airflow.task(dag_id, run, "job")["pid"]

    async def decided() -> bool:
        return "the next try attaches to it" in rig.airflow.log(dag_id, run, "job")

    rig.airflow.stop_worker_of(process)
    await until(decided, 60, "the task knows why its process ends", pause=0.2)
    with suppress(ProcessLookupError):  # Airflow 2 has ended it
        os.kill(process, signal.SIGKILL)
    await rig.airflow.until_state(dag_id, run, "job", "running", tries=2)
    await rig.finish(dag_id, run)
    await rig.airflow.until_state(dag_id, run, "job", "success", tries=2)
    assert await rig.dbt_statuses(dag_id, run) == [10]


async def test_a_worker_that_is_told_to_stop_in_the_last_try_cancels_its_run(rig: Rig) -> None:
    run = await rig.waiting("once_in_worker", "running")
    rig.airflow.stop_worker_of(rig.airflow.task("once_in_worker", run, "job")["pid"])
    await rig.airflow.until_state("once_in_worker", run, "job", "failed")
    await rig.until_dbt("once_in_worker", run, [30])
