"""The files of a run satisfy dbt's published schemas, as a parser of dbt's artifacts has them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from tests.contract.conftest import simulated
from watcher.simulator.testing import ManualTime

FIRST: Final = 501
NODES: Final = [
    "seed.shop.countries",
    "model.shop.orders",
    "model.shop.customers",
    "snapshot.shop.orders_history",
    "test.shop.not_null_orders_id.1a2b3c",
    "source.shop.raw.orders",
    "analysis.shop.churn",
    "model.other_package.dates",
]
Parsers = Mapping[str, Callable[[dict[str, Any]], Any]]
STEPS: Final = [
    ("dbt build", {}),
    ("dbt docs generate", {}),
    ("dbt source freshness", {"results": [[{"node": "source.shop.raw.orders", "status": "error"}]]}),
    ("dbt build", {"outcomes": ["error"], "failing": [{"node": "model.shop.orders", "message": "x", "failures": 3}]}),
]


@pytest.fixture(scope="module")
def parsers() -> Parsers:
    """Imported only by the worker that runs these tests: this takes as long as to collect a third of all tests."""
    parser = importlib.import_module("dbt_artifacts_parser.parser")
    return {
        "manifest.json": parser.parse_manifest,
        "catalog.json": parser.parse_catalog,
        "run_results.json": parser.parse_run_results,
        "sources.json": parser.parse_sources,
    }


@pytest.mark.parametrize(("command", "script"), STEPS, ids=["build", "docs", "freshness", "failure"])
async def test_a_parser_of_dbts_artifacts_takes_every_file(
    time: ManualTime, parsers: Parsers, command: str, script: dict[str, Any]
) -> None:
    job = {"name": "all", "id": FIRST, "run": 1, "nodes": NODES, "steps": ["dbt build", command], "failing_step": 2}
    if "results" in script:
        script = {"results": [[], *script["results"]]}
    cloud = simulated(time, jobs=[job | script])
    run = await cloud.start(FIRST)
    time.move(60)
    names = await cloud.data("GET", f"runs/{run['id']}/artifacts/")
    parsed = {}
    for name in names:
        for step in (4, 5):
            reply = await cloud.client.get(f"runs/{run['id']}/artifacts/{name}", params={"step": step})
            if reply.status_code == 200:
                parsed[name] = parsers[name](reply.json())
    assert {"manifest.json", "run_results.json"} <= parsed.keys()
    assert ("catalog.json" in parsed, "sources.json" in parsed) == ("docs" in command, "freshness" in command)
    manifest = parsed["manifest.json"]
    assert manifest.nodes.keys() | manifest.sources.keys() >= set(NODES)
    assert manifest.nodes["test.shop.not_null_orders_id.1a2b3c"].name == "not_null_orders_id"
    assert manifest.nodes["model.other_package.dates"].package_name == "other_package"
    assert manifest.nodes["model.shop.orders"].depends_on.nodes == ["seed.shop.countries"]
