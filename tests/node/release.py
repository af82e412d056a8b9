"""The chart, installed where Pods run: its watcher is what the image holds, as the Deployment says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import yaml

from tests.node.node import Node
from tests.stack import Site, install_crd, until
from tests.stack.dbt import SCENARIO
from tests.stack.site import ROOT

CHART: Final = ROOT / "helm/dbtrun"
PREVIOUS_CHART: Final = Path(__file__).parent / "charts/dbtrun-dc2ee67.tgz"
"""As somebody may have it installed, but with the command by which today's image starts the watcher."""
SECRET: Final = "dbt-cloud"


class Release(Site):
    """`async with Release.up(node, namespace, folder) as release`: installed, connected, and its Pods ready."""

    def __init__(self, node: Node, namespace: str, folder: Path) -> None:
        super().__init__(node.plane, namespace, folder)
        self.node = node

    @classmethod
    @contextlib.asynccontextmanager
    async def up(
        cls,
        node: Node,
        namespace: str,
        folder: Path,
        *,
        chart: Path = CHART,
        scenario: Mapping[str, Any] = SCENARIO,
        values: Mapping[str, Any] = {},
    ) -> AsyncIterator[Release]:
        """At the end it is uninstalled, and no secret was told."""
        release = cls(node, namespace, folder)
        try:
            await release.serve(scenario, address=node.host)
            await install_crd(node.plane)
            await release.apply(release.secret(SECRET, release.keys()))
            await release.helm("install", chart, values)
            await release.rolled_out()
            yield release
            await release.assert_no_secret_told()
            await release.plane.helm("uninstall", "dbtrun", "-n", namespace)
        finally:
            await release.close()

    # ── helm ──

    async def helm(self, action: str, chart: Path = CHART, values: Mapping[str, Any] = {}) -> str:
        """Install or upgrade; the CRD stays whoever's it is."""
        named: dict[str, Any] = {"settings": {"connectionHosts": self.node.host}}
        if chart == PREVIOUS_CHART:  # It has no such setting.
            named = {"extraEnv": [{"name": "DBTRUN_CONNECTION_HOSTS", "value": self.node.host}]}
        chosen = self.folder / "values.yaml"
        chosen.write_text(yaml.safe_dump({"crds": {"enabled": False}, **named, **values}))
        done = await self.plane.helm(action, "dbtrun", str(chart), "-n", self.namespace, "-f", str(chosen))
        return done.stdout

    async def rolled_out(self) -> None:
        try:
            await self.kubectl("rollout", "status", "deployment/dbtrun", "--timeout=120s", timeout=150)
        except Exception as error:
            raise AssertionError(f"{error}\n{await self.watchers_said()}") from error

    # ── Pods ──

    async def pods(self) -> list[dict[str, Any]]:
        """The watcher's Pods that are not being deleted."""
        listed = await self.json("get", "pods", "-l", "app.kubernetes.io/name=dbtrun")
        return [pod for pod in listed["items"] if "deletionTimestamp" not in pod["metadata"]]

    async def watchers_said(self) -> str:
        said = await self.kubectl("get", "pods,events", "-owide")
        for pod in await self.pods():
            name = pod["metadata"]["name"]
            logs = await self.plane.kubectl("-n", self.namespace, "logs", name, "--tail=25", check=False)
            said += f"\n{name}:\n{logs.stdout}{logs.stderr}"
        return said

    async def everything_told(self) -> dict[str, str]:
        logs = await self.kubectl("logs", "-lapp.kubernetes.io/name=dbtrun", "--tail=-1")
        pages = {path: await ask(pod, path) for pod in await self.pods() for path in ("/metrics", "/readyz")}
        return await super().everything_told() | {"pods": logs} | pages

    # ── the Lease ──

    async def acting(self) -> Acting:
        """The watcher that holds the Lease, once one does."""

        async def found() -> Acting | None:
            holder = await self.holder() or ""
            for pod in await self.pods():
                if holder.startswith(f"{pod['metadata']['name']}_"):
                    (status,) = pod["status"]["containerStatuses"]
                    identity = str(status["containerID"]).removeprefix("containerd://")
                    return Acting(pod, identity, psutil.Process(self.node.processes_of(identity)[0]))
            return None

        return await until(found, 120, "a watcher acts", pause=0.1)


async def ask(pod: Mapping[str, Any], path: str) -> str:
    """What a Pod's watcher serves."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.get(f"http://{pod['status']['podIP']}:8080{path}")
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.text


@dataclass(frozen=True)
class Acting:
    """The watcher that acts."""

    pod: dict[str, Any]
    container: str
    """The container's id in containerd."""
    process: psutil.Process
    """Its first process, as this machine knows it."""

    @property
    def name(self) -> str:
        """Of its Pod."""
        return str(self.pod["metadata"]["name"])
