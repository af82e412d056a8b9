"""What GitOps tools make of a DbtRun in every phase and before its first status, by their own code.

A tool that takes a run which has not begun for one that is done would go on with what depends on it.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from dbtrun.api import API_VERSION, FINAL_PHASES, KIND, Phase, Reason, Status
from tests.chart.argocd import health
from tests.chart.helm import ROOT, Helm, chart_of
from tests.controlplane import ControlPlane, build
from tests.patience import patience
from watcher.cluster.access import ClusterAccess
from watcher.cluster.writer import Writer
from watcher.lifecycle.statuses import stamped

NAMESPACE: Final = "team-b"
NEW: Final = "new"
"""Before the first status."""
STATES: Final = (NEW, *(phase.value for phase in Phase))
RIGHT: Final = dict.fromkeys(STATES, "waits") | dict.fromkeys(FINAL_PHASES, "failed") | {Phase.SUCCEEDED: "done"}
"""By state what each tool must say."""
TOOLS: Final = ("kstatus", "Flux", "helm --wait", "Argo CD", "Argo Workflows", "kubectl wait")

Objects = dict[str, dict[str, Any]]


def name_of(state: str) -> str:
    return f"is-{state.lower()}"


def manifest(state: str) -> dict[str, Any]:
    """An object that looks as if the state's Helm release had made it."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name_of(state),
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/managed-by": "Helm"},
            "annotations": {
                "meta.helm.sh/release-name": name_of(state),
                "meta.helm.sh/release-namespace": NAMESPACE,
            },
        },
        "spec": {"job": {"id": 1}},
    }


async def bring_about(plane: ControlPlane) -> None:
    """Write the status of each phase as the watcher does."""
    access = await ClusterAccess.load(plane.kubeconfig)
    try:
        writer = Writer(access)
        for phase in Phase:
            run = await writer.get(NAMESPACE, name_of(phase))
            told = Status(phase=phase, reason=Reason.ACCEPTED, message=f"It is {phase}.")
            generation = run.metadata.generation
            await writer.patch_status(run, stamped(told, generation, datetime.now(UTC), None, answered=True))
    finally:
        await access.close()


@pytest.fixture(scope="module")
def objects(installed: ControlPlane) -> Objects:
    """By state the object as the API server sends it."""
    items = [manifest(state) for state in STATES]
    installed.kubectl_sync("create", "-f-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    asyncio.run(bring_about(installed))
    stored = json.loads(installed.kubectl_sync("get", "dr", f"--namespace={NAMESPACE}", "-ojson").stdout)["items"]
    by_name = {item["metadata"]["name"]: item for item in stored}
    return {state: by_name[name_of(state)] for state in STATES}


def workflow_conditions() -> tuple[str, str]:
    """As the page recommends them."""
    page = (ROOT / "docs/gitops.md").read_text()
    success, failure = (re.findall(rf"^ *{name}: (.+)$", page, re.MULTILINE) for name in CONDITIONS)
    return success[0], failure[0]


CONDITIONS: Final = ("successCondition", "failureCondition")
WORDS: Final = {
    "Current": "done", "Failed": "failed", "InProgress": "waits",
    "Healthy": "done", "Degraded": "failed", "Progressing": "waits",
    "Succeeded": "done", "Waiting": "waits",
}  # fmt: skip


def by_own_code(objects: Objects) -> dict[str, dict[str, str]]:
    """By tool and state, what the tool's own Go or Lua says."""
    program = build.ensure("gitops")["gitops"]
    given = json.dumps([objects[state] for state in STATES])
    answer = subprocess.run(
        [program, *workflow_conditions()], input=given, capture_output=True, text=True, check=True, timeout=patience(60)
    )
    told = dict(zip(STATES, json.loads(answer.stdout), strict=True))
    columns = {"kstatus": "kstatus", "Flux": "flux", "Argo Workflows": "workflow"}
    found = {tool: {state: WORDS[told[state][key]] for state in STATES} for tool, key in columns.items()}
    return found | {"Argo CD": {state: WORDS[health(objects[state])[0]] for state in STATES}}


def waited(plane: ControlPlane, condition: str) -> set[str]:
    """The states that `kubectl wait` lets pass, looking once."""
    names = [f"dr/{name_of(state)}" for state in STATES]
    where = (f"--namespace={NAMESPACE}", "--timeout=0")
    said = plane.kubectl_sync("wait", *names, f"--for=condition={condition}", *where, check=False).stdout
    return {state for state in STATES if f"/{name_of(state)} condition met" in said}


def by_kubectl(plane: ControlPlane) -> dict[str, str]:
    finished, succeeded = waited(plane, "Finished"), waited(plane, "Succeeded")
    return {
        state: "done" if state in succeeded else "failed" if state in finished else "waits" for state in STATES
    }  # fmt: skip


def by_helm(helm: Helm, plane: ControlPlane, folder: Path) -> dict[str, str]:
    def install(state: str) -> str:
        chart = chart_of(folder / name_of(state), manifest(state))
        # What is over is known at once; time is for a busy machine.
        patience = "5s" if RIGHT[state] == "waits" else "60s"
        where = (f"--namespace={NAMESPACE}", "--wait", f"--timeout={patience}")
        answer = helm.run("install", chart.name, str(chart), *where, plane=plane)
        if answer.returncode == 0:
            return "done"
        return "waits" if "InProgress" in answer.stderr and "deadline exceeded" in answer.stderr else "failed"

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(STATES, pool.map(install, STATES), strict=True))


def test_every_tool_is_right_in_every_state(
    objects: Objects, installed: ControlPlane, helm: Helm, tmp_path: Path
) -> None:
    told = by_own_code(objects) | {"kubectl wait": by_kubectl(installed)}
    told |= {"helm --wait": by_helm(helm, installed, tmp_path)}
    print("\n" + "".join(f"{word:16}" for word in ("", *TOOLS)))
    for state in STATES:
        print("".join(f"{word:16}" for word in (state, *(told[tool][state] for tool in TOOLS))))
    assert told == {tool: {state: RIGHT[state] for state in STATES} for tool in TOOLS}


def test_a_status_that_somebody_emptied_is_no_end(objects: Objects, installed: ControlPlane) -> None:
    empty = json.dumps({"status": None})
    where = (f"--namespace={NAMESPACE}", "--subresource=status", "--type=merge", "-ojson")
    answer = installed.kubectl_sync("patch", "dr", name_of(Phase.RUNNING), *where, f"--patch={empty}")
    assert json.loads(answer.stdout)["status"] == {"observedGeneration": -1}
