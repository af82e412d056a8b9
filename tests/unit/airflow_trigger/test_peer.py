"""The table of the provider's behaviours holds: its tests exist, and names, defaults and signatures are the same."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import BaseOperator
from airflow.providers.dbt.cloud.hooks import dbt as hooks
from airflow.providers.dbt.cloud.operators import dbt as operators
from airflow.providers.dbt.cloud.operators.dbt import (
    DbtCloudGetJobRunArtifactOperator,
    DbtCloudListJobRunsOperator,
    DbtCloudRunJobOperator,
    DbtCloudRunJobOperatorLink,
)
from airflow.providers.dbt.cloud.sensors import dbt as sensors
from airflow.providers.dbt.cloud.sensors.dbt import DbtCloudJobRunSensor
from airflow.providers.dbt.cloud.triggers import dbt as triggers
from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

from airflow_trigger.artifacts import DbtRunArtifactOperator
from airflow_trigger.link import DbtRunLink
from airflow_trigger.listing import DbtRunListOperator
from airflow_trigger.operator import DbtRunOperator
from airflow_trigger.sensor import DbtRunSensor
from airflow_trigger.trigger import DbtRunTrigger
from tests.unit.airflow_trigger.peer import PEER, ROWS, Different

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
OTHER_DEFAULTS: dict[type, dict[str, object]] = {
    DbtCloudRunJobOperator: {},
    # A DbtRun can be named instead of its run.
    DbtCloudJobRunSensor: {"run_id": None},
    # start_from_trigger gives what a DAG names, and no more.
    DbtCloudRunJobTrigger: {
        "conn_id": "dbt_cloud_default",
        "run_id": None,
        "end_time": None,
        "poll_interval": 60.0,
        "account_id": None,
    },
    # None: given or not decides about the warning that it has no effect.
    DbtCloudGetJobRunArtifactOperator: {"run_id": None, "dbt_cloud_conn_id": None},
    DbtCloudListJobRunsOperator: {"dbt_cloud_conn_id": None},
}
"""Arguments whose default is another one than the provider's, or that the provider requires."""
NOT_TEMPLATED: dict[type, set[str]] = {
    DbtCloudRunJobOperator: set(),
    DbtCloudJobRunSensor: set(),
    DbtCloudRunJobTrigger: set(),
    DbtCloudGetJobRunArtifactOperator: {"dbt_cloud_conn_id", "account_id"},
    DbtCloudListJobRunsOperator: {"dbt_cloud_conn_id", "account_id", "order_by", "include_related"},
}
"""They have no effect."""
CALLS_DBT_CLOUD = {"hook", "get_openlineage_facets_on_complete"}
"""Attributes of the provider's classes that need a token."""
WITHOUT_A_COUNTERPART = {"DbtCloudHook", "DbtCloudListJobsOperator"}
WITHIN_THE_HOOK = {"TokenAuth", "JobRunInfo", "DbtCloudJobRunStatus", "DbtCloudResourceLookupError"}
EXCEPTIONS = {"DbtCloudJobRunException", "DbtCloudTriggerEventException"}
"""tests/unit/airflow_trigger/test_failures.py has ours."""


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
def documented() -> frozenset[str]:
    """What the page for users has in code spans: each as a whole, and each name in it."""
    spans = re.findall(r"`([^`\n]+)`", DOCS.read_text())
    return frozenset(spans) | {name for span in spans for name in re.findall(r"[\w.]+", span)}


def test_the_provider_is_the_version_whose_tests_were_read() -> None:
    assert version("apache-airflow-providers-dbt-cloud") == PEER, "read its tests again, then change PEER"


def test_every_behaviour_is_asserted_by_tests_that_exist() -> None:
    assert list(missing()) == []


def test_every_row_names_a_test() -> None:
    assert [row.behaviour for row in ROWS if not row.here.tests] == []


@pytest.mark.parametrize(
    "difference", [here for _, here in DIFFERENCES], ids=[behaviour for behaviour, _ in DIFFERENCES]
)
def test_every_difference_has_a_reason_and_its_names_are_documented(difference: Different) -> None:
    assert difference.because
    assert set(difference.names) - documented() == set()


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """What its constructor takes by name, without what Airflow's operators take."""
    everyones = {"self", "kwargs"} | inspect.signature(BaseOperator.__init__).parameters.keys()
    taken = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    return {name: each for name, each in taken.items() if name not in everyones}


@pytest.mark.parametrize("peer", PAIRS, ids=lambda kind: kind.__name__)
def test_each_argument_of_the_provider_is_taken_or_known_not_to_be(peer: type) -> None:
    assert parameters(peer).keys() - parameters(PAIRS[peer]).keys() == NOT_TAKEN[peer]


@pytest.mark.parametrize("peer", PAIRS, ids=lambda kind: kind.__name__)
def test_an_argument_has_the_providers_default_or_a_known_one(peer: type) -> None:
    theirs, ours = parameters(peer), parameters(PAIRS[peer])
    common = theirs.keys() & ours.keys()
    other = {name: ours[name].default for name in common if ours[name].default != theirs[name].default}
    assert other == OTHER_DEFAULTS[peer]


@pytest.mark.parametrize("peer", PAIRS, ids=lambda kind: kind.__name__)
def test_arguments_are_given_as_to_the_provider(peer: type) -> None:
    """By keyword, or at the same place."""
    theirs = [(each.name, each.kind) for each in parameters(peer).values() if each.name not in NOT_TAKEN[peer]]
    ours = [(each.name, each.kind) for each in parameters(PAIRS[peer]).values()]
    assert set(theirs) <= set(ours)
    by_place = [each for each in theirs if each[1] is not inspect.Parameter.KEYWORD_ONLY]
    assert ours[: len(by_place)] == by_place


@pytest.mark.parametrize("peer", PAIRS, ids=lambda kind: kind.__name__)
def test_what_the_provider_templates_is_templated_or_has_no_effect(peer: type) -> None:
    theirs, ours = (set(getattr(kind, "template_fields", ())) for kind in (peer, PAIRS[peer]))
    assert theirs - ours == NOT_TEMPLATED[peer]


@pytest.mark.parametrize("peer", PAIRS, ids=lambda kind: kind.__name__)
def test_a_method_takes_what_the_providers_takes(peer: type) -> None:
    for name, method in vars(peer).items():
        if inspect.isfunction(method) and not name.startswith("_") and name not in CALLS_DBT_CLOUD:
            theirs, ours = (list(inspect.signature(each).parameters) for each in (method, getattr(PAIRS[peer], name)))
            assert ours == theirs, name


@pytest.mark.parametrize("peer", PAIRS, ids=lambda kind: kind.__name__)
def test_nothing_else_of_the_providers_classes_is_missing(peer: type) -> None:
    public = {name for name in vars(peer) if not name.startswith("_")}
    assert public - set(dir(PAIRS[peer])) <= CALLS_DBT_CLOUD


def test_the_classes_without_a_counterpart_are_these() -> None:
    modules = (hooks, operators, sensors, triggers)
    classes = {
        name
        for module in modules
        for name, each in vars(module).items()
        if inspect.isclass(each) and each.__module__ == module.__name__
    }
    paired = {kind.__name__ for kind in PAIRS} | {DbtCloudRunJobOperatorLink.__name__}
    assert classes - paired == WITHOUT_A_COUNTERPART | WITHIN_THE_HOOK | EXCEPTIONS
    assert paired - {DbtCloudRunJobOperatorLink.__name__} | WITHOUT_A_COUNTERPART <= documented()


def test_the_link_has_the_providers_name() -> None:
    assert DbtRunLink.name == DbtCloudRunJobOperatorLink.name


@pytest.mark.parametrize("peer", PAIRS, ids=lambda kind: kind.__name__)
def test_an_argument_that_is_not_taken_is_documented(peer: type) -> None:
    assert NOT_TAKEN[peer] | NOT_TEMPLATED[peer] <= documented()


def test_each_argument_of_the_providers_operator_is_documented() -> None:
    assert parameters(DbtCloudRunJobOperator).keys() <= documented()
