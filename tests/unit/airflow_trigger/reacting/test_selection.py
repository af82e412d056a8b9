from __future__ import annotations

from typing import Any

import pytest

from airflow_trigger.failures import InvalidArgument
from airflow_trigger.reacting.selection import Selection, plan_of
from tests.unit.airflow_trigger.fakes import dbtrun

GIVEN: dict[str, Any] = {
    "asset": "nightly",
    "namespace": "data",
    "job_id": None,
    "environment_id": None,
    "labels": None,
    "phases": ["Succeeded"],
    "since": "now",
    "max_replay": 100,
    "in_cluster": None,
    "config_file": None,
    "cluster_context": None,
}
OVER: dict[str, Any] = {
    "phase": "Succeeded",
    "jobId": 5,
    "environmentId": 6,
    "completionTime": "2026-11-26T12:00:00Z",
}


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        ({}, True),
        ({"job_id": 5, "environment_id": 6, "labels": {"team": "a"}}, True),
        ({"job_id": "5"}, True),
        ({"job_id": 4}, False),
        ({"environment_id": 5}, False),
        ({"labels": {"team": "b"}}, False),
        ({"labels": {"team": "a", "other": "b"}}, False),
        ({"phases": ["Failed", "Error"]}, False),
        ({"phases": "Succeeded"}, True),
    ],
)
def test_all_conditions_must_hold(asked: dict[str, Any], matches: bool) -> None:
    run = dbtrun(labels={"team": "a"}, **OVER)
    assert plan_of(GIVEN | asked).selection.matches(run) is matches


@pytest.mark.parametrize("missing", ["phase", "completionTime"])
def test_a_run_that_is_not_over_never_matches(missing: str) -> None:
    status = {key: value for key, value in OVER.items() if key != missing}
    assert not Selection(frozenset({"Succeeded"})).matches(dbtrun(**status))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"phases": []}, "phases must be a list"),
        ({"phases": ["Running"]}, "a run does not end in phase 'Running'"),
        ({"phases": [5]}, "a run does not end in phase 5"),
        ({"phases": None}, "phases must be a list"),
        ({"job_id": "five"}, "job_id must be a number"),
        ({"labels": "a=b"}, "labels must be a mapping"),
        ({"labels": {"airflow.dbtrun.dev/try": "1"}}, "label of a single try"),
        ({"since": "yesterday"}, "since must be 'now' or 'beginning'"),
        ({"namespace": "No Namespace"}, "namespace"),
        ({"max_replay": 0}, "max_replay must be a number"),
        ({"in_cluster": True, "config_file": "f"}, "cannot be combined"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgument, match=sentence):
        plan_of(GIVEN | asked)


def test_a_position_belongs_to_the_asset_and_what_it_selects_and_not_to_the_pace() -> None:
    def name(**asked: Any) -> str:
        return plan_of(GIVEN | asked).stored_as

    assert name() == name(max_replay=5) == name(since="beginning")
    others = [name(asset="b"), name(job_id=5), name(namespace="x"), name(labels={"a": "b"}), name(phases=["Failed"])]
    assert len({name(), *others}) == 6
