"""DAGs that react to runs which no task of theirs started: the watcher of an asset, in real triggerers."""

from __future__ import annotations

import pytest

from tests.airflow import environments
from tests.airflow.reacting import Reacting
from tests.airflow.rig import Rig
from tests.stack import dbt_run

pytestmark = pytest.mark.asyncio(loop_scope="session")

WITH_ASSETS = pytest.mark.parametrize(
    "rig", [each for each in environments.tested() if each.startswith("3.")], indirect=True
)
"""Airflow 2 has no watchers of assets. Releases before 3.3 are tested on demand: positions are kept in Variables there,
and Airflow does not say what it has stored."""


@pytest.fixture
def reacting(rig: Rig) -> Reacting:
    return Reacting(rig)


@WITH_ASSETS
async def test_a_run_that_nobody_in_airflow_started_triggers_the_dag(reacting: Reacting) -> None:
    await reacting.until_watched()
    keys = await reacting.end("foreign-1")
    given = await reacting.until_given(set(keys.values()))
    assert sorted(given) == sorted(keys.values())
    assert reacting.emitted() == list(keys.values())


@WITH_ASSETS
async def test_the_models_of_all_steps_have_one_asset_event_each(reacting: Reacting) -> None:
    rig = reacting.rig
    run_id = await reacting.end_with_models("models-1")
    run = await rig.airflow.trigger("models", {"name": "models-1"})
    await rig.airflow.until_state("models", run, "emit", "success", seconds=240)
    assert reacting.models("models") == reacting.expected_models(run_id)


async def test_the_next_run_of_a_job_is_waited_for_without_an_asset(rig: Rig) -> None:
    run = await rig.airflow.trigger("next_run")
    await rig.airflow.until_state("next_run", run, "next", "deferred")
    await rig.airflow.until_settled("next_run", run)
    body = dbt_run("next-1", "success")
    body["metadata"]["labels"] = {"test": "next-run"}
    await rig.stack.apply(body)
    status = await rig.stack.reaches("next-1", "Succeeded")
    await rig.airflow.until_state("next_run", run, "next", "success")
    told = await rig.airflow.desk.xcom("next_run", run, "next")
    assert (told["name"], told["run_id"]) == ("next-1", status["runId"])
