"""The table of the provider's behaviours holds: its tests exist, its differences are told, no argument is forgotten."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import BaseOperator
from airflow.providers.dbt.cloud.operators.dbt import (
    DbtCloudGetJobRunArtifactOperator,
    DbtCloudListJobRunsOperator,
    DbtCloudRunJobOperator,
)
from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor
from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

from airflow_trigger.artifacts import DbtRunArtifactOperator
from airflow_trigger.listing import DbtRunListOperator
from airflow_trigger.operator import DbtRunOperator
from airflow_trigger.sensor import DbtRunSensor
from airflow_trigger.trigger import DbtRunTrigger
from tests.unit.airflow_trigger.peer import PEER, ROWS, Different, Same

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
DOCS = TESTS.parent / "docs/airflow.md"
DIFFERENCES = [(row.behaviour, row.here) for row in ROWS if isinstance(row.here, Different)]

PAIRS: dict[type, type] = {
    DbtCloudRunJobOperator: DbtRunOperator,
    DbtCloudJobRunSensor: DbtRunSensor,
    DbtCloudRunJobTrigger: DbtRunTrigger,
    DbtCloudGetJobRunArtifactOperator: DbtRunArtifactOperator,
    DbtCloudListJobRunsOperator: DbtRunListOperator,
}
NOT_TAKEN: dict[type, set[str]] = {
    DbtCloudRunJobOperator: set(),
    DbtCloudJobRunSensor: set(),
    DbtCloudRunJobTrigger: {"hook_params", "execution_deadline"},
    DbtCloudGetJobRunArtifactOperator: set(),
    DbtCloudListJobRunsOperator: set(),
}


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of a file's tests."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, functions))


def missing() -> Iterator[str]:
    """The tests that rows name and nobody has written."""
    for named in (test for row in ROWS for test in row.here.tests):
        file, _, name = named.partition("::")
        path = TESTS / file if "/" in file else HERE / file
        if not (path.is_file() and name in names_in(path)):
            yield named


@cache
def told() -> str:
    """The page for users, on one line."""
    return " ".join(DOCS.read_text().split())


def test_the_provider_is_the_version_whose_tests_were_read() -> None:
    assert version("apache-airflow-providers-dbt-cloud") == PEER, "read its tests anew, then change PEER"


def test_every_behaviour_is_asserted_by_tests_that_exist() -> None:
    assert list(missing()) == []


def test_what_is_the_same_names_a_test() -> None:
    assert all(row.here.tests for row in ROWS if isinstance(row.here, Same))


@pytest.mark.parametrize(
    "difference", [here for _, here in DIFFERENCES], ids=[behaviour for behaviour, _ in DIFFERENCES]
)
def test_every_difference_has_a_reason_and_is_told_to_users(difference: Different) -> None:
    assert difference.because
    assert difference.told
    assert difference.told in told()


def arguments(kind: type) -> set[str]:
    """What its constructor takes by name, without those of Airflow's operators."""
    taken = inspect.signature(kind.__init__).parameters.keys()  # type: ignore[misc]
    return set(taken) - {"self", "kwargs"} - inspect.signature(BaseOperator.__init__).parameters.keys()


@pytest.mark.parametrize("peer", PAIRS, ids=lambda kind: kind.__name__)
def test_each_argument_of_the_provider_is_taken_or_known_not_to_be(peer: type) -> None:
    assert arguments(peer) - arguments(PAIRS[peer]) == NOT_TAKEN[peer]


@pytest.mark.parametrize("peer", PAIRS, ids=lambda kind: kind.__name__)
def test_an_argument_that_is_not_taken_is_told_to_users(peer: type) -> None:
    assert [argument for argument in NOT_TAKEN[peer] if f"`{argument}`" not in told()] == []


def test_each_argument_of_the_providers_operator_has_its_line_in_the_docs() -> None:
    table = told().partition("argument by argument")[2].partition("| new |")[0]
    assert [argument for argument in arguments(DbtCloudRunJobOperator) if f"`{argument}`" not in table] == []
