"""The button in Airflow's task view."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import XCom

from airflow_trigger.link import DbtRunLink
from airflow_trigger.operator import DbtRunOperator
from airflow_trigger.provider import get_provider_info


def test_it_opens_the_address_that_the_task_left(monkeypatch: pytest.MonkeyPatch) -> None:
    left: dict[str, Any] = {"job_run_url": "https://dbt/5"}
    monkeypatch.setattr(XCom, "get_value", lambda *, key, ti_key: left[key])
    operator = DbtRunOperator(task_id="build", job_id=7)
    assert DbtRunLink().get_link(operator, ti_key=None) == "https://dbt/5"  # type: ignore[arg-type]


def test_before_there_is_a_run_it_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(XCom, "get_value", lambda *, key, ti_key: None)
    operator = DbtRunOperator(task_id="build", job_id=7)
    assert DbtRunLink().get_link(operator, ti_key=None) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "https://cloud.getdbt.com@evil.example/x",
        "http://cloud.getdbt.com/x",
        "javascript:alert(1)",
        "//evil.example/x",
        "https://cloud.getdbt.com\\@evil.example",
        "https://cloud.getdbt.com/\u202emoc",
        "https://cloud.getdbt.com/\n",
        "https:///x",
        "https://[::1",
        "https://cloud.getdbt.com/" + "x" * 5_000,
        5,
    ],
)
def test_an_address_that_leads_elsewhere_is_not_opened(monkeypatch: pytest.MonkeyPatch, url: object) -> None:
    monkeypatch.setattr(XCom, "get_value", lambda *, key, ti_key: url)
    operator = DbtRunOperator(task_id="build", job_id=7)
    assert DbtRunLink().get_link(operator, ti_key=None) == ""  # type: ignore[arg-type]


def test_airflow_2_is_told_of_every_link_of_the_operator() -> None:
    told = get_provider_info()["extra-links"]
    assert told == [
        f"{type(link).__module__}.{type(link).__qualname__}" for link in DbtRunOperator.operator_extra_links
    ]


def test_it_is_named_as_people_know_it() -> None:
    assert DbtRunLink().name == "Monitor Job Run"
