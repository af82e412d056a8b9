from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_trigger.shared.naming import adopted_name, connection_name

LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def test_the_providers_default_connection_is_the_watchers_default() -> None:
    assert connection_name("conn_id", "dbt_cloud_default") is None


def test_any_other_connection_id_names_a_secret() -> None:
    assert connection_name("conn_id", "dbt_cloud_Finance") == "dbt-cloud-finance"


@pytest.mark.parametrize("conn_id", ["", "_", "my conn", "ümlaut", "a" * 254, "trailing_"])
def test_a_connection_id_that_can_name_no_secret_is_refused_in_one_sentence(conn_id: str) -> None:
    with pytest.raises(ValueError, match=r"^conn_id .* cannot name a connection Secret: use letters"):
        connection_name("conn_id", conn_id)


def test_an_adopted_run_has_a_name_that_people_can_guess() -> None:
    assert adopted_name(98765, None) == "run-98765"
    assert adopted_name(98765, "finance") == "run-98765-finance"


def test_long_connections_that_begin_alike_do_not_share_an_object() -> None:
    assert adopted_name(1, "c" * 100) != adopted_name(1, "c" * 101)


@given(st.integers(1, 10**15), st.from_regex(r"[A-Za-z0-9]([-_.a-z0-9]{0,150}[a-z0-9])?", fullmatch=True))
def test_every_name_is_one_that_kubernetes_takes(run_id: int, conn_id: str) -> None:
    try:
        connection = connection_name("conn_id", conn_id)
    except ValueError:
        return
    name = adopted_name(run_id, connection)
    assert len(name) <= 63
    assert LABEL.fullmatch(name)
