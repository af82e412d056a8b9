"""Fixtures for every room: the control plane of the session, a namespace of the test's own, a plane of its own.

No test skips because a binary is missing: it is built first, outside the time limit of any test.
"""

from __future__ import annotations

import gc
import os
import re
import secrets
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.controlplane import BuildError, ControlPlane, build

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# How long an example takes says nothing on a machine that others use too.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

AIRFLOW: Final = "tests/airflow/"
_NEED_BINARIES = {"plane", "stormy_plane", "own_plane", "binaries"}
# These only compute, for minutes: one worker alone would still be at work when the others have ended.
_SHARE_NOTHING = {f"tests/chaos/test_{name}.py" for name in ("crash_points", "clocks", "outages")}
# A control plane of their own with the chart on it.
_SHARE_A_RELEASE = {f"tests/chart/test_{name}.py" for name in ("deploy", "gitops", "install", "sidecar")}
_FIRST = (
    *(AIRFLOW, "tests/hostile/test_attacks", "tests/hostile/test_kills", "tests/chaos/test_campaign"),
    *("tests/abuse/", "tests/cluster/test_doctor", "tests/cluster/test_mirrors.", "tests/chart/test_rights"),
    *("tests/cluster/test_namespaces", "tests/cluster/test_watched", "tests/chaos/test_mutant_campaigns"),
    *("tests/cluster/", "tests/hostile/", "tests/monitoring/"),
    *("tests/packaging/", "tests/chart/", "tests/demo/", "tests/contract/", "tests/controlplane/"),
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay until the end: to search them for garbage takes a fifth of the time of the collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes in one worker comes first, then what waits most of the time, and last what only computes.

    Else a worker would still be at a long file, or waiting, when the others have ended.
    """
    items.sort(
        key=lambda item: next((at for at, path in enumerate(_FIRST) if item.nodeid.startswith(path)), len(_FIRST))
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """With `--dist loadfile`, the tests of one Airflow release are as one file: it is started once, by one worker."""
    return Scopes(config, log) if config.getoption("dist") == "loadfile" else None


class Scopes(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """What one worker runs: an Airflow release, the chart's tests on one cluster, a file, or a function."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file in _SHARE_NOTHING:
            return nodeid.partition("[")[0]
        if file in _SHARE_A_RELEASE:
            return "the chart's release"
        release = re.search(r"\d+\.\d+\.\d+", test) if file.startswith(AIRFLOW) else None
        return release[0] if release else file


NICE: Final = 5
_GAVE_WAY: Final = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Workers beside the one with an Airflow release leave it the processors: it would be the last to end."""
    stash = item.config.stash
    if "PYTEST_XDIST_WORKER" not in os.environ or item.nodeid.startswith(AIRFLOW) or stash.get(_GAVE_WAY, False):
        return
    stash[_GAVE_WAY] = True
    if any(each.nodeid.startswith(AIRFLOW) for each in item.session.items):
        os.nice(NICE)


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
