"""A namespace with the chart installed, its watcher running as the Deployment says, and a dbt Cloud for it."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.controlplane import ControlPlane
from tests.plain import plain_http
from tests.stack import memory
from tests.stack.dbt import SCENARIO
from tests.stack.program import Program
from tests.stack.site import ROOT, Site, collection_of, install_crd

SECRET: Final = "dbt-cloud"
DAY: Final = 24 * 3600
"""Seconds for which the watcher's token is good: a soak is long, and nobody renews it."""
FAST: Final = {
    "DBTRUN_FEED_INTERVAL_SECONDS": "0.5",
    "DBTRUN_LOG_LEVEL": "debug",
    "DBTRUN_LISTEN": "127.0.0.1:0",
    "DBTRUN_LOOPBACK_CONNECTIONS": "true",
}
"""What a test sets differently from the chart."""
ADDRESS: Final = r"Listening on (\S+:\d+)"


class Stack(Site):
    """One namespace's system, with a dbt Cloud. `async with Stack.up(plane, namespace, folder) as stack`."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        super().__init__(plane, namespace, folder)
        self.others: list[Program] = []
        self.memory_limit = 0
        """MiB that the Deployment gives to the watcher."""
        self.release = False
        self._ending = contextlib.ExitStack()

    @classmethod
    @contextlib.asynccontextmanager
    async def up(
        cls,
        plane: ControlPlane,
        namespace: str,
        folder: Path,
        *,
        scenario: Mapping[str, Any] = SCENARIO,
        settings: Mapping[str, str] = {},
        values: Mapping[str, Any] = {},
        connected: bool = True,
        limited: bool = False,
        release: bool = False,
    ) -> AsyncIterator[Stack]:
        """Everything running; at the end everything is gone, and no secret was told.

        Args:
            scenario: the simulator's file.
            settings: DBTRUN_* variables of the watcher, besides those of the Deployment.
            values: of the chart.
            connected: whether the default connection exists.
            limited: whether the watcher gets no more memory than the Deployment says.
            release: whether `helm install` installs it, for who upgrades or uninstalls it, and for `values` with
                namespaces that do not exist. Else its objects are made as `helm template` shows them, at a third of
                the cost.
        """
        stack = cls(plane, namespace, folder)
        stack.release = release
        try:
            await stack.serve(scenario)
            await stack._install(settings, values)
            if limited:
                before = stack._ending.enter_context(memory.limited(stack.memory_limit))
                stack.watcher.argv = [*before, *stack.watcher.argv]
            if connected:
                await stack.connect()
            stack.watcher.start()
            yield stack
            await stack.assert_no_secret_told()
        finally:
            await stack._down()

    # ── parts ──

    async def _install(self, settings: Mapping[str, str], values: Mapping[str, Any]) -> None:
        await install_crd(self.plane)
        chosen = self.folder / "values.yaml"
        chosen.write_text(yaml.safe_dump({"crds": {"enabled": False}, **values}))
        arguments = ("dbtrun", str(ROOT / "helm/dbtrun"), "-n", self.namespace, "-f", str(chosen))
        if self.release:
            await self.plane.helm("install", *arguments)
        else:
            shown = (await self.plane.helm("template", "--no-hooks", *arguments)).stdout
            for body in yaml.load_all(shown, yaml.CSafeLoader):
                await self.plane.change("POST", collection_of(body), body)
        deployment = await self.plane.read(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/dbtrun")
        assert deployment is not None
        pod = deployment["spec"]["template"]["spec"]
        container = pod["containers"][0]
        kubeconfig = await self.plane.kubeconfig_for(self.namespace, pod["serviceAccountName"], seconds=DAY)
        fields = {"metadata.namespace": self.namespace, "metadata.name": "watcher"}
        # The API server leaves an empty value out.
        env = {
            item["name"]: fields[item["valueFrom"]["fieldRef"]["fieldPath"]]
            if "valueFrom" in item
            else item.get("value", "")
            for item in container["env"]
        }
        env |= {**FAST, "DBTRUN_KUBECONFIG": str(kubeconfig), **settings}
        command = container["command"]
        assert command[0] == "dbtrun", command
        self.memory_limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi"))
        self.watcher = self._program("watcher", [sys.executable, "-m", "dbtrun", *command[1:]], env)

    def another_watcher(self, name: str) -> Program:
        """A second replica of the watcher's Deployment, not started."""
        env = self.watcher.env | {"POD_NAME": name}
        self.others.append(Program(name, self.watcher.argv, env, self.folder / f"{name}.log"))
        return self.others[-1]

    async def connect(self, token: str | None = None) -> None:
        """Makes the default connection, or gives it another token."""
        await self.apply(self.secret(SECRET, self.keys(token)))

    def _program(self, name: str, argv: list[str], env: Mapping[str, str]) -> Program:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return Program(name, argv, {"HOME": str(home), "PYTHONPATH": str(ROOT), **env}, self.folder / f"{name}.log")

    async def _down(self) -> None:
        for program in (getattr(self, "watcher", None), *self.others):
            if program is not None and program.running:
                await program.kill()
        self._ending.close()
        await self.close()

    async def watchers_said(self) -> str:
        return self.watcher.tail()

    async def everything_told(self) -> dict[str, str]:
        pages = {}
        if self.watcher.running:
            pages = {path: (await page(self.watcher, path)).text for path in ("/metrics", "/readyz", "/healthz")}
        return await super().everything_told() | pages


async def page(watcher: Program, path: str) -> httpx.Response:
    """What a watcher serves at its newest address."""
    await watcher.says(ADDRESS)
    address = re.findall(ADDRESS, watcher.text())[-1]
    async with plain_http() as http:
        return await http.get(f"http://{address}{path}")
