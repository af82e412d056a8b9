"""The plain manifests with kustomize, and an installation by somebody who has rights in one namespace only."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from deploy import render
from tests.chart.conftest import remove_everything
from tests.chart.helm import CHART, ROOT, Helm, documents
from tests.controlplane import Completed, ControlPlane
from tests.patience import patience

DELEGATED: Final = "dbtrun-system:dbtrun:watcher"
KUSTOMIZATION: Final = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}


@pytest.fixture(scope="module")
def plane(shared_bare_plane: ControlPlane) -> Iterator[ControlPlane]:
    """A control plane on which nothing is installed; what the file leaves there is removed."""
    yield shared_bare_plane
    remove_everything(shared_bare_plane)


@pytest.fixture(scope="module")
def prepared(plane: ControlPlane) -> ControlPlane:
    """What a cluster administrator installs once."""
    plane.kubectl_sync("apply", f"-k{ROOT / 'deploy/overlays/namespace-admins'}")
    plane.kubectl_sync("wait", "--for=condition=Established", "crd/dbtruns.dbtrun.dev", "--timeout=120s")
    return plane


@pytest.fixture(scope="module")
def tenant(prepared: ControlPlane) -> Path:
    """A kubeconfig of somebody who has the role admin in the namespace tenant, and no other right."""
    prepared.create_namespace_sync("tenant")
    where = "--namespace=tenant"
    prepared.kubectl_sync("create", "serviceaccount", "adam", where)
    prepared.kubectl_sync("create", "rolebinding", "adam", "--clusterrole=admin", "--serviceaccount=tenant:adam", where)
    kubeconfig = asyncio.run(prepared.kubeconfig_for("tenant", "adam"))

    def may_bind() -> bool:
        return may(prepared, kubeconfig, "bind", f"clusterroles.rbac.authorization.k8s.io/{DELEGATED}", "tenant")

    eventually(may_bind)
    return kubeconfig


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + patience(seconds)
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


def may(plane: ControlPlane, kubeconfig: Path, verb: str, resource: str, namespace: str) -> bool:
    asked = ("auth", "can-i", verb, resource, f"--namespace={namespace}", f"--kubeconfig={kubeconfig}")
    return plane.kubectl_sync(*asked, check=False).stdout.strip() == "yes"


def stored(plane: ControlPlane, *args: str) -> Any:
    return json.loads(plane.kubectl_sync("get", *args, "-ojson").stdout)


def documented(pattern: str) -> str:
    """The one place of the page on installing that matches."""
    (found,) = re.findall(pattern, (ROOT / "docs/install.md").read_text(), re.DOTALL)
    return str(found)


def test_an_overlay_moves_everything_to_another_namespace(plane: ControlPlane, tmp_path: Path) -> None:
    base = os.path.relpath(ROOT / "deploy", tmp_path.resolve())
    moved = {**KUSTOMIZATION, "namespace": "prod-dbt", "resources": [base]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(moved))
    plane.kubectl_sync("apply", f"-k{tmp_path}")
    where = "--namespace=prod-dbt"
    plane.kubectl_sync("wait", where, "--for=create", "pod", "-lapp.kubernetes.io/name=dbtrun", "--timeout=120s")
    deployment = plane.kubectl_sync("get", where, "deployment", "dbtrun", "-oyaml").stdout
    assert "dbtrun-system" not in deployment
    watcher = asyncio.run(plane.kubeconfig_for("prod-dbt", "dbtrun"))
    for verb, resource in (("list", "dbtruns.dbtrun.dev"), ("update", "leases/dbtrun"), ("get", "secrets/dbt-cloud")):
        assert may(plane, watcher, verb, resource, "prod-dbt"), (verb, resource)
    assert not plane.kubectl_sync("get", "namespace", "dbtrun-system", check=False).stdout


@pytest.mark.parametrize("name", [None, *render.OVERLAYS])
def test_every_overlay_installs(plane: ControlPlane, name: str | None) -> None:
    if name == "sidecar":
        plane.create_namespace_sync("airflow")
    folder = ROOT / "deploy" / (f"overlays/{name}" if name else "")
    plane.kubectl_sync("apply", f"-k{folder}")
    if name is None:
        plane.kubectl_sync("wait", "--for=condition=Established", "crd/dbtruns.dbtrun.dev", "--timeout=120s")
    namespace = "airflow" if name == "sidecar" else "dbtrun-system"
    built = documents(plane.kubectl_sync("kustomize", str(folder)).stdout)
    assert {each["metadata"].get("namespace", namespace) for each in built} <= {namespace}
    for deployment in (each for each in built if each["kind"] == "Deployment"):
        wanted = deployment["spec"]["replicas"]

        def admitted(wanted: int = wanted) -> bool:
            listed = stored(plane, "deployment", "dbtrun", f"--namespace={namespace}")
            return bool(listed["status"].get("replicas", 0) == wanted)

        eventually(admitted)
    plane.kubectl_sync("delete", f"-k{folder}", "--timeout=240s", "--ignore-not-found")


def test_without_a_role_to_bind_nobody_gives_the_watcher_rights_that_they_lack(
    helm: Helm, prepared: ControlPlane, tenant: Path
) -> None:
    answer = install(helm, tenant, "--set=crds.enabled=false,rbac.aggregate=false,rbac.releaseDeleted=false")
    assert answer.returncode == 1
    lacking = set(re.findall(r"Resources:\[\"([a-z/]+)\"\], Verbs:\[\"([a-z]+)\"\]", answer.stderr.replace("\\", "")))
    assert lacking == {("dbtruns/status", "patch"), ("dbtrunmirrors/status", "patch")}, answer.stderr
    helm.run("uninstall", "dbtrun", "--namespace=tenant", f"--kubeconfig={tenant}")


def test_the_admin_of_a_namespace_installs_a_watcher_there_as_documented(
    helm: Helm, prepared: ControlPlane, tenant: Path
) -> None:
    assert "kubectl apply -k deploy/overlays/namespace-admins" in (ROOT / "docs/install.md").read_text()
    flags = documented(r"helm install dbtrun helm/dbtrun -n tenant \\\n\s+(--set [^`]*?)\n").split()
    answer = install(helm, tenant, *flags)
    assert answer.returncode == 0, answer.stderr
    watcher = asyncio.run(prepared.kubeconfig_for("tenant", "dbtrun"))
    needs = [("patch", "dbtruns.dbtrun.dev/status"), ("create", "events.events.k8s.io"), ("get", "secrets")]
    needs += [("create", "configmaps"), ("create", "leases"), ("update", "leases/dbtrun"), ("watch", "dbtruns")]
    assert [need for need in needs if not may(prepared, watcher, *need, "tenant")] == []
    assert not may(prepared, watcher, "list", "dbtruns.dbtrun.dev", "default")
    prepared.kubectl_sync(
        "wait", "--namespace=tenant", "--for=create", "pod", "-lapp.kubernetes.io/name=dbtrun", "--timeout=120s"
    )


def install(helm: Helm, kubeconfig: Path, *args: str) -> Completed:
    return helm.run("install", "dbtrun", str(CHART), "--namespace=tenant", f"--kubeconfig={kubeconfig}", *args)
