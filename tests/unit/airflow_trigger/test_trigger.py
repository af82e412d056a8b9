from __future__ import annotations

import asyncio
import inspect
import json
import time
from importlib import import_module
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_trigger.provider import get_provider_info
from airflow_trigger.trigger import DbtRunTrigger, PauseTrigger
from airflow_trigger.waiting import event
from airflow_trigger.waiting.event import Subject
from airflow_trigger.waiting.follow import HELD_SECONDS, held
from airflow_trigger.waiting.waits import Wait
from dbtrun.kube.errors import NotFound, Unreachable
from tests.unit.airflow_trigger.fakes import dbtrun

EVERYTHING: dict[str, Any] = {
    "conn_id": "dbt_cloud_finance",
    "run_id": 98765,
    "end_time": 1_800_000_000.0,
    "poll_interval": 60,
    "account_id": 12345,
    "name": "nightly",
    "namespace": "team",
    "in_cluster": None,
    "config_file": "/etc/kube/config",
    "cluster_context": "prod",
    "start_time": 1_799_999_000.0,
    "denied_grace": 30.0,
}


def documented(**changes: Any) -> DbtRunTrigger:
    arguments: dict[str, Any] = {
        "conn_id": "dbt_cloud_default",
        "run_id": 98765,
        "end_time": time.time() + 3600,
        "poll_interval": 60,
        "account_id": 12345,
    }
    return DbtRunTrigger(**arguments | changes)


async def fired(trigger: DbtRunTrigger) -> dict[str, Any]:
    """The payload of the trigger's one event."""
    (event,) = [event async for event in trigger.run()]
    return dict(event.payload)


def remade(trigger: DbtRunTrigger) -> DbtRunTrigger:
    """As a triggerer makes it: from what the database holds."""
    path, stored = json.loads(json.dumps(trigger.serialize()))
    module, _, name = path.rpartition(".")
    made = getattr(import_module(module), name)(**stored)
    assert isinstance(made, DbtRunTrigger)
    return made


def test_every_argument_survives_the_database() -> None:
    path, kwargs = DbtRunTrigger(**EVERYTHING).serialize()
    assert path == "airflow_trigger.trigger.DbtRunTrigger"
    assert kwargs == EVERYTHING


def test_a_trigger_made_again_is_the_same() -> None:
    trigger = documented()
    assert remade(trigger).serialize() == trigger.serialize()


def test_a_trigger_stored_with_the_five_documented_arguments_alone_still_works() -> None:
    stored: dict[str, Any] = {
        "conn_id": "dbt_cloud_default",
        "run_id": 5,
        "end_time": None,
        "poll_interval": 60,
        "account_id": None,
    }
    assert DbtRunTrigger(**stored).plan().name == "run-5"


def test_the_documented_arguments_may_be_positional() -> None:
    _, kwargs = DbtRunTrigger("dbt_cloud_default", 98765, 1.0, 60, 12345).serialize()
    assert [kwargs[k] for k in ("run_id", "end_time", "poll_interval", "account_id")] == [98765, 1.0, 60, 12345]


def test_a_restarted_triggerer_counts_the_wait_from_its_beginning() -> None:
    trigger = documented(start_time=time.time() - 600)
    assert remade(trigger).start_time == trigger.start_time


def test_an_adopted_runs_object_says_all_that_the_arguments_say() -> None:
    manifest = documented(conn_id="dbt_cloud_finance", poll_interval=120, namespace="team").plan().manifest()
    assert manifest["metadata"]["name"] == "run-98765-dbt-cloud-finance"
    assert manifest["spec"] == {
        "connectionRef": {"name": "dbt-cloud-finance"},
        "runId": 98765,
        "accountId": 12345,
        "pollIntervalSeconds": 120,
        "ttlSecondsAfterFinished": 86_400,
    }


def test_the_default_connection_is_the_watchers_choice() -> None:
    assert "connectionRef" not in documented().plan().manifest()["spec"]


@pytest.mark.parametrize(("asked", "given"), [(0, 5), (1.5, 5), (7.6, 8), (100_000, 3600)])
def test_a_poll_interval_is_brought_into_the_range_of_the_api(asked: float, given: int) -> None:
    assert documented(poll_interval=asked).plan().manifest()["spec"]["pollIntervalSeconds"] == given


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "needs run_id, or the name of a DbtRun"),
        ({"run_id": ""}, "needs run_id, or the name of a DbtRun"),
        ({"run_id": "None"}, "run_id must be a number of at least 1, not 'None'"),
        ({"run_id": 5, "account_id": "mine"}, "account_id must be a number of at least 1, not 'mine'"),
        ({"run_id": 5, "conn_id": "my conn"}, "conn_id 'my conn' cannot name a connection Secret"),
        ({"run_id": 5, "in_cluster": True, "config_file": "x"}, "in_cluster and config_file cannot be combined"),
        ({"run_id": 5, "cluster_context": "prod"}, "cluster_context needs config_file"),
    ],
)
async def test_arguments_that_cannot_work_are_one_event_with_a_sentence(
    arguments: dict[str, Any], sentence: str
) -> None:
    event = await fired(DbtRunTrigger(**arguments))
    assert (event["status"], event["reason"]) == ("error", "InvalidArgument")
    assert sentence in event["message"]


async def test_without_any_access_the_event_says_what_to_do() -> None:
    (event,) = [event async for event in documented(denied_grace=0.0).run()]
    assert event.payload["status"] == "error"
    assert "name a kubeconfig with config_file" in event.payload["message"]


async def test_an_end_time_in_the_past_is_a_timeout_at_once() -> None:
    (event,) = [event async for event in documented(end_time=time.time() - 1, start_time=time.time() - 61).run()]
    assert event.payload["status"] == "timeout"
    assert "after 60 seconds" in event.payload["message"]


def test_the_provider_names_modules_that_exist() -> None:
    for trigger in get_provider_info()["triggers"]:
        for module in trigger["python-modules"]:
            import_module(module)


# ── whatever reaches it ──

ARGUMENTS = [name for name in inspect.signature(DbtRunTrigger).parameters if name != "kwargs"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just("{{ dag_run.conf }}"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


class Hostile:
    """A value whose own code fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __eq__ = __bool__ = __hash__ = __repr__  # type: ignore[assignment]


@given(st.dictionaries(st.sampled_from(ARGUMENTS), ANYTHING | st.builds(Hostile)))
def test_no_argument_makes_the_constructor_raise(arguments: dict[str, Any]) -> None:
    """Whatever it raises but a TypeError ends the triggerer for everybody, again after each restart."""
    DbtRunTrigger(**arguments)


@given(st.dictionaries(st.text(), ANYTHING, min_size=1))
def test_an_argument_that_this_release_does_not_know_is_a_type_error(arguments: dict[str, Any]) -> None:
    unknown = {key: value for key, value in arguments.items() if key not in ARGUMENTS} or {"newer": 1}
    with pytest.raises(TypeError):
        DbtRunTrigger(**unknown)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(ARGUMENTS), ANYTHING))
def test_whatever_the_arguments_are_there_is_one_event(arguments: dict[str, Any]) -> None:
    class Trigger(DbtRunTrigger):
        async def _outcome(self, wait: Wait) -> Any:
            return event.broken(Subject(wait.namespace, wait.name, wait.run_id))

    told = asyncio.run(fired(Trigger(**{**arguments, "start_time": None})))
    assert told["status"] == "error"
    assert told["message"]
    assert json.loads(json.dumps(told)) == told


async def test_what_is_not_foreseen_is_an_event_too() -> None:
    class Trigger(DbtRunTrigger):
        async def _outcome(self, wait: Wait) -> Any:
            raise ZeroDivisionError

    told = await fired(Trigger(name="nightly"))
    assert (told["status"], told["reason"]) == ("error", "TriggerBroke")


RENDERED: dict[str, tuple[str, object]] = {
    "conn_id": ("dbt_cloud_finance", "dbt-cloud-finance"),
    "run_id": ("98765", 98_765),
    "end_time": ("1800000000.5", 1_800_000_000.5),
    "poll_interval": ("60", 60.0),
    "account_id": ("12345", 12_345),
    "name": ("nightly", "nightly"),
    "namespace": ("team", "team"),
    "in_cluster": ("False", False),
    "config_file": ("/etc/kube/config", "/etc/kube/config"),
    "cluster_context": ("prod", "prod"),
    "start_time": ("1799999000", 1_799_999_000.0),
    "denied_grace": ("30", 30.0),
    "cancel_for": ("", None),
    "until_started": ("true", True),
    "log_steps": ("true", True),
}


def test_every_argument_is_in_the_table() -> None:
    assert RENDERED.keys() == set(ARGUMENTS)


@pytest.mark.parametrize("argument", RENDERED)
def test_every_argument_may_be_a_template(argument: str) -> None:
    """As Airflow renders those of `start_from_trigger`: it makes the trigger and then sets its attributes."""
    written, meant = RENDERED[argument]
    arguments: dict[str, Any] = {"run_id": 5, "config_file": "/c", argument: "{{ dag_run.conf['it'] }}"}
    trigger = DbtRunTrigger(**arguments)
    setattr(trigger, argument, written)
    plan = trigger.plan()
    found = {
        "conn_id": plan.connection,
        "in_cluster": plan.config.in_cluster,
        "config_file": plan.config.config_file,
        "cluster_context": plan.config.context,
    }
    assert found.get(argument, getattr(plan, argument, None)) == meant


def test_an_argument_that_was_not_rendered_is_told_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"run_id must be a number of at least 1, not \"{{ dag_run"):
        DbtRunTrigger(run_id="{{ dag_run.conf['run'] }}").plan()


# ── Airflow's race with an event that comes at once ──


@pytest.mark.parametrize(
    ("deferred_at", "began", "now", "expected"),
    [
        (None, 100.0, 100.0, 0.0),
        (99.0, 100.0, 100.0, 10.0),
        (99.0, 100.0, 104.0, 6.0),
        (99.0, 100.0, 110.0, 0.0),
        (99.0, 100.0, 5_000.0, 0.0),
        (60.0, 100.0, 100.0, 0.0),
        (103.0, 100.0, 100.0, 10.0),
    ],
    ids=["no-worker", "at-once", "soon", "later", "much-later", "restarted-triggerer", "clocks-differ"],
)
def test_an_event_that_comes_at_once_is_held(
    deferred_at: float | None, began: float, now: float, expected: float
) -> None:
    assert held(deferred_at, began, now) == expected


class Ended(DbtRunTrigger):
    """Whose run is over when it looks."""

    async def _outcome(self, wait: Wait) -> Any:
        return event.started(Subject(wait.namespace, wait.name), dbtrun())


@pytest.mark.looptime
async def test_the_first_event_after_a_deferral_is_held_until_airflow_knows_of_it() -> None:
    clock = asyncio.get_running_loop().time
    stored = Ended(name="nightly").serialize()[1]
    began = clock()
    await fired(Ended(**stored))
    assert clock() - began == pytest.approx(HELD_SECONDS, abs=1)


@pytest.mark.looptime
@pytest.mark.parametrize("changes", [{"start_time": 1_000.0}, {"start_time": None}])
async def test_any_other_event_is_not_held(changes: dict[str, Any]) -> None:
    """Of a trigger that goes on after a restart, or that no worker deferred."""
    clock = asyncio.get_running_loop().time
    began = clock()
    await fired(Ended(name="nightly", **changes))
    assert clock() == began


async def test_a_run_without_an_object_may_still_be_running() -> None:
    class Trigger(DbtRunTrigger):
        async def _look(self, wait: Wait) -> Any:
            raise NotFound(wait.name)

    assert await Trigger(run_id=5).is_still_running()
    assert await Trigger(run_id=5).is_still_running(hook=None)
    assert await Trigger(name="nightly").is_still_running(object())


@pytest.mark.parametrize(("phase", "running"), [("Running", True), ("", True), ("Succeeded", False), ("Error", False)])
async def test_a_run_with_an_object_is_what_the_object_says(phase: str, running: bool) -> None:
    class Trigger(DbtRunTrigger):
        async def _look(self, wait: Wait) -> Any:
            return dbtrun(phase=phase)

    assert await Trigger(name="nightly").is_still_running() is running


@pytest.mark.looptime
async def test_a_wait_for_the_start_ends_with_the_runs_id() -> None:
    states = [dbtrun(), dbtrun(phase="Queued"), dbtrun(phase="Queued", runId=7, url="https://cloud.getdbt.com/7")]

    class Trigger(DbtRunTrigger):
        async def _look(self, wait: Wait) -> Any:
            return states.pop(0)

    told = await fired(Trigger(name="nightly", until_started=True))
    assert (told["status"], told["run_id"], told["reason"]) == ("success", 7, "Started")


@pytest.mark.looptime
async def test_a_wait_for_the_start_ends_with_the_runs_end_and_bears_an_api_server_that_is_away() -> None:
    states: list[Any] = [Unreachable("no route"), dbtrun(phase="Error", reason="JobNotFound")]

    class Trigger(DbtRunTrigger):
        async def _look(self, wait: Wait) -> Any:
            state = states.pop(0)
            if isinstance(state, Exception):
                raise state
            return state

    told = await fired(Trigger(name="nightly", until_started=True))
    assert (told["status"], told["reason"]) == ("error", "JobNotFound")


async def test_a_pause_fires_at_its_time() -> None:
    path, stored = PauseTrigger(time.time() - 1).serialize()
    assert path == "airflow_trigger.trigger.PauseTrigger"
    assert [fired.payload async for fired in PauseTrigger(**stored).run()] == [{"status": "success"}]
