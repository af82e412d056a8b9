"""Parts of Airflow and of Kubernetes that go away and come back: no task notices, no run is cancelled or repeated."""

from __future__ import annotations

import signal

import pytest
import pytest_asyncio

from tests.airflow.rig import Rig
from tests.airflow.tiers import BRIEF, thorough

pytestmark = pytest.mark.asyncio(loop_scope="session")

STOP_SECONDS = 180.0
"""For a triggerer on a busy machine, whose end the tests after it need."""
AWAY_SECONDS = 20.0 if BRIEF else 60.0


async def ends_well(rig: Rig, run: str) -> None:
    """The run that is still live ends, and the task with it, in its first try and with no other run."""
    assert await rig.dbt_statuses("endless", run) == [3]
    await rig.finish("endless", run)
    await rig.airflow.until_state("endless", run, "job", "success", seconds=240)
    assert await rig.dbt_statuses("endless", run) == [10]
    assert rig.airflow.task("endless", run, "job")["try_number"] == 1


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def crashed(rig: Rig) -> dict[str, str]:
    """DAG run ids by what happened while their triggerer was away, after kill -9."""
    waiting = await rig.waiting_together("endless", 3)
    runs = dict(zip(("nothing", "its run ended", "its task was marked failed"), waiting, strict=True))
    await rig.airflow.kill("triggerer")
    await rig.finish("endless", runs["its run ended"])
    await rig.airflow.desk.mark("endless", runs["its task was marked failed"], "job", "failed")
    rig.airflow.start("triggerer")
    return runs


async def test_a_triggerer_that_crashed_goes_on_waiting(rig: Rig, crashed: dict[str, str]) -> None:
    await ends_well(rig, crashed["nothing"])


async def test_a_run_that_ends_while_the_triggerer_is_away_is_not_repeated(rig: Rig, crashed: dict[str, str]) -> None:
    run = crashed["its run ended"]
    await rig.airflow.until_state("endless", run, "job", "success", seconds=240)
    assert await rig.dbt_statuses("endless", run) == [10]


async def test_a_task_that_is_ended_after_its_triggerer_was_killed_leaves_its_run_to_the_deadline(
    rig: Rig, crashed: dict[str, str]
) -> None:
    """Unless the next triggerer comes so late that it gets the trigger before Airflow throws it away: it cancels."""
    run = crashed["its task was marked failed"]
    await rig.waiting("endless")
    await rig.until_dbt("endless", run, [3], [30])
    (item,) = await rig.objects("endless", run)
    assert item["spec"]["activeDeadlineSeconds"] > 0


@thorough(2)
async def test_a_triggerer_that_is_stopped_in_peace_cancels_nothing(rig: Rig) -> None:
    run = await rig.waiting("endless")
    await rig.airflow.programs["triggerer"].stop(STOP_SECONDS)
    rig.airflow.start("triggerer")
    await ends_well(rig, run)


@thorough(2)
async def test_a_scheduler_that_crashed_goes_on(rig: Rig) -> None:
    run = await rig.waiting("endless")
    await rig.airflow.kill("scheduler")
    rig.airflow.start("scheduler")
    await ends_well(rig, run)


@thorough(2)
async def test_triggers_that_move_to_another_triggerer_cancel_nothing(rig: Rig) -> None:
    run = await rig.waiting("endless")
    first = await rig.airflow.until_triggerer("endless", run)
    rig.airflow.start("triggerer", "triggerer-2")
    rig.airflow.send("triggerer", signal.SIGSTOP)
    try:
        second = await rig.airflow.until_triggerer("endless", run, other_than=first)
    finally:
        rig.airflow.send("triggerer", signal.SIGCONT)
    await rig.airflow.until_beats(first)
    await ends_well(rig, run)
    await rig.airflow.kill("triggerer-2")
    await rig.airflow.until_bereft(second)


@thorough(2)
async def test_an_api_server_that_is_away_is_waited_for(rig: Rig) -> None:
    run = await rig.waiting("endless")
    await rig.all_waiting("endless")
    (dbt,) = await rig.dbt_runs("endless", run)
    await rig.plane.kill_apiserver()
    await rig.stack.ask("POST", f"/runs/{dbt['id']}/finish", {"status": 10})
    await rig.airflow.stays("endless", run, "job", "deferred", seconds=AWAY_SECONDS)
    await rig.plane.start_apiserver()
    rig.keep_watcher()
    await rig.airflow.until_state("endless", run, "job", "success")
    assert await rig.dbt_statuses("endless", run) == [10]
