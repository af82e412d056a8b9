"""Who stops a task stops its dbt run, as far as the framework allows; docs/airflow.md has the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import psutil
import pytest
import pytest_asyncio

from tests.airflow.desk import Desk
from tests.airflow.rig import Rig
from tests.airflow.tiers import chosen
from tests.stack import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

CANCELLED = 30
DEFERRED = ("endless", "deferred")
ON_A_WORKER = ("endless_in_worker", "running")
ONCE_ON_A_WORKER = ("once_in_worker", "running")


def places(*where: tuple[str, str]) -> pytest.MarkDecorator:
    """A DAG whose task is deferred, and one whose task waits on a worker, with the state of each."""
    return pytest.mark.parametrize(("dag_id", "state"), where, ids=["deferred", "on a worker"])


Act = Callable[[Desk, str, str], Awaitable[None]]
ACTS: dict[str, Act] = {
    "marked failed": lambda desk, dag_id, run: desk.mark(dag_id, run, "job", "failed"),
    "marked success": lambda desk, dag_id, run: desk.mark(dag_id, run, "job", "success"),
    "marked skipped": lambda desk, dag_id, run: desk.mark(dag_id, run, "job", "skipped"),
    "DAG run marked failed": lambda desk, dag_id, run: desk.mark_run(dag_id, run, "failed"),
    "DAG run marked success": lambda desk, dag_id, run: desk.mark_run(dag_id, run, "success"),
}
LIMITS = (
    "limited",
    "limited_left_alone",
    "limited_in_worker",
    "limited_dag_run",
    "limited_dag_run_in_worker",
    "late_in_worker",
)
Runs = dict[str, str]
EACH_ACT = pytest.mark.parametrize("act", ACTS)


async def ended(rig: Rig, acts: list[str], dag_id: str, state: str) -> Runs:
    """DAG run ids by what was done to each: done side by side, each test looks at its own."""
    runs = dict(zip(acts, await rig.waiting_together(dag_id, len(acts), state), strict=True))
    for act, run in runs.items():
        await ACTS[act](rig.airflow.desk, dag_id, run)
    return runs


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def limited(rig: Rig, request: pytest.FixtureRequest) -> Runs:
    """DAG run ids by DAG: begun first, their times run beside the other tests."""
    return {dag_id: await rig.airflow.trigger(dag_id) for dag_id in chosen(request, "dag_id") if dag_id in LIMITS}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ended_deferred(rig: Rig, request: pytest.FixtureRequest, limited: Runs) -> Runs:
    return await ended(rig, chosen(request, "act", "a_deferred_task_that_is_ended"), *DEFERRED)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ended_on_a_worker(rig: Rig, request: pytest.FixtureRequest, limited: Runs) -> Runs:
    return await ended(rig, chosen(request, "act", "a_task_on_a_worker_that_is_ended"), *ON_A_WORKER)


@EACH_ACT
async def test_a_deferred_task_that_is_ended_cancels_its_run(rig: Rig, ended_deferred: Runs, act: str) -> None:
    await rig.until_dbt("endless", ended_deferred[act], [CANCELLED])


@EACH_ACT
async def test_a_task_on_a_worker_that_is_ended_cancels_its_run(rig: Rig, ended_on_a_worker: Runs, act: str) -> None:
    await rig.until_dbt("endless_in_worker", ended_on_a_worker[act], [CANCELLED])


async def clear_until_deferred(rig: Rig, run: str) -> None:
    """Airflow 2 fails a try that begins just as its triggerer forgets the last one's trigger: it is cleared again."""
    for number in range(2, 5):
        await rig.airflow.desk.clear("endless", run, "job")
        if await rig.airflow.until_state("endless", run, "job", "deferred", "failed", tries=number) == "deferred":
            return
        assert "task_instance_trigger_id_fkey" in rig.airflow.log("endless", run, "job")
    raise AssertionError("never deferred")


async def test_a_cleared_deferred_task_has_one_live_run_its_own_or_a_new_one(rig: Rig) -> None:
    """Its first run is cancelled, unless the second try was quicker and took it over; never both."""
    run = await rig.waiting("endless")

    async def none_is_being_cancelled() -> bool:
        objects = await rig.objects("endless", run)
        return all("completionTime" in item["status"] for item in objects if item["spec"].get("cancel"))

    await clear_until_deferred(rig, run)
    # A second try that was slower is deferred until the first run is over, and that one runs until then.
    await until(none_is_being_cancelled, 60, "the end of what is being cancelled", pause=0.3)
    await rig.until_dbt("endless", run, [3], [3, CANCELLED])
    await rig.finish("endless", run)
    await rig.airflow.until_state("endless", run, "job", "success", tries=2)
    assert await rig.dbt_statuses("endless", run) in ([10], [10, CANCELLED])


async def test_a_cleared_task_on_a_worker_cancels_its_run_and_starts_a_new_one(rig: Rig) -> None:
    dag_id, state = ON_A_WORKER
    run = await rig.waiting(dag_id, state)
    await rig.airflow.desk.clear(dag_id, run, "job")
    await rig.until_dbt(dag_id, run, [3, CANCELLED])
    await rig.finish(dag_id, run)
    await rig.airflow.until_state(dag_id, run, "job", "success", tries=2)


async def test_a_deferred_task_told_to_leave_its_run_alone_does(rig: Rig) -> None:
    run = await rig.waiting("endless_left_alone")
    triggerer = await rig.airflow.until_triggerer("endless_left_alone", run)
    await rig.airflow.desk.mark("endless_left_alone", run, "job", "failed")
    await rig.airflow.until_beats(triggerer)
    assert await rig.dbt_statuses("endless_left_alone", run) == [3]
    await rig.finish("endless_left_alone", run)


async def test_a_task_on_a_worker_told_to_leave_its_run_alone_does(rig: Rig) -> None:
    dag_id = "endless_left_alone_in_worker"
    run = await rig.waiting(dag_id, "running")
    pid = rig.airflow.task(dag_id, run, "job")["pid"]
    await rig.airflow.desk.mark(dag_id, run, "job", "failed")

    async def gone() -> bool:
        return not psutil.pid_exists(pid)

    await until(gone, 60, f"the task's process {pid} gone")
    assert await rig.dbt_statuses(dag_id, run) == [3]
    await rig.finish(dag_id, run)


@pytest.mark.parametrize("dag_id", ["limited", "limited_in_worker"])
async def test_execution_timeout_cancels_the_run(rig: Rig, limited: Runs, dag_id: str) -> None:
    await rig.airflow.until_state(dag_id, limited[dag_id], "job", "failed", "up_for_retry")
    await rig.until_dbt(dag_id, limited[dag_id], [CANCELLED])


@pytest.mark.parametrize("dag_id", ["limited_dag_run", "limited_dag_run_in_worker"])
async def test_dagrun_timeout_cancels_the_run(rig: Rig, limited: Runs, dag_id: str) -> None:
    await rig.until_dbt(dag_id, limited[dag_id], [CANCELLED])


@pytest.mark.parametrize("dag_id", ["late_in_worker", "limited_left_alone"])
async def test_a_time_out_that_may_not_cancel_leaves_the_run_alone(rig: Rig, limited: Runs, dag_id: str) -> None:
    await rig.airflow.until_state(dag_id, limited[dag_id], "job", "failed")
    assert await rig.dbt_statuses(dag_id, limited[dag_id]) == [3]


@places(DEFERRED, ONCE_ON_A_WORKER)
async def test_an_object_deleted_under_its_task_is_cancelled_and_fails_it(rig: Rig, dag_id: str, state: str) -> None:
    run = await rig.waiting(dag_id, state)
    (item,) = await rig.objects(dag_id, run)
    (dbt,) = await rig.dbt_runs(dag_id, run)
    await rig.stack.delete(item["metadata"]["name"])
    await rig.airflow.until_state(dag_id, run, "job", "failed")
    assert "deleted" in rig.airflow.log(dag_id, run, "job").lower()
    statuses = {each["id"]: each["status"] for each in await rig.stack.runs("endless")}
    assert statuses[dbt["id"]] == CANCELLED


@places(DEFERRED, ON_A_WORKER)
async def test_a_dag_run_that_is_deleted_cancels_the_runs_of_its_tasks(rig: Rig, dag_id: str, state: str) -> None:
    run = await rig.waiting(dag_id, state)
    await rig.airflow.desk.delete_run(dag_id, run)
    await rig.until_dbt(dag_id, run, [CANCELLED])
    assert not rig.airflow.tasks(dag_id, run)
    rig.airflow.keep("scheduler")
