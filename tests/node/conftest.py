"""A node of the session, with the watcher's image on it, in place of a control plane without one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.controlplane import ControlPlane, ControlPlaneError, build
from tests.node import Node, images, needs
from tests.node.archive import Image

_NEED_IMAGES = {"node", "image"}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing, outside of the time limit of any test. No test is skipped."""
    if session.config.option.collectonly or not any(_NEED_IMAGES & _fixtures(item) for item in session.items):
        return
    if complaint := needs.complaint():
        raise pytest.UsageError(complaint)
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            build.ensure(*build.NODE_TOOLS)
            images.pause()
            images.watcher()
        except ControlPlaneError as error:
            raise pytest.UsageError(str(error)) from None


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", []))


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """The node that all tests share: keep to a namespace of your own."""
    with Node() as node:
        node.load(images.watcher())
        yield node


@pytest.fixture(scope="session")
def plane(node: Node) -> ControlPlane:
    return node.plane


@pytest.fixture(scope="session")
def image() -> Image:
    """The watcher's image, without a node."""
    return Image.of(images.watcher())


@pytest.fixture
def restricted(plane: ControlPlane, namespace: str) -> str:
    """The test's namespace, where only restricted Pods are admitted."""
    plane.kubectl_sync("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return namespace
