"""Applies three DbtRuns with kubectl and shows them live; the last line is the TriggerEvent that Airflow would get."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live

from dbtrun.api import API_VERSION, PLURAL
from tests.controlplane import ControlPlane
from tests.demo.screen import Recording, line, row, table
from tests.patience import patience
from tests.stack import Program, Stack, dbt_run
from tests.stack.site import ROOT

NAMESPACE: Final = "demo"
AIRFLOW: Final = {"name": "airflow", "namespace": NAMESPACE}
"""The ServiceAccount that the chart lets watch DbtRuns."""
RUNS: Final = {"nightly": "success", "broken": "failure", "too-long": "endless"}
FINAL: Final = {"Succeeded", "Failed", "Cancelled", "TimedOut", "Error"}
SECONDS: Final = 90.0

console = Console(highlight=False)
said: list[str] = []


async def main() -> Recording:
    """The demo; returns what it showed."""
    said.clear()
    say("starting etcd, kube-apiserver and kube-controller-manager")
    with tempfile.TemporaryDirectory(prefix="dbtrun-demo-") as folder:
        async with ControlPlane.start(Path(folder)) as plane:
            plane.create_namespace_sync(NAMESPACE)
            say("helm install, then the simulator of dbt Cloud and the watcher, a process each")
            values = {"airflow": {"serviceAccounts": [AIRFLOW]}}
            async with Stack.up(plane, NAMESPACE, Path(folder), values=values) as stack:
                return await show(stack)


async def show(stack: Stack) -> Recording:
    """Applies, watches and cancels."""
    say(f"kubectl apply -f …  # {', '.join(RUNS)}")
    await stack.apply(*(dbt_run(name, job) for name, job in RUNS.items()))
    waiter = await airflow_waits_for(stack, "nightly")
    async with asyncio.timeout(patience(SECONDS)):
        items = await watch(stack)
    event = json.loads((await waiter.says(r"(?m)^\{.*\}$")).group())
    say("and this is what Airflow got, without a worker, a dbt Cloud token or a poll:")
    return Recording(list(said), items, event)


async def airflow_waits_for(stack: Stack, name: str) -> Program:
    """A trigger in a process of its own, with nothing but a right to look at DbtRuns."""
    await stack.kubectl("create", "serviceaccount", AIRFLOW["name"])
    kubeconfig = await stack.plane.kubeconfig_for(stack.namespace, AIRFLOW["name"])
    argv = [sys.executable, "-W", "ignore", "-m", "tests.demo.waiter", name, stack.namespace, str(kubeconfig)]
    env = {"AIRFLOW_HOME": str(stack.folder / "airflow"), "HOME": str(stack.folder / "home"), "PYTHONPATH": str(ROOT)}
    waiter = Program("trigger", argv, env, stack.folder / "trigger.log")
    waiter.start()
    return waiter


async def watch(stack: Stack) -> list[dict[str, Any]]:
    """Shows the table until all are final, and cancels the endless one once it runs; returns them."""
    cancelled, shown = False, ""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            listed = await stack.plane.read(f"/apis/{API_VERSION}/namespaces/{stack.namespace}/{PLURAL}")
            items: list[dict[str, Any]] = (listed or {})["items"]
            state = json.dumps([row(item)[:-1] for item in items])
            if console.is_terminal:
                live.update(table(items), refresh=True)
            elif state != shown:
                console.print(table(items))
            shown = state
            phases = {item["metadata"]["name"]: item.get("status", {}).get("phase") for item in items}
            if not cancelled and phases.get("too-long") == "Running":
                cancelled = True
                await stack.patch("too-long", {"cancel": True})
                say('kubectl patch dr too-long --type=merge -p \'{"spec":{"cancel":true}}\'')
            if len(phases) == len(RUNS) and set(phases.values()) <= FINAL:
                return items
            await asyncio.sleep(0.3)


def say(what: str) -> None:
    """One line of what happens."""
    said.append(what)
    console.print(line(what))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--record", action="store_true", help="store what was shown, and draw docs/demo.svg")
    recording = parser.parse_args().record
    shown = asyncio.run(main())
    print(json.dumps(shown.event))
    if recording:
        shown.store()
