"""The operator that emits an asset event for each model."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, Context
from airflow.sdk import Asset

from airflow_trigger.failures import DbtRunException, DbtRunLostContact, DbtRunRefused, InvalidArgument
from airflow_trigger.model_assets import DbtRunAssetsOperator
from dbtrun.kube.errors import Forbidden
from tests.unit.airflow_trigger.reacting.test_models import node, results
from tests.unit.airflow_trigger.test_artifacts import RESULTS, RUN, Server

ALL: dict[str, Any] = RESULTS | {"path": "dbtrun/results.json", "key": "dbtrun..results.json"}


class Events:
    """What the task emits."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def __getitem__(self, alias: object) -> Events:
        return self

    def add(self, asset: Asset, extra: dict[str, Any]) -> None:
        self.told.append((asset.uri, extra))


@pytest.fixture
def server() -> Server:
    return Server()


def emit(server: Server, content: bytes | None = None, phase: str = "Succeeded", **arguments: Any) -> Events:
    class Operator(DbtRunAssetsOperator):
        connect = staticmethod(server.connect)

    if content is not None:
        server.has("nightly", phase, RUN, ALL)
        server.keeps({ALL["key"]: content.decode()})
    events = Events()
    operator = Operator(**{"task_id": "emit", "namespace": "data", "name": "nightly"} | arguments)
    assert operator.execute(cast("Context", {"outlet_events": events})) == [uri for uri, _ in events.told]
    return events


def test_each_model_has_one_event_with_a_key_of_its_own(server: Server) -> None:
    nodes = [node(f"m{number}", adapter_response={"rows_affected": number}) for number in range(500)]
    told = emit(server, results(*nodes, node("m1")), namespace_uri="postgres://h:5432").told
    assert len(told) == len({uri for uri, _ in told}) == len({extra["key"] for _, extra in told}) == 500
    uri, extra = told[7]
    assert uri == "postgres://h:5432/db/s/m7"
    assert (extra["key"], extra["rows_affected"], extra["run_id"]) == (f"0/{RUN}/model.shop.m7", 7, RUN)
    json.dumps(extra)


def test_the_successes_of_a_failed_run_are_told_by_choice_only(server: Server) -> None:
    content = results(node("a"), node("b", "error"), node("c", "skipped"))
    with pytest.raises(AirflowSkipException, match="include_failed_runs"):
        emit(server, content, "Failed")
    (told,) = emit(server, content, "Failed", include_failed_runs=True).told
    assert told[1]["unique_id"] == "model.shop.a"


def test_too_many_for_one_transaction_are_refused_with_the_way_out(server: Server) -> None:
    with pytest.raises(DbtRunRefused, match="name some in models"):
        emit(server, results(*(node(f"m{number}") for number in range(1_501))))


def test_the_results_of_the_last_step_do_where_those_of_all_were_not_asked_for(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.has("nightly", "Succeeded", RUN, RESULTS)
    server.keeps({"run_results.json": results(node("a")).decode(), ALL["key"]: "of somebody else"})
    ((uri, _),) = emit(server).told
    assert uri.endswith("model.shop.a")
    assert "results of the last step only: keep dbtrun/results.json" in capsys.readouterr().out


def test_the_results_of_the_last_step_do_not_stand_for_those_of_all(server: Server) -> None:
    server.has("nightly", "Succeeded", RUN, RESULTS, {"path": ALL["path"], "problem": "It is too large."})
    server.keeps({"run_results.json": results(node("a")).decode()})
    with pytest.raises(DbtRunRefused, match=r"dbtrun/results\.json .* was not kept\. It is too large"):
        emit(server)


def test_of_two_objects_of_a_run_the_one_with_the_results_of_all_steps_is_read(server: Server) -> None:
    server.has("adopted", "Succeeded", RUN, RESULTS | {"configMap": "others"})
    server.has("nightly", "Succeeded", RUN, ALL)
    server.keeps({ALL["key"]: results(node("a"), node("b")).decode()})
    assert len(emit(server, name=None, run_id=RUN).told) == 2


def test_a_run_whose_results_are_not_kept_says_how_to_keep_them(server: Server) -> None:
    server.has("nightly")
    with pytest.raises(DbtRunRefused, match=r"does not keep dbtrun/results\.json: name it in spec\.artifacts"):
        emit(server)


def test_a_run_that_is_not_over_is_not_told(server: Server) -> None:
    with pytest.raises(DbtRunException, match="Running"):
        emit(server, results(), "Running")


def test_results_that_cannot_be_read_are_no_success(server: Server) -> None:
    with pytest.raises(DbtRunRefused, match="cannot be read"):
        emit(server, b"[]")


def test_an_api_server_that_refuses_is_told(server: Server) -> None:
    server.fails(Forbidden("no"))
    with pytest.raises(DbtRunLostContact):
        emit(server)


@pytest.mark.parametrize("odd", [{"name": None}, {"run_id": 5}, {"models": "orders"}])
def test_arguments_that_cannot_be_used_are_refused(server: Server, odd: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        emit(server, results(), **odd)
