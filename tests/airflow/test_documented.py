"""The documented DAGs, all at once, as one team's Airflow would run them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import pytest_asyncio

from tests.airflow.rig import Rig
from tests.airflow.tiers import chosen, thorough
from tests.stack import until

pytestmark = pytest.mark.asyncio(loop_scope="session")

JOBS_OF_THE_LOOP = (111, 222, 333)
Started = dict[str, str]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def started(rig: Rig, request: pytest.FixtureRequest) -> Started:
    """DAG run ids by DAG: they begin side by side, each test ends the dbt runs of its own."""
    return {dag_id: await rig.airflow.trigger(dag_id) for dag_id in chosen(request, "run")}


@pytest.fixture
def run(request: pytest.FixtureRequest, started: Started) -> str:
    """The id of the DAG run that a test looks at."""
    return started[request.param]


def of(dag_id: str) -> pytest.MarkDecorator:
    """The DAG of which a test gets a run."""
    return pytest.mark.parametrize("run", [dag_id], indirect=True)


@of("single")
async def test_a_single_job_gives_what_the_provider_gives(rig: Rig, run: str) -> None:
    await rig.airflow.until_all("single", run, "deferred", 1)
    await rig.finish("single", run)
    await rig.airflow.until_state("single", run, "run_dbt_job", "success")
    (dbt,) = await rig.dbt_runs("single", run)
    (item,) = await rig.objects("single", run)
    desk, url = rig.airflow.desk, item["status"]["url"]
    assert await desk.xcom("single", run, "run_dbt_job") == dbt["id"]
    assert await desk.xcom("single", run, "run_dbt_job", "job_run_id") == dbt["id"]
    assert await desk.xcom("single", run, "run_dbt_job", "job_run_url") == url
    assert await desk.links("single", run, "run_dbt_job") == {"Monitor Job Run": url}


@of("sensed")
async def test_a_sensor_follows_the_run_that_another_task_started(rig: Rig, run: str) -> None:
    await rig.airflow.until_state("sensed", run, "monitor_dbt_job", "deferred")
    await rig.finish("sensed", run)
    assert await rig.airflow.until_run("sensed", run) == "success"
    assert await rig.dbt_statuses("sensed", run) == [10]


@of("sensed_by_name")
async def test_a_sensor_follows_an_object_in_every_mode(rig: Rig, run: str) -> None:
    desk = rig.airflow.desk
    for task, state in {"poked": "running", "rescheduled": "up_for_reschedule", "deferred": "deferred"}.items():
        await rig.airflow.until_state("sensed_by_name", run, task, state)
    await rig.finish("sensed_by_name", run)
    assert await rig.airflow.until_run("sensed_by_name", run) == "success"
    (dbt,) = await rig.dbt_runs("sensed_by_name", run)
    told = [await desk.xcom("sensed_by_name", run, task) for task in ("poked", "rescheduled", "deferred")]
    assert told == [dbt["id"]] * 3


@of("files")
async def test_a_file_of_the_run_is_on_the_workers_disk_for_the_next_task(rig: Rig, run: str) -> None:
    await rig.airflow.until_state("files", run, "build", "deferred")
    await rig.finish("files", run)
    await rig.airflow.until_state("files", run, "results", "success")
    (dbt,) = await rig.dbt_runs("files", run)
    written = Path(await rig.airflow.desk.xcom("files", run, "results"))
    assert written == Path(rig.airflow.env["DBTRUN_TEST_FOLDER"]) / "run_results.json"
    assert await asyncio.to_thread(written.read_bytes) == await rig.stack.file(dbt["id"], "run_results.json")


@of("files")
async def test_a_task_lists_the_runs_of_its_dag(rig: Rig, run: str) -> None:
    await rig.airflow.until_state("files", run, "listed", "success")
    (dbt,) = await rig.dbt_runs("files", run)
    (listed,) = await rig.airflow.desk.xcom("files", run, "listed")
    assert (listed["run_id"], listed["phase"]) == (dbt["id"], "Succeeded")


async def test_a_trigger_in_an_own_operator_gives_the_documented_event(rig: Rig) -> None:
    theirs = int((await rig.stack.ask("POST", "/runs", {"job_id": 111, "cause": "from the UI"}))["id"])
    run = await rig.airflow.trigger("triggered", {"run_id": theirs})
    await rig.airflow.until_all("triggered", run, "deferred", 1)
    await rig.airflow.until_settled("triggered", run)
    await rig.stack.ask("POST", f"/runs/{theirs}/finish", {"status": 10})
    await rig.airflow.until_state("triggered", run, "wait", "success")
    event = await rig.airflow.desk.xcom("triggered", run, "wait")
    assert (event["status"], event["run_id"]) == ("success", theirs)
    assert event["message"] == f"Job run {theirs} has completed successfully."
    assert event["job_run_url"].endswith(f"/runs/{theirs}/")


@of("loop")
async def test_a_loop_over_job_ids_runs_each_once(rig: Rig, run: str) -> None:
    await rig.airflow.until_all("loop", run, "deferred", 3)
    await rig.finish("loop", run)
    assert await rig.airflow.until_run("loop", run) == "success"
    assert sorted(each["job_id"] for each in await rig.dbt_runs("loop", run)) == [*JOBS_OF_THE_LOOP]


@of("intervals")
async def test_a_long_check_interval_does_not_delay_the_end(rig: Rig, run: str) -> None:
    await rig.airflow.until_all("intervals", run, "deferred", 2)
    await rig.finish("intervals", run)
    assert await rig.airflow.until_run("intervals", run) == "success"


@of("called_back")
async def test_a_failure_callback_tells_a_timeout_from_a_failure(rig: Rig, run: str) -> None:
    folder = Path(rig.airflow.env["DBTRUN_TEST_FOLDER"])
    await rig.airflow.until_state("called_back", run, "failing_job", "deferred")
    await rig.airflow.until_settled("called_back", run)
    (failing,) = (each for each in await rig.dbt_runs("called_back", run) if each["job_id"] == 111)
    await rig.stack.ask("POST", f"/runs/{failing['id']}/finish", {"status": 20})
    assert await rig.airflow.until_run("called_back", run) == "failed"

    async def told() -> dict[str, str] | None:
        files = {task: folder / f"callback-{run}-{task}" for task in ("failing_job", "late_job")}
        words = {task: file.read_text() for task, file in files.items() if file.exists()}
        return words if len(words) == 2 else None

    assert await until(told, what="both callbacks") == {"failing_job": "failure", "late_job": "timeout"}


@of("called_back")
async def test_a_wait_that_timed_out_leaves_its_run_alone(rig: Rig, run: str) -> None:
    assert await rig.airflow.until_run("called_back", run) == "failed"
    await rig.until_dbt("called_back", run, [3, 20])


@thorough
@of("ten")
async def test_ten_jobs_run_between_a_start_and_a_finish(rig: Rig, run: str) -> None:
    await rig.airflow.until_all("ten", run, "deferred", 10)
    await rig.finish("ten", run)
    assert await rig.airflow.until_run("ten", run, seconds=120) == "success"
    assert await rig.dbt_statuses("ten", run) == [10] * 10


@of("single")
async def test_airflow_never_has_a_dbt_token(rig: Rig, run: str) -> None:
    await rig.airflow.until_run("single", run)
    found = rig.airflow.holds("job_run_url")
    assert any(name.startswith("table xcom") for name in found), "the search must find what is there"
    assert not rig.airflow.holds(rig.stack.token)
