"""DAGs that react to runs which no task of theirs started: the watcher of an asset, in real triggerers."""

from __future__ import annotations

import asyncio

import pytest

from tests.airflow import environments
from tests.airflow.rig import MANY_MODELS, MODELS, Rig
from tests.stack import dbt_run, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASSET = "reacting"
WITH_ASSETS = pytest.mark.parametrize(
    "rig", [each for each in environments.tested() if each.startswith("3.3.")], indirect=True
)
"""Airflow 2 has no watchers of assets, and before 3.3 their positions are kept elsewhere."""


KILLS = 1
POSITIONS = "select * from asset_state_store where starts_with(key, 'dbtrun_position_')"


class Reacting:
    """The DAG `reacting`, its asset, and the DbtRuns that it reacts to."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.airflow = rig, rig.airflow

    async def end(self, *names: str, job: str = "success") -> dict[str, str]:
        """Runs that end, started by nobody in Airflow; their keys by name."""
        for name in names:
            body = dbt_run(name, job)
            body["metadata"]["labels"] = {"test": ASSET}
            await self.rig.stack.apply(body)
        statuses = [await self.rig.stack.reaches(name, "Succeeded", "Failed") for name in names]
        return {name: f"{status['accountId']}/{status['runId']}" for name, status in zip(names, statuses, strict=True)}

    def emitted(self) -> list[str]:
        """The keys of all asset events, in their order."""
        query = (
            "select event.extra from asset_event event join asset on asset.id = asset_id"
            " where asset.name = %s order by event.id"
        )
        told = [row["extra"] for row in self.airflow.rows(query, ASSET)]
        return [extra["payload"]["key"] for extra in told if not extra["payload"].get("nudge")]

    async def until_emitted(self, keys: set[str], seconds: float = 120.0) -> None:
        """Waits until each of these has an asset event."""

        async def there() -> bool:
            return keys <= set(self.emitted())

        await until(there, seconds, f"asset events of {keys}", pause=0.3)

    async def until_given(self, keys: set[str], seconds: float = 240.0) -> list[str]:
        """What the DAG's tasks were given by `new_runs`, once each of these is among it and all tasks are over."""

        async def there() -> list[str] | None:
            query = "select run_id, state from dag_run where dag_id = 'reacting'"
            runs = self.airflow.rows(query)
            if any(row["state"] not in ("success", "failed") for row in runs):
                return None
            given.clear()
            for row in runs:
                if row["run_id"] not in known:
                    known[row["run_id"]] = await self.airflow.desk.xcom("reacting", row["run_id"], "collect")
                given.extend(known[row["run_id"]])
            return given if keys <= set(given) else None

        known: dict[str, list[str]] = {}
        given: list[str] = []
        return await until(there, seconds, f"{keys} given to the DAG", pause=1)

    async def until_watched(self, seconds: float = 120.0) -> int:
        """Waits until a triggerer has the asset's trigger and where it begins is stored; the trigger's id."""

        async def there() -> int | None:
            rows = self.airflow.rows(
                "select trigger.id from trigger join asset_watcher on trigger_id = trigger.id"
                " join asset on asset.id = asset_id where asset.name = %s and triggerer_id is not null",
                ASSET,
            )
            stored = self.airflow.rows(POSITIONS)
            return rows[0]["id"] if rows and stored else None

        return await until(there, seconds, "the asset is watched", pause=0.3)


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
async def test_killed_triggerers_lose_nothing_and_no_dag_run_is_given_a_run_twice(reacting: Reacting) -> None:
    await reacting.until_watched()
    keys: dict[str, str] = {}
    for number in range(KILLS):
        names = [f"killed-{number}-{each}" for each in range(4)]
        starting = asyncio.create_task(reacting.end(*names))
        await asyncio.sleep(number)
        await reacting.airflow.kill("triggerer")
        keys |= await starting
        reacting.airflow.start("triggerer")
    given = await reacting.until_given(set(keys.values()))
    assert sorted(key for key in given if key in keys.values()) == sorted(keys.values())


@WITH_ASSETS
async def test_five_hundred_models_have_one_asset_event_each(reacting: Reacting) -> None:
    rig = reacting.rig
    await rig.stack.apply(dbt_run("models-1", None, job={"id": MANY_MODELS}, artifacts=["run_results.json"]))
    status = await rig.stack.reaches("models-1", "Succeeded")
    run = await rig.airflow.trigger("models", {"name": "models-1"})
    await rig.airflow.until_state("models", run, "emit", "success", seconds=240)
    rows = rig.airflow.rows(
        "select uri, event.extra from asset_event event join asset on asset.id = asset_id"
        " where source_dag_id = 'models'"
    )
    assert sorted(row["uri"] for row in rows) == sorted(
        f"postgres://warehouse:5432/analytics/m{number}" for number in range(MODELS)
    )
    keys = {row["extra"]["key"] for row in rows}
    assert len(keys) == MODELS
    assert all(key.startswith(f"{status['accountId']}/{status['runId']}/model.shop.m") for key in keys)


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
