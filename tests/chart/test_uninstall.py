"""From `helm test` to `helm uninstall`, with the watcher as a process: what stays, and how to remove it."""

from __future__ import annotations

import asyncio
import re
import secrets
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.chart.helm import CHART, ROOT, Helm
from tests.controlplane import ControlPlane
from tests.stack.site import dbt_run
from tests.stack.stack import Stack

PAGE: Final = (ROOT / "docs/install.md").read_text().partition("## Uninstalling")[2]
CANCELLED: Final = 30
HELM: Final = "app.kubernetes.io/managed-by=Helm"


@pytest.fixture
async def stack(plane: ControlPlane, tmp_path: Path) -> AsyncIterator[Stack]:
    namespace = f"uninstall-{secrets.token_hex(4)}"
    await asyncio.to_thread(plane.create_namespace_sync, namespace)
    async with Stack.up(plane, namespace, tmp_path, release=True) as stack:
        yield stack


async def run_documented(stack: Stack, beginning: str, **words: str) -> None:
    """Runs a command of the page, in the namespace of the test."""
    (command,) = re.findall(rf"^\$ ({re.escape(beginning)}.*)$", PAGE, re.MULTILINE)
    program, *arguments = shlex.split(command.replace("-n data", f"-n {stack.namespace}"))
    named = [words.get(argument, argument) for argument in arguments]
    await (stack.plane.helm if program == "helm" else stack.plane.kubectl)(*named)


async def left(stack: Stack) -> str:
    """What of the release is still there."""
    kinds = "deployments,services,serviceaccounts,secrets,roles,rolebindings,clusterroles,clusterrolebindings"
    selected = await stack.kubectl("get", kinds, f"-lapp.kubernetes.io/instance=dbtrun,{HELM}", "-oname")
    return "\n".join(line for line in selected.splitlines() if stack.namespace in line or ":" not in line)


async def live(stack: Stack, name: str) -> int:
    await stack.apply(dbt_run(name, "endless"))
    return int((await stack.reaches(name, "Running"))["runId"])


async def test_the_documented_way_cancels_live_runs_and_leaves_nothing(stack: Stack) -> None:
    run_id = await live(stack, "cancelled")
    await run_documented(stack, "kubectl delete dbtruns")
    assert [run["status"] for run in await stack.runs() if run["id"] == run_id] == [CANCELLED]
    await stack.watcher.stop()
    assert "deployment.apps/dbtrun" in await left(stack)
    await run_documented(stack, "helm uninstall")
    assert await left(stack) == ""
    assert "lease.coordination.k8s.io/dbtrun" in await stack.kubectl("get", "leases", "-oname")
    await run_documented(stack, "kubectl delete lease")
    assert await stack.kubectl("get", "leases", "-oname") == ""


async def test_live_runs_go_on_without_a_watcher_and_a_new_installation_takes_them_up(stack: Stack) -> None:
    run_id = await live(stack, "goes-on")
    forgotten = await live(stack, "let-go")
    await stack.watcher.stop()
    await run_documented(stack, "helm uninstall")
    assert (await stack.status("goes-on"))["phase"] == "Running"
    await stack.delete("let-go")
    await run_documented(stack, "kubectl patch dbtrun", NAME="let-go")
    await stack.gone("let-go")
    alive = [run["id"] for run in await stack.runs() if run["status"] < 10]
    assert sorted(alive) == sorted([run_id, forgotten])
    await stack.plane.helm("install", "dbtrun", str(CHART), "-n", stack.namespace, "--set=crds.enabled=false")
    token = await stack.plane.kubeconfig_for(stack.namespace, "dbtrun")
    assert str(token) == stack.watcher.env["DBTRUN_KUBECONFIG"], "the new account's token is where the old one's was"
    stack.watcher.start()
    await stack.watcher.says(r"Watching \d+ DbtRuns", after=len(stack.watcher.text()))
    await stack.ask("POST", f"/runs/{run_id}/finish", {"status": 10})
    assert (await stack.reaches("goes-on", "Succeeded"))["runId"] == run_id
    assert len(await stack.runs()) == 2


async def test_helm_test_passes_when_the_watcher_is_ready_and_fails_with_its_words(helm: Helm, stack: Stack) -> None:
    (pod,) = (each for each in helm.objects() if each["kind"] == "Pod")
    python, flag, program, url = pod["spec"]["containers"][0]["command"]
    assert (python, flag, url) == ("python", "-c", "http://dbtrun.dbtrun-system.svc:8080/readyz")
    address = (await stack.watcher.says(r"Listening on (127\.0\.0\.1:\d+)")).group(1)
    quick = program.replace("time.monotonic() + 60", "time.monotonic() + 1")

    async def tested(program: str) -> tuple[int, str]:
        argv = (sys.executable, "-c", program, f"http://{address}/readyz")
        process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
        return process.returncode or 0, errors.decode()

    assert await tested(program) == (0, "")
    await stack.watcher.stop()
    code, words = await tested(quick)
    assert code == 1
    assert "Connection refused" in words


async def test_the_notes_name_every_namespace_that_is_served(helm: Helm) -> None:
    notes = helm.notes("--set=watchNamespaces={a,b}")
    assert re.findall(r"kubectl delete dbtruns --all --namespace (\w)", notes) == ["a", "b"]
    assert "--all-namespaces" in helm.notes("--set=watchAllNamespaces=true")


def test_the_annotations_name_the_image_and_a_run_as_they_are(helm: Helm) -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (image,) = yaml.safe_load(about["annotations"]["artifacthub.io/images"])
    assert helm.deployment()["spec"]["template"]["spec"]["containers"][0]["image"] == image["image"]
    readme = (ROOT / "README.md").read_text()
    (example,) = yaml.safe_load(about["annotations"]["artifacthub.io/crdsExamples"])
    (shown,) = re.findall(r"```yaml\n(apiVersion: dbtrun.dev.*?)```", readme, re.DOTALL)
    assert yaml.safe_load(shown) == example
