"""Prometheus's programs, for the tests of alerts and dashboards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.controlplane import BuildError, build


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is missing, outside of the time limit of any test. No test is skipped."""
    here = Path(__file__).parent
    if session.config.option.collectonly or not any(here in item.path.parents for item in session.items):
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        try:
            build.ensure(*build.MONITORING_TOOLS)
        except BuildError as error:
            raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def promtool() -> Path:
    return build.ensure("promtool")["promtool"]
