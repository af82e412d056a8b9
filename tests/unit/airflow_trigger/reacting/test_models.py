from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_trigger.reacting.models import built, relation


def results(*nodes: dict[str, Any]) -> bytes:
    return json.dumps({"metadata": {}, "results": list(nodes)}).encode()


def node(name: str, status: str = "success", kind: str = "model", **more: Any) -> dict[str, Any]:
    return {"unique_id": f"{kind}.shop.{name}", "status": status, "relation_name": f'"db"."s"."{name}"'} | more


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ('"db"."public"."orders"', ("db", "public", "orders")),
        ("`project-1`.`set`.`orders`", ("project-1", "set", "orders")),
        ("[db].[dbo].[order lines]", ("db", "dbo", "order lines")),
        ("DB.PUBLIC.ORDERS", ("DB", "PUBLIC", "ORDERS")),
        ('"a.b"."with ""quotes"""', ("a.b", 'with "quotes"')),
        ("", ()),
        (None, ()),
    ],
)
def test_a_relation_is_read_as_each_warehouse_quotes_it(name: str | None, parts: tuple[str, ...]) -> None:
    assert relation(name) == parts


@pytest.mark.parametrize(
    ("status", "reused", "tells"),
    [
        ("success", False, True),
        ("error", True, False),
        ("skipped", True, False),
        ("warn", True, False),
        ("partial success", True, False),
        ("no-op", True, False),
        ("reused", False, False),
        ("reused", True, True),
        ("a word of tomorrow", True, False),
    ],
)
def test_only_what_was_built_is_told_and_what_was_reused_by_choice(status: str, reused: bool, tells: bool) -> None:
    assert bool(built(results(node("orders", status)), (), include_reused=reused)) is tells


def test_models_seeds_and_snapshots_have_assets_and_tests_have_none() -> None:
    found = built(
        results(*(node("a", kind=kind) for kind in ("model", "seed", "snapshot", "test"))), (), include_reused=False
    )
    assert [each.unique_id for each in found] == ["model.shop.a", "seed.shop.a", "snapshot.shop.a"]


def test_models_are_chosen_by_name_or_unique_id() -> None:
    given = results(node("a"), node("b"), node("c"))
    assert [each.unique_id for each in built(given, ("a", "model.shop.c"), include_reused=False)] == [
        "model.shop.a",
        "model.shop.c",
    ]


def test_the_name_is_the_one_of_cosmos_and_openlineage_or_an_address_in_dbt_cloud() -> None:
    (orders,) = built(results(node("orders")), (), include_reused=False)
    assert orders.uri("postgres://host:5432/", "cloud.getdbt.com", 7) == "postgres://host:5432/db/s/orders"
    assert orders.uri(None, "cloud.getdbt.com", 7) == "x-dbt://cloud.getdbt.com/7/model.shop.orders"


def test_what_dbt_fusion_leaves_out_is_not_missed() -> None:
    (bare,) = built(results({"unique_id": "model.shop.a", "status": "success"}), (), include_reused=False)
    assert (bare.relation, bare.rows) == ((), None)
    assert bare.uri("postgres://h", "x.y", None) == "x-dbt://x.y/0/model.shop.a"


@pytest.mark.parametrize("odd", [b"", b"[]", b"\xff", b'{"results": 5}', b'{"results": [5]}'])
def test_what_is_no_result_is_a_value_error(odd: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        built(odd, (), include_reused=False)
