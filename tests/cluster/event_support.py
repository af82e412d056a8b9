"""Watchers of assets in one process, as a triggerer has them, against a real API server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_trigger.event_trigger import DbtRunEventTrigger
from airflow_trigger.reacting.selection import Plan
from tests.cluster.trigger_support import QUICK, Namespace, eventually
from tests.controlplane import ControlPlane
from tests.unit.airflow_trigger.reacting.test_reader import Memory
from tests.unit.airflow_trigger.triggerer import Triggerer

JOBS = 2


class Remembering(DbtRunEventTrigger):
    """One whose positions are kept here, and not by Airflow."""

    pace = QUICK
    stores: dict[str, Memory]

    def store(self, plan: Plan) -> Memory:
        return self.stores.setdefault(plan.stored_as, Memory())


@dataclass
class Watchers:
    """So many watchers, each of one of two jobs."""

    triggerer: Triggerer

    @staticmethod
    def due(number: int, run: int) -> bool:
        """Whether a watcher has to tell of a run."""
        return number % JOBS == run % JOBS

    @classmethod
    @asynccontextmanager
    async def of(cls, plane: ControlPlane, objects: Namespace, count: int) -> AsyncIterator[Watchers]:
        """Until the end of the context, once all have begun."""
        stores: dict[str, Memory] = {}
        Remembering.stores = stores
        triggerer = Triggerer()
        for number in range(count):
            where: dict[str, Any] = {"namespace": objects.name, "config_file": str(plane.kubeconfig)}
            triggerer.run(number, Remembering(asset=f"asset-{number}", job_id=number % JOBS + 1, **where))

        async def all_begun() -> bool:
            return len(stores) == count and all(store.position for store in stores.values())

        try:
            await eventually(all_begun, "all have begun")
            yield cls(triggerer)
        finally:
            await triggerer.end()


async def end(objects: Namespace, run: int) -> float:
    """A run that ends; the monotonic time at which the API server had accepted it."""
    now = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told: dict[str, Any] = {"accountId": 1, "runId": run, "jobId": run % JOBS + 1, "completionTime": now}
    await objects.create(f"run-{run}")
    await objects.set_status(f"run-{run}", "Succeeded", "RunSucceeded", **told)
    return time.monotonic()
