"""Fixtures for every room: the control plane of the session, a namespace of the test's own, a plane of its own.

No test skips because a binary is missing: it is built first, outside the time limit of any test.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.controlplane import BuildError, ControlPlane, build

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

_NEED_BINARIES = {"plane", "stormy_plane", "own_plane", "binaries"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, then what waits most of the time: at the end it would leave processors idle."""
    first = ("tests/airflow/", "tests/chaos/test_campaign", "tests/cluster/")
    items.sort(key=lambda item: next((at for at, path in enumerate(first) if item.nodeid.startswith(path)), len(first)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """With `--dist loadfile`, the tests of one Airflow release are as one file: it is started once, by one worker."""
    return ByRelease(config, log) if config.getoption("dist") == "loadfile" else None


class ByRelease(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Scopes for xdist: an Airflow release, or a file."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        release = re.search(r"\d+\.\d+\.\d+", test) if file.startswith("tests/airflow/") else None
        return release[0] if release else file


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    if not any(_NEED_BINARIES.intersection(getattr(item, "fixturenames", ())) for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            build.ensure()
        except BuildError as error:
            raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def binaries() -> None:
    """For tests that use helm or kubeconform without a control plane: they are built before the first test runs."""


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """The control plane that all tests share: keep to a namespace and to ServiceAccounts of your own."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture(scope="module")
def stormy_plane() -> Iterator[ControlPlane]:
    """A control plane that a file's tests stop, freeze and compact; each heals it for the next."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture
def own_plane() -> Iterator[ControlPlane]:
    """A control plane for a test that needs a fresh one, or leaves it broken."""
    with ControlPlane() as plane:
        yield plane


@pytest.fixture
def namespace(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh namespace, named after the test; its deletion is asked for at the end and not awaited."""
    slug = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{slug}-{secrets.token_hex(4)}"
    plane.create_namespace_sync(name)
    yield name
    plane.delete_namespace_sync(name)
