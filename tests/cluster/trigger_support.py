"""What the tests of hub and trigger share: a DbtRun's life by hand."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_trigger.task.runs import task_runs
from airflow_trigger.trigger import DbtRunTrigger
from airflow_trigger.waiting.hub import Pace
from airflow_trigger.waiting.runs import HubRuns
from dbtrun.api import API_VERSION, GROUP, KIND, PLURAL, VERSION
from dbtrun.kube.cluster import Cluster
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.connect import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.controlplane import ControlPlane
from tests.patience import patience

CRD = Path(__file__).parents[2] / "deploy/crd/dbtrun.dev_dbtruns.yaml"
SECONDS = 120.0
QUICK = Pace(linger=0.2, silence=90.0, recheck=0.3, first_retry=0.05, longest_retry=0.5, denied_retry=0.2)


class QuickTrigger(DbtRunTrigger):
    """The trigger with short pauses."""

    pace = QUICK


def install_crd(plane: ControlPlane) -> None:
    plane.kubectl_sync("apply", "-f", str(CRD))
    plane.kubectl_sync("wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}")


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, seconds: float = SECONDS, pause: float = 0.1
) -> None:
    deadline = time.monotonic() + patience(seconds)
    while not await condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        await asyncio.sleep(pause)


async def watches(plane: ControlPlane) -> int:
    """How many namespaced watches of DbtRuns the API server serves."""
    text = await plane.metrics()
    lines = re.findall(r"^apiserver_longrunning_requests\{(.*)\} (\d+)$", text, re.MULTILINE)
    wanted = ('resource="dbtruns"', 'scope="namespace"', 'verb="WATCH"')
    return sum(int(count) for labels, count in lines if all(label in labels for label in wanted))


@dataclass
class Namespace:
    """A namespace of DbtRuns, changed as the administrator and as the watcher would."""

    cluster: Cluster
    name: str

    @property
    def runs(self) -> HubRuns:
        return HubRuns(self.cluster, self.name)

    def _path(self, name: str) -> str:
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.name}/{PLURAL}/{name}"

    async def create(self, name: str, **metadata: Any) -> None:
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, **metadata},
            "spec": {"job": {"id": 1}},
        }
        await self.runs.create(body)

    async def set_status(self, name: str, phase: str, reason: str = "RunStarted", **status: Any) -> None:
        body = {"status": {"phase": phase, "reason": reason, **status}}
        await self.cluster.request("PATCH", f"{self._path(name)}/status", body=body)

    async def delete(self, name: str) -> None:
        await self.cluster.request("DELETE", self._path(name))

    async def patch(self, name: str, body: dict[str, Any]) -> None:
        await task_runs(self.cluster, self.name).patch(name, body)


@asynccontextmanager
async def administering(plane: ControlPlane, namespace: str) -> AsyncIterator[Namespace]:
    async with connect(ClusterConfig(config_file=str(plane.kubeconfig))) as cluster:
        yield Namespace(cluster, namespace)
