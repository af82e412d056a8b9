"""One Airflow in pods for all tests here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.controlplane import ControlPlaneError
from tests.node import Node
from tests.node.airflow import rig as rigs
from tests.node.airflow.rig import Rig


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds the image, outside of the time limit of any test."""
    if session.config.option.collectonly or not any(
        "rig" in getattr(item, "fixturenames", ()) for item in session.items
    ):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            rigs.image()
        except ControlPlaneError as error:
            raise pytest.UsageError(str(error)) from None


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def rig(node: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Everything running."""
    node.load(rigs.image())
    async with Rig.up(node, tmp_path_factory.mktemp("airflow")) as rig:
        yield rig
