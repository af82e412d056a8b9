"""A control plane of the chart's own: installing and uninstalling a CRD would disturb every other test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, Helm
from tests.controlplane import ControlPlane

NAMESPACES = ("dbtrun-system", "team-a", "team-b")
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="session")
def helm(binaries: None, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm without a cluster."""
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def cluster(helm: Helm) -> Iterator[ControlPlane]:
    """A control plane with the namespaces that the values files name; each takes restricted pods only."""
    with ControlPlane() as plane:
        for name in NAMESPACES:
            plane.create_namespace_sync(name)
            plane.kubectl_sync("label", "namespace", name, RESTRICTED)
        yield plane


@pytest.fixture(scope="session")
def shared_bare_plane(binaries: None) -> Iterator[ControlPlane]:
    """What `bare_plane` cleans."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture
def bare_plane(shared_bare_plane: ControlPlane) -> Iterator[ControlPlane]:
    """A control plane on which nothing of ours is, not even the CRD; what a test leaves there is removed."""
    yield shared_bare_plane
    remove_everything(shared_bare_plane)


def remove_everything(plane: ControlPlane) -> None:
    """Removes the CRDs, the usual namespace, and what is ours outside of namespaces."""
    plane.kubectl_sync(
        "delete", "crd/dbtruns.dbtrun.dev", "crd/dbtrunmirrors.dbtrun.dev", "--ignore-not-found", timeout=240
    )
    plane.kubectl_sync("delete", "namespace/dbtrun-system", "--ignore-not-found", timeout=240)
    found = plane.kubectl_sync("get", "clusterroles,clusterrolebindings", "-oname").stdout.split()
    if ours := [name for name in found if "dbtrun" in name]:
        plane.kubectl_sync("delete", *ours)


@pytest.fixture(scope="session")
def notes(helm: Helm, cluster: ControlPlane) -> str:
    """What `helm install` printed, with a watcher that serves two namespaces and reads Secrets in one."""
    return helm.install(
        cluster,
        "--set=watchNamespaces={dbtrun-system,team-a}",
        "--set=secretNamespaces={team-a}",
        "--set=airflow.serviceAccounts[0].name=airflow-worker,airflow.serviceAccounts[0].namespace=team-b",
        "--set=airflow.namespaces={team-a}",
    )


@pytest.fixture(scope="session")
def installed(notes: str, cluster: ControlPlane) -> ControlPlane:
    """The control plane with the release on it."""
    return cluster


@pytest.fixture(scope="session")
def watcher_identity(installed: ControlPlane) -> Path:
    """A kubeconfig with the token of the watcher's own ServiceAccount."""
    return asyncio.run(installed.kubeconfig_for("dbtrun-system", "dbtrun"))


@pytest.fixture(scope="session")
def values() -> dict[str, Any]:
    """The chart's default values."""
    loaded: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return loaded
