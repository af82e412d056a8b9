"""The documented fan-out on an Airflow in pods, while a worker and then the triggerer are lost."""

from __future__ import annotations

import time

import pytest

from tests.node.airflow.rig import PATIENCE_SECONDS, Rig

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(4 * PATIENCE_SECONDS)]

JOBS = [f"job_{number}" for number in range(10)]
LOST, FAILING = "job_0", "job_9"
"""The task whose worker is lost, and the one whose dbt Cloud run fails."""
RUNNING, SUCCEEDED, FAILED = 3, 10, 20


async def test_ten_jobs_end_as_their_runs_do_though_a_worker_and_the_triggerer_are_lost(rig: Rig) -> None:
    began, airflow = time.monotonic(), rig.airflow

    def tell(what: str) -> None:
        print(f"after {time.monotonic() - began:.0f} s: {what}")

    run = await airflow.trigger("ten")
    await rig.delete_worker(await rig.held("ten", run, LOST))
    tell("the worker is deleted that has created its DbtRun and not deferred")
    await airflow.until_all("ten", run, "deferred", len(JOBS), seconds=PATIENCE_SECONDS)
    await rig.until_dbt("ten", run, [RUNNING] * len(JOBS), seconds=PATIENCE_SECONDS)
    await rig.until_watched("ten", run, len(JOBS))
    await airflow.until_settled("ten", run, seconds=PATIENCE_SECONDS)
    tell("all ten are deferred, and ten dbt runs are live")

    async with rig.without_triggerer():
        tell("the triggerer's pod is gone, with the watcher in it")
        await rig.end("ten", run, dict.fromkeys(JOBS[1:5], SUCCEEDED))
    tell("its successor runs, with a watcher")
    await rig.end("ten", run, dict.fromkeys([LOST, *JOBS[5:9]], SUCCEEDED) | {FAILING: FAILED})
    await airflow.until_run("ten", run, seconds=PATIENCE_SECONDS)
    tell("the DAG run is over")

    tasks = {row["task_id"]: (row["state"], row["try_number"]) for row in airflow.tasks("ten", run)}
    assert {job: tasks[job] for job in JOBS} == (
        dict.fromkeys(JOBS, ("success", 1)) | {LOST: ("success", 2), FAILING: ("failed", 1)}
    )
    assert await rig.dbt_statuses("ten", run) == [SUCCEEDED] * 9 + [FAILED], "one dbt run for each task"
    assert len(await rig.beside.runs()) == len(JOBS), "and no other"
