"""A control plane that serves DbtRuns, and an administrator's access to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.cluster.objects import install_crd
from tests.cluster.wire import Wire
from tests.controlplane import ControlPlane
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
async def wire(served: ControlPlane) -> AsyncIterator[Wire]:
    wire = Wire(served.server)
    await wire.open()
    yield wire
    await wire.close()
