from __future__ import annotations

import json
import time
from importlib import import_module
from typing import Any

import pytest

from airflow_trigger.provider import get_provider_info
from airflow_trigger.trigger import DbtRunTrigger

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
    assert DbtRunTrigger(**stored).object_name == "run-5"


def test_the_documented_arguments_may_be_positional() -> None:
    _, kwargs = DbtRunTrigger("dbt_cloud_default", 98765, 1.0, 60, 12345).serialize()
    assert [kwargs[k] for k in ("run_id", "end_time", "poll_interval", "account_id")] == [98765, 1.0, 60, 12345]


def test_a_restarted_triggerer_counts_the_wait_from_its_beginning() -> None:
    trigger = documented(start_time=time.time() - 600)
    assert remade(trigger).start_time == trigger.start_time


def test_an_adopted_runs_object_says_all_that_the_arguments_say() -> None:
    manifest = documented(conn_id="dbt_cloud_finance", poll_interval=120, namespace="team").manifest()
    assert manifest["metadata"]["name"] == "run-98765-dbt-cloud-finance"
    assert manifest["spec"] == {
        "connectionRef": {"name": "dbt-cloud-finance"},
        "runId": 98765,
        "accountId": 12345,
        "pollIntervalSeconds": 120,
        "ttlSecondsAfterFinished": 86_400,
    }


def test_the_default_connection_is_the_watchers_choice() -> None:
    assert "connectionRef" not in documented().manifest()["spec"]


@pytest.mark.parametrize(("asked", "given"), [(0, 5), (1.5, 5), (7.6, 8), (100_000, 3600)])
def test_a_poll_interval_is_brought_into_the_range_of_the_api(asked: float, given: int) -> None:
    assert documented(poll_interval=asked).manifest()["spec"]["pollIntervalSeconds"] == given


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "needs run_id, or the name of a DbtRun"),
        ({"run_id": ""}, "needs run_id, or the name of a DbtRun"),
        ({"run_id": "None"}, "run_id must be a number, not 'None'"),
        ({"run_id": 5, "account_id": "mine"}, "account_id must be a number, not 'mine'"),
        ({"run_id": 5, "conn_id": "my conn"}, "conn_id 'my conn' cannot name a connection Secret"),
        ({"run_id": 5, "in_cluster": True, "config_file": "x"}, "in_cluster and config_file exclude each other"),
        ({"run_id": 5, "cluster_context": "prod"}, "cluster_context needs config_file"),
    ],
)
def test_arguments_that_cannot_work_are_refused_in_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DbtRunTrigger(**arguments)


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
