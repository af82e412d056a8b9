"""One Airflow release with all that it works with: a control plane of its own, the chart, watcher and simulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from tests.airflow import environments
from tests.airflow.environments import Release
from tests.airflow.stack import Airflow
from tests.cluster.trigger_support import watches
from tests.controlplane import ControlPlane
from tests.stack import Stack, until
from tests.stack.stack import SCENARIO
from watcher.api import GROUP, PLURAL, VERSION

NAMESPACE: Final = "data-team"
AIRFLOW: Final = {"name": "airflow", "namespace": NAMESPACE}
"""The ServiceAccount to which the chart's values give Airflow's Role, and no more."""
DOCUMENTED: Final = (12345, 111, 222, 333)
"""The job ids of the documented snippets."""
SIZES: Final = {3: 100, 2: int(os.environ.get("MAPPED_TASKS", "20"))}
"""How many mapped tasks wait. A task costs Airflow 2 over a second of two cores, twice."""
AHEAD: Final = {"endless": 3}
"""How many runs of a DAG are started before a test asks for them."""


def scenario() -> dict[str, Any]:
    """The scenario of all tests, and the jobs of the documented snippets, which end when a test ends them."""
    endless = {"queue": 0.1, "start": 0.1, "run": None, "parallel": True}
    return SCENARIO | {
        "jobs": [*SCENARIO["jobs"], *({"id": job, "name": f"job {job}"} | endless for job in DOCUMENTED)]
    }


class Rig:
    """Airflow, and what it stands on."""

    def __init__(self, release: Release, plane: ControlPlane, stack: Stack, airflow: Airflow) -> None:
        self.release, self.plane, self.stack, self.airflow = release, plane, stack, airflow
        self._ahead: dict[str, deque[str]] = defaultdict(deque)

    @property
    def size(self) -> int:
        """How many mapped tasks wait; the processes of a quarter of them are killed, twice."""
        return SIZES[self.release.generation]

    @classmethod
    @contextlib.asynccontextmanager
    async def up(cls, release: Release, folder: Path) -> AsyncIterator[Rig]:
        """Everything running; at the end everything is gone and no dbt token was ever in Airflow."""
        async with (
            ControlPlane.start(folder) as plane,
            cls._stack(plane, folder / "dbtrun") as stack,
            Airflow.up(release, folder / "airflow", await _access(stack, folder, SIZES[release.generation])) as airflow,
        ):
            yield cls(release, plane, stack, airflow)
            assert not airflow.holds(stack.token)

    # ── what a test looks at ──

    async def objects(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The DbtRuns of a DAG run's tasks, by their labels, oldest first."""
        selector = f"airflow.dbtrun.dev/dag-id={dag_id},airflow.dbtrun.dev/run-id={run_id}"
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}?labelSelector={selector}"
        found = await self.plane.read(path)
        assert found is not None
        return sorted(found["items"], key=lambda item: int(item["metadata"]["labels"]["airflow.dbtrun.dev/try"]))

    async def dbt_runs(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The dbt Cloud runs that a DAG run's tasks started, as dbt Cloud knows them."""
        markers = [f"dbtrun:{item['metadata']['uid']}/" for item in await self.objects(dag_id, run_id)]
        return [run for run in await self.stack.runs() if any(marker in run["cause"] for marker in markers)]

    async def dbt_statuses(self, dag_id: str, run_id: str) -> list[int]:
        """Their status codes: 3 runs, 10 succeeded, 20 failed, 30 was cancelled."""
        return sorted(int(run["status"]) for run in await self.dbt_runs(dag_id, run_id))

    async def waiting(self, dag_id: str, state: str = "deferred") -> str:
        """A new DAG run whose task `job` waits for a dbt Cloud run that is running; its id."""
        run_id = (await self._started(dag_id)).popleft()
        return await self._waits(dag_id, run_id, state)

    async def waiting_together(self, dag_id: str, count: int, state: str = "deferred") -> list[str]:
        """The same of several DAG runs at once."""
        runs = [await self.airflow.trigger(dag_id) for _ in range(count)]
        return await asyncio.gather(*(self._waits(dag_id, run_id, state) for run_id in runs))

    async def all_waiting(self, dag_id: str) -> None:
        """Those too that were started ahead: a test that breaks something must not meet them half-way."""
        await asyncio.gather(*(self._waits(dag_id, run_id, "deferred") for run_id in self._ahead[dag_id]))

    async def _waits(self, dag_id: str, run_id: str, state: str) -> str:
        await self.airflow.until_state(dag_id, run_id, "job", state)
        await self.until_dbt(dag_id, run_id, [3])
        if state == "deferred":
            await self.airflow.until_watched(dag_id, run_id, "job")
            await self.airflow.until_settled(dag_id, run_id)
        else:
            await self.airflow.until_told(dag_id, run_id, "dbtrun_name")
        return run_id

    async def _started(self, dag_id: str) -> deque[str]:
        """DAG runs of which nobody knows yet: some are started ahead, so that a test need not wait for its own."""
        ahead = self._ahead[dag_id]
        for _ in range(AHEAD.get(dag_id, 1) - len(ahead)):
            ahead.append(await self.airflow.trigger(dag_id))
        return ahead

    async def until_dbt(self, dag_id: str, run_id: str, *statuses: list[int], seconds: float = 120.0) -> None:
        """Waits until the DAG run's dbt Cloud runs have these statuses, or these."""

        async def there() -> bool:
            seen.append(await self.dbt_statuses(dag_id, run_id))
            return seen[-1] in statuses

        seen: list[list[int]] = []
        try:
            await until(there, seconds, f"the dbt runs of {dag_id} {run_id} in {statuses}", pause=0.3)
        except AssertionError as error:
            told = [item.get("status") for item in await self.objects(dag_id, run_id)]
            log = self.airflow.log(dag_id, run_id, "job")[-3000:]
            raise AssertionError(f"{error}; they were {seen[-1:]}; the objects: {told}\n{log}") from None

    async def watches(self) -> int:
        """Watches of DbtRuns that Airflow has; the watcher's own is one more."""
        return await watches(self.plane) - 1

    def keep_watcher(self) -> None:
        """What the Deployment does for a watcher that ended, as one does that lost its Lease."""
        if not self.stack.watcher.running:
            self.stack.watcher.start()

    async def finish(self, dag_id: str, run_id: str, *statuses: int) -> None:
        """Ends the DAG run's live dbt Cloud runs as dbt Cloud would, by task and map index; default: all succeed."""

        async def begun() -> list[dict[str, Any]] | None:
            found = await self.objects(dag_id, run_id)
            return found if all("runId" in item.get("status", {}) for item in found) else None

        await self.airflow.until_settled(dag_id, run_id)
        objects = await until(begun, 60, f"the dbt runs of {dag_id} {run_id}", pause=0.3)
        order = {item["status"]["runId"]: _place(item) for item in objects}
        live = [run["id"] for run in await self.dbt_runs(dag_id, run_id) if run["status"] < 10]
        for run, status in zip(sorted(live, key=order.__getitem__), statuses or [10] * len(live), strict=True):
            await self.stack.ask("POST", f"/runs/{run}/finish", {"status": status})

    @staticmethod
    @contextlib.asynccontextmanager
    async def _stack(plane: ControlPlane, folder: Path) -> AsyncIterator[Stack]:
        await asyncio.to_thread(folder.mkdir)
        await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
        values = {"airflow": {"serviceAccounts": [AIRFLOW]}}
        async with Stack.up(plane, NAMESPACE, folder, scenario=scenario(), values=values) as stack:
            await stack.kubectl("create", "serviceaccount", AIRFLOW["name"])
            yield stack


def _place(item: dict[str, Any]) -> tuple[str, int]:
    labels = item["metadata"]["labels"]
    return labels["airflow.dbtrun.dev/task-id"], int(labels.get("airflow.dbtrun.dev/map-index", -1))


async def _access(stack: Stack, folder: Path, size: int) -> dict[str, str]:
    """What Airflow's processes know of Kubernetes: the wheel, and the ServiceAccount's own kubeconfig."""
    kubeconfig = await stack.plane.kubeconfig_for(NAMESPACE, AIRFLOW["name"], seconds=4 * 3600)
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig), "namespace": NAMESPACE}}
    wheel = folder / "wheel"
    return {
        "PYTHONPATH": str(await asyncio.to_thread(environments.install_dbtrun, wheel)),
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(connection),
        "DBTRUN_TEST_KUBECONFIG": str(kubeconfig),
        "DBTRUN_TEST_NAMESPACE": NAMESPACE,
        "DBTRUN_TEST_FOLDER": str(folder),
        "DBTRUN_TEST_SIZE": str(size),
    }
