"""A control plane that serves DbtRuns, and an administrator's access to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cluster.objects import install_crd, kubeconfig_to
from tests.controlplane import ControlPlane
from tests.stack.proxy import Proxy
from watcher.cluster.access import ClusterAccess


@pytest.fixture(scope="session")
def served(plane: ControlPlane) -> ControlPlane:
    install_crd(plane)
    return plane


@pytest.fixture
async def admin(served: ControlPlane) -> AsyncIterator[ClusterAccess]:
    access = await ClusterAccess.load(served.kubeconfig)
    yield access
    await access.close()


@pytest.fixture
async def proxy(served: ControlPlane) -> AsyncIterator[Proxy]:
    """Between a client and the API server."""
    server = urlsplit(served.server)
    async with Proxy.up(server.hostname or "", server.port or 443) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: Proxy, served: ControlPlane, tmp_path: Path) -> Path:
    """A kubeconfig whose connections go through the proxy."""
    return kubeconfig_to(f"https://127.0.0.1:{proxy.port}", served.kubeconfig, tmp_path)
