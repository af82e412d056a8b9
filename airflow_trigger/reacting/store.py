"""Where Airflow keeps a watcher's position: beside the asset (Airflow 3.3 and later), or in a Variable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from asgiref.sync import sync_to_async

from airflow_trigger.reacting.position import Position

if TYPE_CHECKING:
    from airflow_trigger.reacting.reader import Store


class AssetState(Protocol):
    """What a trigger of Airflow 3.3 is given."""

    async def aget(self, key: str) -> Any: ...

    async def aset(self, key: str, value: Any) -> None: ...


class BesideAsset:
    """The position as state of the asset."""

    def __init__(self, state: AssetState, name: str) -> None:
        self._state = state
        self._name = name

    async def load(self) -> Position | None:
        """The position that is stored."""
        return _read(await self._state.aget(self._name))

    async def save(self, position: Position) -> None:
        """Stores a position."""
        await self._state.aset(self._name, position.stored())


class InVariable:
    """The position as an Airflow Variable."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def load(self) -> Position | None:
        """The position that is stored."""
        from airflow.sdk import Variable

        # Not asyncio.to_thread: Airflow's own calls find the way back to this loop only from asgiref's threads.
        text = await sync_to_async(Variable.get)(self._name, default=None)
        return None if text is None else _read(json.loads(text))

    async def save(self, position: Position) -> None:
        """Stores a position."""
        from airflow.sdk import Variable

        text = json.dumps(position.stored())
        await sync_to_async(Variable.set)(self._name, text, description="Position of an asset watcher of DbtRuns")


def store_of(state: AssetState | None, name: str) -> Store:
    """Where this watcher keeps its position. An asset's state is not there if the watcher serves several assets."""
    # With equal arguments in one DAG file, several assets share a row, and then reading the state raises ValueError
    # (apache/airflow#71460).
    return InVariable(name) if state is None or getattr(state, "_total", 1) != 1 else BesideAsset(state, name)


def _read(stored: Any) -> Position | None:
    return None if stored is None else Position.read(stored)
