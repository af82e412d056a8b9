"""The DAG `reacting` of a rig, its asset, and what they were told."""

from __future__ import annotations

from typing import Any

from tests.airflow.rig import Rig
from tests.stack import dbt_run, until

ASSET = "reacting"
POSITIONS = "select * from asset_state_store where starts_with(key, 'dbtrun_position_')"


class Reacting:
    """The DAG `reacting`, its asset, and the DbtRuns that it reacts to."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.airflow = rig, rig.airflow
        self._known: dict[str, list[str]] = {}
        """What each DAG run that is over was given."""

    async def end(self, *names: str, job: str = "success") -> dict[str, str]:
        """Runs that end, started by nobody in Airflow; their keys by name."""
        for name in names:
            body = dbt_run(name, job)
            body["metadata"]["labels"] = {"test": ASSET}
            await self.rig.stack.apply(body)
        statuses = [await self.rig.stack.reaches(name, "Succeeded", "Failed") for name in names]
        return {name: f"{status['accountId']}/{status['runId']}" for name, status in zip(names, statuses, strict=True)}

    def payloads(self) -> list[dict[str, Any]]:
        """The payloads of all asset events, in their order, but for nudges."""
        query = (
            "select event.extra from asset_event event join asset on asset.id = asset_id"
            " where asset.name = %s order by event.id"
        )
        told = [row["extra"]["payload"] for row in self.airflow.rows(query, ASSET)]
        return [payload for payload in told if not payload.get("nudge")]

    def emitted(self) -> list[str]:
        """The keys of all asset events, in their order."""
        return [payload["key"] for payload in self.payloads()]

    async def until_emitted(self, keys: set[str], seconds: float = 120.0) -> None:
        """Waits until each of these has an asset event."""

        async def there() -> bool:
            return keys <= set(self.emitted())

        await until(there, seconds, f"asset events of {keys}", pause=0.3)

    async def given(self) -> list[str]:
        """What the DAG's tasks that are over were given by `new_runs`."""
        query = "select run_id from dag_run where dag_id = 'reacting' and state in ('success', 'failed')"
        for row in self.airflow.rows(query):
            if row["run_id"] not in self._known:
                self._known[row["run_id"]] = await self.airflow.desk.xcom("reacting", row["run_id"], "collect")
        return [key for keys in self._known.values() for key in keys]

    async def until_given(self, keys: set[str], seconds: float = 240.0) -> list[str]:
        """The same, once each of these is among it and all DAG runs are over."""

        async def there() -> list[str] | None:
            unfinished = "select run_id from dag_run where dag_id = 'reacting' and state not in ('success', 'failed')"
            if self.airflow.rows(unfinished):
                return None
            given = await self.given()
            return given if keys <= set(given) else None

        return await until(there, seconds, f"{len(keys)} runs given to the DAG", pause=1)

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
