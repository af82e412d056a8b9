"""The releases, one after the other: each is up once per session and shared by its tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from tests.airflow import environments
from tests.airflow.rig import Rig
from tests.controlplane import BuildError, build

# Environments of their own, which are installed for each, and what takes minutes: with all releases.
collect_ignore = (
    [] if len(environments.tested()) == len(environments.RELEASES) else ["test_floors.py", "test_reacting_more.py"]
)

BRIEF: Final = (
    "a_retry_after_a_failure",
    "a_deferred_task_cleared_after_its_success",
    "its_dag_run_deleted_and_created_again",
    "mapped_tasks_cleared_when_there_are_fewer",
)
"""Ways to run a task again that `make test` tries on Airflow 2: one of each kind. `make test-airflow` tries all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what BRIEF leaves out, if the environment asks for it: on Airflow 2 each takes several seconds."""
    if "BRIEF" in os.environ:
        items[:] = [item for item in items if not _of_airflow_2_again(item) or any(way in item.name for way in BRIEF)]


def _of_airflow_2_again(item: pytest.Item) -> bool:
    return item.path.name == "test_reruns.py" and "[2." in item.name


def pytest_collection_finish(session: pytest.Session) -> None:
    """Makes what is missing before the first test, whose time limit it would break."""
    here = [item for item in session.items if "rig" in getattr(item, "fixturenames", ())]
    if session.config.option.collectonly or not here:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            build.ensure()
            for version in environments.tested():
                if any(version in item.name for item in here):
                    environments.ensure(environments.RELEASES[version])
        except (BuildError, environments.NotReady) as error:
            raise pytest.UsageError(str(error)) from None


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=environments.tested())
async def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """An Airflow with all that it works with. Two at once would not fit on two cores."""
    release = environments.RELEASES[request.param]
    async with Rig.up(release, tmp_path_factory.mktemp(f"airflow-{release.version}")) as rig:
        yield rig
