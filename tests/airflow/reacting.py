"""The DAG `reacting` of a rig, its asset, and what they were told."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from dbtrun.values import digest
from tests.airflow import faulty_trigger
from tests.airflow.rig import MANY_MODELS, MODELS, SEEDS, WATCHERS, Rig
from tests.stack import dbt_run, until

ASSET = "reacting"
TRIGGERS = (
    "select trigger.id from trigger join asset_watcher on trigger_id = trigger.id"
    " join asset on asset.id = asset_id where asset.name like %s and triggerer_id is not null"
)
STATES = "select value from asset_state_store where starts_with(key, 'dbtrun_position_')"
VARIABLES = "select val as value from variable where starts_with(key, 'dbtrun_position_')"
"""Before 3.3, triggers have no state."""


class Reacting:
    """The DAG `reacting`, its asset, and the DbtRuns that it reacts to."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.airflow = rig, rig.airflow
        self._known: dict[str, list[str]] = {}
        """What each DAG run that is over was given."""

    async def end(self, *names: str, job: str = "success", asset: str = ASSET) -> dict[str, str]:
        """Runs that end, started by nobody in Airflow, which this asset's watcher selects; their keys by name."""
        for name in names:
            body = dbt_run(name, job)
            body["metadata"]["labels"] = {"test": asset}
            await self.rig.stack.apply(body)
        statuses = [await self.rig.stack.reaches(name, "Succeeded", "Failed") for name in names]
        return {name: f"{status['accountId']}/{status['runId']}" for name, status in zip(names, statuses, strict=True)}

    def payloads(self, asset: str = ASSET) -> list[dict[str, Any]]:
        """The payloads of all events of an asset, in their order, but for nudges."""
        query = (
            "select event.extra from asset_event event join asset on asset.id = asset_id"
            " where asset.name = %s order by event.id"
        )
        told = [row["extra"]["payload"] for row in self.airflow.rows(query, asset)]
        return [payload for payload in told if not payload.get("nudge")]

    def emitted(self, asset: str = ASSET) -> list[str]:
        """The keys of all events of an asset, in their order."""
        return [payload["key"] for payload in self.payloads(asset)]

    async def until_emitted(self, keys: set[str], seconds: float = 120.0, asset: str = ASSET) -> None:
        """Waits until each of these has an event of the asset."""

        async def there() -> bool:
            return keys <= set(self.emitted(asset))

        await until(there, seconds, f"asset events of {keys}", pause=0.3)

    def positions(self) -> list[str]:
        """How far the watchers of all assets have come, as they have stored it."""
        if self.rig.release.version.startswith("3.3."):
            return [row["value"] for row in self.airflow.rows(STATES)]
        fernet = Fernet(self.airflow.env["AIRFLOW__CORE__FERNET_KEY"])
        return [fernet.decrypt(row["value"].encode()).decode() for row in self.airflow.rows(VARIABLES)]

    async def until_stored(self, keys: set[str], seconds: float = 120.0) -> None:
        """Waits until a watcher has stored that it has emitted all of these."""

        async def stored() -> bool:
            return any(all(digest(key, 16) in position for key in keys) for position in self.positions())

        await until(stored, seconds, f"a position with {keys}", pause=0.3)

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
            watched = self.triggers(ASSET)
            # Each watcher stores first where it begins: this one has, if all have, and so has that of `faulty`.
            return watched[0] if watched and len(self.positions()) > WATCHERS + 1 else None

        return await until(there, seconds, "the asset is watched", pause=0.3)

    async def until_many_watched(self, count: int, seconds: float = 240.0) -> None:
        """Waits until so many of the other assets have a trigger."""

        async def there() -> bool:
            return len(self.triggers("many-%")) == count

        await until(there, seconds, f"{count} assets are watched", pause=0.5)

    async def until_unwatched(self, seconds: float = 120.0) -> None:
        """Waits until the asset has no trigger."""

        async def gone() -> bool:
            return not self.triggers(ASSET)

        await until(gone, seconds, "nobody watches the asset", pause=0.3)

    def triggers(self, asset: str) -> list[int]:
        """The ids of an asset's triggers that a triggerer has; `%` stands for anything in the name."""
        query = TRIGGERS
        if self.rig.release.version.startswith("3.1."):
            query = query.replace("asset_watcher", "asset_trigger")
        return [row["id"] for row in self.airflow.rows(query, asset)]

    # ── a trigger that fails ──

    @contextlib.asynccontextmanager
    async def failing(self, place: str) -> AsyncIterator[None]:
        """A triggerer that starts while the trigger of the asset `faulty` fails in this place, until the end."""
        await self.airflow.kill("triggerer")
        file = Path(self.airflow.env["DBTRUN_TEST_FOLDER"]) / faulty_trigger.FILE
        file.write_text(place)
        self.airflow.start("triggerer")
        try:
            yield
        finally:
            file.unlink()
            self.airflow.keep("triggerer")

    async def until_logged(self, text: str, times: int = 1) -> list[datetime]:
        """Waits until the triggerer has logged this so often; when it did."""

        async def logged() -> list[datetime] | None:
            lines = self.airflow.programs["triggerer"].text().splitlines()
            found = [datetime.fromisoformat(line.split()[0]) for line in lines if text in line and line[:2] == "20"]
            return found if len(found) >= times else None

        return await until(logged, 120, f"the triggerer logs {text!r}", pause=0.5)

    # ── the models of a run ──

    async def end_with_models(self, name: str) -> str:
        """A run of two steps that builds models, started by nobody in Airflow; the key of its events."""
        await self.rig.stack.apply(dbt_run(name, None, job={"id": MANY_MODELS}, artifacts=["dbtrun/results.json"]))
        status = await self.rig.stack.reaches(name, "Succeeded")
        return f"{status['accountId']}/{status['runId']}"

    def models(self, dag_id: str) -> list[tuple[str, str]]:
        """The assets of all events that a DAG's tasks have emitted, with the keys."""
        query = (
            "select uri, event.extra from asset_event event join asset on asset.id = asset_id where source_dag_id = %s"
        )
        return sorted((row["uri"], row["extra"]["key"]) for row in self.airflow.rows(query, dag_id))

    def expected_models(self, key: str) -> list[tuple[str, str]]:
        """The same of all that a run of two steps has built."""
        nodes = [f"model.shop.m{number}" for number in range(MODELS)] + [f"seed.shop.s{each}" for each in range(SEEDS)]
        return sorted((f"postgres://warehouse:5432/analytics/{node.split('.')[-1]}", f"{key}/{node}") for node in nodes)

    def kills(self, dag_id: str) -> list[str]:
        """The points at which processes of the DAG's task were killed."""
        folder = Path(self.airflow.env["DBTRUN_TEST_FOLDER"])
        return sorted(path.name.rpartition("-")[2] for path in folder.glob(f"kill-{dag_id}-*"))
