"""A trigger that fails where a test says, as one with a bug, or a subclass that somebody wrote, does.

It is copied to where Airflow's processes find it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Hashable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from airflow.triggers.base import TriggerEvent

from airflow_trigger.event_trigger import DbtRunEventTrigger
from airflow_trigger.reacting.reader import Store
from airflow_trigger.reacting.selection import Plan

FILE = "faulty"
"""In the test's folder: where the trigger fails. Without it, the trigger works."""


class FaultyTrigger(DbtRunEventTrigger):
    """Raises in its constructor, when it runs, or where DbtRunEventTrigger reads its position."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if _fails_in("constructor"):
            raise TypeError("the constructor of a test")
        if _fails_in("constructor, otherwise"):
            raise ValueError("another failure of a test")

    def shared_stream_key(self) -> Hashable | None:
        """None: Airflow calls `run`."""
        return None if _fails_in("run") else super().shared_stream_key()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Not on Airflow 3.3, but for the failure."""
        if _fails_in("run"):
            raise RuntimeError("the run of a test")
        async with aclosing(super().run()) as events:  # type: ignore[type-var]
            async for event in events:
                yield event

    def store(self, plan: Plan) -> Store:
        """The store, or a failure of what Airflow gave to this trigger."""
        if _fails_in("store"):
            raise RuntimeError("the store of a test")
        return super().store(plan)


def _fails_in(place: str) -> bool:
    path = Path(os.environ["DBTRUN_TEST_FOLDER"]) / FILE
    return path.exists() and path.read_text() == place
