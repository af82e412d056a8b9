"""DbtRuns as a user makes them, on the control plane of the tests, and the way to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from dbtrun.api import API_VERSION
from dbtrun.kube.paths import api_path
from tests.controlplane import ControlPlane
from tests.patience import patience
from watcher.cluster.access import ClusterAccess

CRD: Final = Path(__file__).parents[2] / "deploy/crd/dbtrun.dev_dbtruns.yaml"
PREFIX: Final = f"apis/{API_VERSION}"


def install_crd(plane: ControlPlane) -> None:
    plane.kubectl_sync("apply", "-f", str(CRD))
    plane.kubectl_sync("wait", "--for=condition=Established", "crd/dbtruns.dbtrun.dev")


async def create(access: ClusterAccess, namespace: str, name: str, **metadata: Any) -> dict[str, Any]:
    body = {
        "apiVersion": API_VERSION,
        "kind": "DbtRun",
        "metadata": {"name": name, **metadata},
        "spec": {"job": {"id": 1}},
    }
    answer = await access.request("POST", api_path(PREFIX, namespace, "dbtruns"), body=body)
    created: dict[str, Any] = msgspec.json.decode(answer)
    return created


async def raw(access: ClusterAccess, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(
        await access.request("GET", api_path(PREFIX, namespace, "dbtruns", name))
    )
    return found


async def delete(access: ClusterAccess, namespace: str, name: str) -> None:
    await access.request("DELETE", api_path(PREFIX, namespace, "dbtruns", name))


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + patience(seconds)
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def kubeconfig_to(server: str, original: Path, directory: Path) -> Path:
    config = yaml.safe_load(original.read_text())
    config["clusters"][0]["cluster"]["server"] = server
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
