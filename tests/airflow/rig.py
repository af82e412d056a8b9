"""One Airflow release with all that it works with: a control plane of its own, the chart, watcher and simulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from tests.airflow import environments
from tests.airflow.dagruns import DagRuns
from tests.airflow.environments import Release
from tests.airflow.stack import Airflow
from tests.airflow.tiers import BRIEF
from tests.cluster.trigger_support import watches
from tests.controlplane import ControlPlane
from tests.stack import Stack
from tests.stack.dbt import SCENARIO

NAMESPACE: Final = "data-team"
AIRFLOW: Final = {"name": "airflow", "namespace": NAMESPACE}
"""The ServiceAccount to which the chart's values give Airflow's Role, and no more."""
DOCUMENTED: Final = (12345, 111, 222, 333)
"""The job ids of the documented snippets."""
MANY_MODELS: Final = 444
"""The id of a job that builds so many models."""
MODELS: Final = 50 if BRIEF else 500
"""In its second step."""
SEEDS: Final = 3
"""In its first step, with one model that fails there and is built by the second."""
SIZE: Final = int(os.environ.get("MAPPED_TASKS", "4" if BRIEF else "12"))
"""How many mapped tasks wait, a quarter of them to be killed twice. Each costs Airflow two seconds of a processor."""
WATCHERS: Final = int(os.environ.get("WATCHERS", "10"))
"""How many assets have a watcher, besides those that tests look at."""
AHEAD: Final = {"endless": 3}
"""How many runs of a DAG are started before a test asks for them."""


def scenario() -> dict[str, Any]:
    """The scenario of all tests, and the jobs of the documented snippets, which end when a test ends them."""
    endless = {"queue": 0.1, "start": 0.1, "run": None, "parallel": True}
    steps: list[list[dict[str, str]]] = [
        [*({"node": f"seed.shop.s{number}"} for number in range(SEEDS)), {"node": "model.shop.m0", "status": "error"}],
        [{"node": f"model.shop.m{number}"} for number in range(MODELS)],
    ]
    commands = ["dbt build --select seeds", "dbt build"]
    quick = {"queue": 0.1, "start": 0.1, "run": 0.5}
    many = {"id": MANY_MODELS, "name": "many models", "steps": commands, "results": steps} | quick
    documented = ({"id": job, "name": f"job {job}"} | endless for job in DOCUMENTED)
    return SCENARIO | {"jobs": [*SCENARIO["jobs"], many, *documented]}


class Rig(DagRuns):
    """Airflow, and what it stands on."""

    airflow: Airflow

    def __init__(self, release: Release, plane: ControlPlane, stack: Stack, airflow: Airflow) -> None:
        super().__init__(plane, NAMESPACE, stack, airflow)
        self.release, self.stack = release, stack
        self._ahead: dict[str, deque[str]] = defaultdict(deque)

    @classmethod
    @contextlib.asynccontextmanager
    async def up(cls, release: Release, folder: Path) -> AsyncIterator[Rig]:
        """Everything running; at the end everything is gone and no dbt token was ever in Airflow."""
        async with (
            ControlPlane.start(folder) as plane,
            cls._stack(plane, folder / "dbtrun") as stack,
            Airflow.up(release, folder / "airflow", await _access(stack, folder)) as airflow,
        ):
            yield cls(release, plane, stack, airflow)
            assert not airflow.holds(stack.token)

    # ── what a test looks at ──

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

    async def watches(self) -> int:
        """Watches of DbtRuns that Airflow has; the watcher's own is one more."""
        return await watches(self.plane) - 1

    def keep_watcher(self) -> None:
        """What the Deployment does for a watcher that ended, as one does that lost its Lease."""
        if not self.stack.watcher.running:
            self.stack.watcher.start()

    @staticmethod
    @contextlib.asynccontextmanager
    async def _stack(plane: ControlPlane, folder: Path) -> AsyncIterator[Stack]:
        await asyncio.to_thread(folder.mkdir)
        await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
        values = {"airflow": {"serviceAccounts": [AIRFLOW]}}
        async with Stack.up(plane, NAMESPACE, folder, scenario=scenario(), values=values) as stack:
            await stack.kubectl("create", "serviceaccount", AIRFLOW["name"])
            yield stack


def _modules_of_the_user(folder: Path) -> Path:
    """A package named `watcher` that is not ours: importing it ends the test. And a trigger of a user's own.

    And a `sitecustomize`, with which Airflow's processes collect garbage less often, so that they start faster.
    """
    package = folder / "watcher"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('raise AssertionError("Airflow imports a module named watcher")\n')
    (folder / "sitecustomize.py").write_text("import gc\n\ngc.set_threshold(50_000, 50, 50)\n")
    shutil.copy(Path(__file__).with_name("faulty_trigger.py"), folder)
    return folder


async def _access(stack: Stack, folder: Path) -> dict[str, str]:
    """What Airflow's processes know of Kubernetes: the wheel, and the ServiceAccount's own kubeconfig."""
    kubeconfig = await stack.plane.kubeconfig_for(NAMESPACE, AIRFLOW["name"], seconds=4 * 3600)
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig), "namespace": NAMESPACE}}
    wheel = folder / "wheel"
    site = await asyncio.to_thread(environments.install_dbtrun, wheel)
    return {
        # Before all others, as a user's package of that name may be.
        "PYTHONPATH": os.pathsep.join(map(str, (_modules_of_the_user(folder / "others"), site))),
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(connection),
        "DBTRUN_TEST_KUBECONFIG": str(kubeconfig),
        "DBTRUN_TEST_NAMESPACE": NAMESPACE,
        "DBTRUN_TEST_FOLDER": str(folder),
        "DBTRUN_TEST_SIZE": str(SIZE),
        "DBTRUN_TEST_WATCHERS": str(WATCHERS),
    }
