"""The releases, one after the other: each is up once per session and shared by its tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Final

import pytest
import pytest_asyncio
from _pytest.fixtures import SubRequest  # pytest has no public way to end a fixture

from tests.airflow import environments, tiers
from tests.airflow.rig import Rig
from tests.controlplane import BuildError, build

# Environments of their own, which are installed for each, and what takes minutes: with all releases.
collect_ignore = (
    [] if len(environments.tested()) == len(environments.RELEASES) else ["test_floors.py", "test_reacting_more.py"]
)

_END: Final = pytest.StashKey[partial[None]]()
"""Ends the release that runs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the part of the tests that `make test` or `make test-airflow-rest` runs."""
    if tiers.BRIEF:
        items[:] = [item for item in items if not left_to_rest(item)]
    elif tiers.REST:
        items[:] = [item for item in items if left_to_rest(item)]


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


def left_to_rest(item: pytest.Item) -> bool:
    """Whether `make test` leaves this test to `make test-airflow-rest`."""
    release = release_of(item)
    return release is not None and (
        environments.RELEASES[release].generation == 2 or item.get_closest_marker("thorough") is not None
    )


def release_of(item: pytest.Item) -> str | None:
    """The release that the test runs on."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return None
    release = item.callspec.params.get("rig")
    return release if isinstance(release, str) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Ends a release after its last test: until its worker ends, it would use up to a sixth of a processor."""
    yield
    items = item.session.items
    release, later = release_of(item), items[items.index(item) + 1 :]
    end = item.session.stash.get(_END, None)
    if end is not None and release is not None and release not in map(release_of, later):
        end()


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=environments.tested())
async def rig(request: SubRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """An Airflow with all that it works with. Two at once would not fit on two cores."""
    release = environments.RELEASES[request.param]
    request.session.stash[_END] = partial(request._fixturedef.finish, request)
    async with Rig.up(release, tmp_path_factory.mktemp(f"airflow-{release.version}")) as rig:
        yield rig
