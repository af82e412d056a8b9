"""Who stops a task stops its dbt run, as far as the framework allows; docs/airflow.md has the table."""

from __future__ import annotations

import pytest

from tests.airflow.rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="session")

CANCELLED = 30


async def test_a_deferred_task_that_is_marked_failed_cancels_its_run(rig: Rig) -> None:
    run = await rig.waiting("endless")
    await rig.airflow.desk.mark("endless", run, "job", "failed")
    await rig.until_dbt("endless", run, [CANCELLED])


async def test_a_deferred_task_that_is_marked_successful_cancels_its_run(rig: Rig) -> None:
    run = await rig.waiting("endless")
    await rig.airflow.desk.mark("endless", run, "job", "success")
    await rig.until_dbt("endless", run, [CANCELLED])


async def test_a_dag_run_that_is_marked_failed_cancels_the_runs_of_its_tasks(rig: Rig) -> None:
    run = await rig.waiting("endless")
    await rig.airflow.desk.mark_run("endless", run, "failed")
    await rig.until_dbt("endless", run, [CANCELLED])


async def test_a_dag_run_that_is_deleted_cancels_the_runs_of_its_tasks(rig: Rig) -> None:
    run = await rig.waiting("endless")
    await rig.airflow.desk.delete_run("endless", run)
    await rig.until_dbt("endless", run, [CANCELLED])
    assert not rig.airflow.tasks("endless", run)
    rig.airflow.keep("scheduler")


async def test_a_cleared_task_has_one_live_run_its_own_or_a_new_one(rig: Rig) -> None:
    """Its first run is cancelled, unless the second try was quicker and took it over; never both."""
    run = await rig.waiting("endless")
    await rig.airflow.desk.clear("endless", run, "job")
    await rig.airflow.until_state("endless", run, "job", "deferred", tries=2)
    await rig.until_dbt("endless", run, [3], [3, CANCELLED])
    await rig.finish("endless", run)
    await rig.airflow.until_state("endless", run, "job", "success", tries=2)
    assert await rig.dbt_statuses("endless", run) in ([10], [10, CANCELLED])


async def test_a_task_cleared_after_its_end_starts_a_new_run(rig: Rig) -> None:
    run = await rig.waiting("endless")
    await rig.finish("endless", run)
    await rig.airflow.until_state("endless", run, "job", "success")
    await rig.airflow.desk.clear("endless", run, "job")
    await rig.until_dbt("endless", run, [3, 10])
    await rig.finish("endless", run)
    await rig.airflow.until_state("endless", run, "job", "success", tries=2)


async def test_a_task_told_to_leave_its_run_alone_does(rig: Rig) -> None:
    run = await rig.waiting("endless_left_alone")
    triggerer = await rig.airflow.until_triggerer("endless_left_alone", run)
    await rig.airflow.desk.mark("endless_left_alone", run, "job", "failed")
    await rig.airflow.until_beats(triggerer)
    assert await rig.dbt_statuses("endless_left_alone", run) == [3]
    await rig.finish("endless_left_alone", run)


async def test_execution_timeout_cancels_the_run_of_a_deferred_task(rig: Rig) -> None:
    run = await rig.waiting("limited")
    await rig.airflow.until_state("limited", run, "job", "failed")
    await rig.until_dbt("limited", run, [CANCELLED])


async def test_dagrun_timeout_cancels_the_runs_of_deferred_tasks(rig: Rig) -> None:
    run = await rig.airflow.trigger("limited_dag_run")
    await rig.until_dbt("limited_dag_run", run, [CANCELLED])


async def test_execution_timeout_cancels_the_run_that_a_worker_waits_for(rig: Rig) -> None:
    run = await rig.waiting("limited_in_worker", "running")
    await rig.airflow.until_state("limited_in_worker", run, "job", "failed")
    await rig.until_dbt("limited_in_worker", run, [CANCELLED])


async def test_a_task_on_a_worker_that_is_marked_failed_cancels_its_run(rig: Rig) -> None:
    run = await rig.waiting("endless_in_worker", "running")
    await rig.airflow.desk.mark("endless_in_worker", run, "job", "failed")
    await rig.until_dbt("endless_in_worker", run, [CANCELLED])
