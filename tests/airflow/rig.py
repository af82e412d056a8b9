"""One Airflow release with all that it works with: a control plane of its own, the chart, watcher and simulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from tests.airflow import environments
from tests.airflow.environments import Release
from tests.airflow.stack import Airflow
from tests.controlplane import ControlPlane
from tests.stack import Stack
from tests.stack.stack import SCENARIO

NAMESPACE: Final = "data-team"
AIRFLOW: Final = {"name": "airflow", "namespace": NAMESPACE}
"""The ServiceAccount to which the chart's values give Airflow's Role, and no more."""
QUICK: Final = (12345, 111, 222, 333)
"""The job ids of the documented snippets."""


def scenario() -> dict[str, Any]:
    """The scenario of all tests, and the jobs of the documented snippets."""
    quick = {"queue": 0.1, "start": 0.1, "run": 1.0, "parallel": True}
    return SCENARIO | {"jobs": [*SCENARIO["jobs"], *({"id": job, "name": f"job {job}"} | quick for job in QUICK)]}


class Rig:
    """Airflow, and what it stands on."""

    def __init__(self, release: Release, plane: ControlPlane, stack: Stack, airflow: Airflow) -> None:
        self.release, self.plane, self.stack, self.airflow = release, plane, stack, airflow

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

    @staticmethod
    @contextlib.asynccontextmanager
    async def _stack(plane: ControlPlane, folder: Path) -> AsyncIterator[Stack]:
        await asyncio.to_thread(folder.mkdir)
        await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
        values = {"airflow": {"serviceAccounts": [AIRFLOW]}}
        async with Stack.up(plane, NAMESPACE, folder, scenario=scenario(), values=values) as stack:
            await stack.kubectl("create", "serviceaccount", AIRFLOW["name"])
            yield stack


async def _access(stack: Stack, folder: Path) -> dict[str, str]:
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
    }
