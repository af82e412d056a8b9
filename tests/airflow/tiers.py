"""Which tests `make test` runs, and which it leaves to `make test-airflow-rest`; `make test-airflow` runs all.

`make test` runs no test on Airflow 2, and on Airflow 3 none that is marked as thorough.
"""

from __future__ import annotations

import os
from typing import Final

import pytest

BRIEF: Final = "BRIEF" in os.environ
"""Whether this is `make test`."""
REST: Final = "REST" in os.environ
"""Whether this is `make test-airflow-rest`."""
thorough: Final = pytest.mark.thorough
"""Marks a test that `make test` does not run."""


def chosen(request: pytest.FixtureRequest, parameter: str, test: str = "") -> list[str]:
    """What the tests that will run on this release have for a parameter, in their order: the rest need not be begun.

    Args:
        request: of a fixture that stands on `rig`.
        parameter: its name.
        test: what the tests' names contain.
    """
    version = request.getfixturevalue("rig").release.version
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and test in item.name]
    parameters = [item.callspec.params for item in items if hasattr(item, "callspec")]
    values = (str(each[parameter]) for each in parameters if each.get("rig") == version and parameter in each)
    return list(dict.fromkeys(values))
