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


def test_airflow_2_is_told_of_every_link_of_the_operator() -> None:
    told = get_provider_info()["extra-links"]
    assert told == [
        f"{type(link).__module__}.{type(link).__qualname__}" for link in DbtRunOperator.operator_extra_links
    ]


def test_it_is_named_as_people_know_it() -> None:
    assert DbtRunLink().name == "Monitor Job Run"
