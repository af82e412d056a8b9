"""Assets of jobs: how they are declared, and which runs a task is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.bases.operator import BaseOperator

from airflow_trigger.assets import conflicts, dbt_asset, new_runs, payloads
from airflow_trigger.event_trigger import DbtRunEventTrigger
from airflow_trigger.failures import InvalidArgument

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
RUNS = dbt_asset(5, "data")


@dataclass
class Event:
    """As Airflow gives it to a task."""

    key: str
    second: int
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def timestamp(self) -> datetime:
        return NOON + timedelta(seconds=self.second)

    @property
    def extra(self) -> dict[str, Any]:
        payload = {"key": self.key, "completed_at": f"{self.second:05}"}
        return {"from_trigger": True, "payload": payload | self.more}


class Inlet(list[Event]):
    """The events of an asset, as a task asks for them."""

    def before(self, until: str) -> Inlet:
        return Inlet(event for event in self if event.timestamp <= datetime.fromisoformat(until))

    def ascending(self, ascending: bool) -> Inlet:
        return Inlet(sorted(self, key=lambda event: event.second, reverse=not ascending))

    def limit(self, most: int) -> Inlet:
        return Inlet(self[:most])


def context(*triggering: Event, history: list[Event] | None = None) -> dict[str, Any]:
    inlets = {} if history is None else {RUNS: Inlet(history)}
    return {"triggering_asset_events": {RUNS: list(triggering)}, "inlet_events": inlets}


def keys(*triggering: Event, history: list[Event] | None = None) -> list[str]:
    return [run["key"] for run in new_runs(context(*triggering, history=history))]


def test_a_run_that_is_told_twice_to_a_dag_run_is_given_once_and_the_first_comes_first() -> None:
    assert keys(Event("1/2", 20), Event("1/1", 10), Event("1/2", 30)) == ["1/1", "1/2"]


def test_a_run_that_was_told_to_an_earlier_dag_run_is_not_given_again() -> None:
    first, second, again = Event("1/1", 10), Event("1/2", 20), Event("1/1", 30)
    history = [first, second, again]
    assert keys(first, history=history) == ["1/1"]
    assert keys(second, again, history=history) == ["1/2"]
    assert keys(again, history=history) == []


def test_a_task_that_is_cleared_is_given_the_same_again() -> None:
    history = [Event("1/1", 10), Event("1/2", 20), Event("1/2", 30)]
    assert keys(history[1], history=history) == ["1/2"]


def test_a_nudge_is_no_run_and_a_gap_is_given() -> None:
    gap = Event("gap/data/1/2", 40, {"gap": True})
    assert keys(Event("nudge/data/1", 10, {"nudge": True}), gap) == ["gap/data/1/2"]


def test_events_of_others_and_of_aliases_are_left_out() -> None:
    class Foreign:
        extra: ClassVar = {"payload": "text"}
        timestamp = NOON

    given = context(Event("1/1", 10))
    given["triggering_asset_events"] |= {Asset("other"): [Foreign()], AssetAlias("any"): [Event("1/2", 20)]}
    assert [run["key"] for run in new_runs(given)] == ["1/1"]


def test_a_dag_with_another_schedule_reads_the_events_of_its_inlet() -> None:
    events = [Event("1/2", 20), Event("1/1", 10), Event("1/2", 30), Event("nudge", 40, {"nudge": True})]
    assert [run["key"] for run in payloads(events)] == ["1/1", "1/2"]


def test_an_asset_has_one_watcher_that_knows_its_name() -> None:
    (watcher,) = RUNS.watchers
    assert isinstance(watcher.trigger, DbtRunEventTrigger)
    assert RUNS.name == watcher.trigger.asset == "dbt-job-data-5"
    assert watcher.trigger.serialize()[1] == {"asset": "dbt-job-data-5", "namespace": "data", "job_id": 5}


@pytest.mark.parametrize(
    "odd", [{}, {"job_id": "x"}, {"job_id": 1, "phases": ["Running"]}, {"job_id": 1, "phase": "x"}]
)
def test_an_asset_that_could_never_work_is_refused_where_it_is_declared(odd: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        dbt_asset(**odd)


def dag(name: str, file: str, *assets: Any, inlets: tuple[Any, ...] = ()) -> DAG:
    with DAG(name, schedule=list(assets) or None) as made:
        BaseOperator(task_id="t", inlets=list(inlets))
    made.fileloc = file
    return made


def test_two_files_with_the_same_declaration_are_no_conflict() -> None:
    assert conflicts([dag("a", "a.py", RUNS), dag("b", "b.py", dbt_asset(5, "data"))]) == []


@pytest.mark.parametrize(
    "other", [Asset("dbt-job-data-5", uri=RUNS.uri), dbt_asset(5, "data", phases=["Failed"])], ids=["without", "other"]
)
@pytest.mark.parametrize("where", ["schedule", "inlet"])
def test_an_asset_that_two_files_declare_differently_is_named_with_both_files(other: Asset, where: str) -> None:
    second = dag("b", "b.py", other) if where == "schedule" else dag("b", "b.py", inlets=(other,))
    (sentence,) = conflicts([dag("a", "a.py", RUNS), second])
    assert "'dbt-job-data-5'" in sentence
    assert "a.py, b.py" in sentence


def test_a_reference_to_the_asset_is_no_declaration() -> None:
    assert conflicts([dag("a", "a.py", RUNS), dag("b", "b.py", inlets=(Asset.ref(name=RUNS.name),))]) == []
