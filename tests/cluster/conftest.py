"""A control plane that serves DbtRuns, and an administrator's access to it."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dbtrun.api import API_VERSION, PLURAL
from dbtrun.api.mirrors import MIRROR_PLURAL
from tests.cluster.objects import install_crd, kubeconfig_to
from tests.controlplane import ControlPlane
from tests.stack.proxy import Proxy
from watcher.cluster.access import ClusterAccess


@pytest.fixture(scope="session")
def served(plane: ControlPlane) -> ControlPlane:
    install_crd(plane)
    return plane


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """As everywhere, but that it stays, and only goes what watchers act on and by what `dbtrun doctor` finds them.

    To delete a namespace, the control plane asks for objects of every kind: that is dearer than most tests.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{slug}-{secrets.token_hex(4)}"
    plane.create_namespace_sync(name)
    yield name
    kinds = ((API_VERSION, PLURAL), (API_VERSION, MIRROR_PLURAL), ("apps/v1", "deployments"))
    plane.clear_sync(*(f"/apis/{version}/namespaces/{name}/{plural}" for version, plural in kinds))


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
