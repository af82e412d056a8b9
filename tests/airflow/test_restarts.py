"""Parts of Airflow and of Kubernetes that go away and come back: no task notices, no run is cancelled or repeated."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.airflow.reacting import Reacting
from tests.airflow.rig import Rig
from tests.airflow.test_reacting import WITH_ASSETS
from tests.airflow.tiers import thorough

pytestmark = pytest.mark.asyncio(loop_scope="session")

STOP_SECONDS = 180.0
"""For a triggerer on a busy machine, whose end the tests after it need."""
AWAY_SECONDS = 60.0


async def ends_well(rig: Rig, run: str) -> None:
    """The run that is still live ends, and the task with it, in its first try and with no other run."""
    assert await rig.dbt_statuses("endless", run) == [3]
    await rig.finish("endless", run)
    await rig.airflow.until_state("endless", run, "job", "success", seconds=240)
    assert await rig.dbt_statuses("endless", run) == [10]
    assert rig.airflow.task("endless", run, "job")["try_number"] == 1


@dataclass(frozen=True)
class Crashed:
    """What a triggerer waited for when it got kill -9."""

    runs: dict[str, str]
    """DAG run ids, by what happened while it was away."""
    keys: list[str]
    """Keys of the runs that ended then, and to which a DAG reacts; on Airflow 2, none does."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def crashed(rig: Rig) -> Crashed:
    waiting = await rig.waiting_together("endless", 3)
    runs = dict(zip(("nothing", "its run ended", "its task was marked failed"), waiting, strict=True))
    reacting = Reacting(rig)
    if rig.release.generation == 3:
        await reacting.until_watched()
    ending = asyncio.create_task(reacting.end(*(f"killed-{number}" for number in range(4))))
    await rig.airflow.kill("triggerer")
    keys = list((await ending).values())
    await rig.finish("endless", runs["its run ended"])
    await rig.airflow.desk.mark("endless", runs["its task was marked failed"], "job", "failed")
    rig.airflow.start("triggerer")
    return Crashed(runs, keys)


async def test_a_triggerer_that_crashed_goes_on_waiting(rig: Rig, crashed: Crashed) -> None:
    await ends_well(rig, crashed.runs["nothing"])


async def test_a_run_that_ends_while_the_triggerer_is_away_is_not_repeated(rig: Rig, crashed: Crashed) -> None:
    run = crashed.runs["its run ended"]
    await rig.airflow.until_state("endless", run, "job", "success", seconds=240)
    assert await rig.dbt_statuses("endless", run) == [10]


async def test_a_task_that_is_ended_after_its_triggerer_was_killed_leaves_its_run_to_the_deadline(
    rig: Rig, crashed: Crashed
) -> None:
    """Unless the next triggerer comes so late that it gets the trigger before Airflow throws it away: it cancels."""
    run = crashed.runs["its task was marked failed"]
    await rig.waiting("endless")
    await rig.until_dbt("endless", run, [3], [30])
    (item,) = await rig.objects("endless", run)
    assert item["spec"]["activeDeadlineSeconds"] > 0


@WITH_ASSETS
async def test_a_killed_triggerer_loses_nothing_and_no_dag_run_is_given_a_run_twice(rig: Rig, crashed: Crashed) -> None:
    given = await Reacting(rig).until_given(set(crashed.keys))
    assert sorted(key for key in given if key in crashed.keys) == sorted(crashed.keys)


async def test_a_scheduler_that_crashed_goes_on(rig: Rig) -> None:
    run = await rig.waiting("endless")
    await rig.all_waiting("endless")
    await rig.airflow.kill("scheduler")
    rig.airflow.start("scheduler")
    await ends_well(rig, run)


@thorough
async def test_triggers_leave_a_triggerer_that_freezes_and_one_that_stops_and_cancel_nothing(rig: Rig) -> None:
    run = await rig.waiting("endless")
    first = await rig.airflow.until_triggerer("endless", run)
    rig.airflow.start("triggerer", "triggerer-2")
    rig.airflow.send("triggerer", signal.SIGSTOP)
    try:
        second = await rig.airflow.until_triggerer("endless", run, other_than=first)
    finally:
        rig.airflow.send("triggerer", signal.SIGCONT)
    await asyncio.gather(rig.airflow.until_beats(first), rig.airflow.until_beats(second))
    assert await rig.dbt_statuses("endless", run) == [3]
    await rig.airflow.programs["triggerer-2"].stop(STOP_SECONDS)
    assert await rig.airflow.until_triggerer("endless", run, other_than=second) == first
    await ends_well(rig, run)
    await rig.airflow.until_bereft(second)


@thorough
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
