"""What `make test` leaves to `make test-airflow`: tests that prove once more, on a whole Airflow, what another proves.

On Airflow 2 it keeps one test of each public operator, sensor and trigger, and of each way in which Airflow ends,
repeats or loses a task. On Airflow 3 it keeps nearly all.
"""

from __future__ import annotations

import os
import re
from typing import Final

import pytest

BRIEF: Final = "BRIEF" in os.environ
"""Whether this is `make test`."""


def thorough(*generations: int) -> pytest.MarkDecorator:
    """Marks a test that `make test` does not run on these generations of Airflow."""
    return pytest.mark.thorough(*generations)


def left_out(item: pytest.Item) -> bool:
    """Whether `make test` leaves this test to `make test-airflow`."""
    release = re.search(r"(\d+)\.\d+\.\d+", item.name)
    return release is not None and any(int(release[1]) in mark.args for mark in item.iter_markers("thorough"))


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
