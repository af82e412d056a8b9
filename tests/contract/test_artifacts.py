"""Artifacts: when they appear, what is in them, and which step they belong to."""

from __future__ import annotations

from tests.contract.conftest import DOCS, FAILING, HELD, QUICK, Cloud


async def test_artifacts_are_null_and_404_until_the_run_has_finished_and_uploaded(cloud: Cloud) -> None:
    run = await cloud.start(DOCS)
    path = f"runs/{run['id']}/artifacts/"
    for seconds in (0, 5, 20):  # queued, running, finished but not uploaded yet
        cloud.time.move(seconds)
        assert await cloud.data("GET", path) is None
        assert (await cloud.client.get(f"{path}manifest.json")).status_code == 404
    cloud.time.move(30)
    assert await cloud.data("GET", path) == ["manifest.json", "run_results.json", "catalog.json"]
    assert (await cloud.run(run["id"]))["artifacts_saved"] is True


async def test_the_results_of_a_failed_run_name_the_nodes_that_failed(cloud: Cloud) -> None:
    run = await cloud.start(FAILING)
    cloud.time.move(60)
    results = (await cloud.client.get(f"runs/{run['id']}/artifacts/run_results.json")).json()["results"]
    bad = [result for result in results if result["status"] != "success"]
    assert [(r["unique_id"], r["status"], r["message"], r["failures"]) for r in bad] == [
        ("model.shop.orders", "error", "division by zero", 3)
    ]
    assert [r["unique_id"] for r in results if r["status"] == "success"] == ["model.shop.customers"]
    assert all(result["execution_time"] > 0 for result in results)


async def test_results_are_of_the_last_step_that_ran_unless_a_step_is_named(cloud: Cloud) -> None:
    run = await cloud.start(FAILING)
    cloud.time.move(60)
    path = f"runs/{run['id']}/artifacts/run_results.json"
    commands = {}
    for step in (None, 4, 5):
        reply = await cloud.client.get(path, params={} if step is None else {"step": step})
        commands[step] = reply.json()["args"]["invocation_command"]
    assert commands == {None: "dbt build", 4: "dbt seed", 5: "dbt build"}
    assert {result["status"] for result in (await cloud.client.get(path, params={"step": 4})).json()["results"]} == {
        "success"
    }
    for absent in (1, 6, 99):  # a step of dbt Cloud itself, one that never ran, one that does not exist
        assert (await cloud.client.get(path, params={"step": absent})).status_code == 404


async def test_a_cancelled_run_leaves_no_artifacts(cloud: Cloud) -> None:
    run = await cloud.start(HELD)
    cloud.time.move(10)
    await cloud.cancel(run["id"])
    cloud.time.move(10)
    assert await cloud.data("GET", f"runs/{run['id']}/artifacts/") is None


async def test_a_job_gives_the_artifact_of_its_latest_run_that_has_any(cloud: Cloud) -> None:
    path = f"jobs/{QUICK}/artifacts/manifest.json"
    assert (await cloud.client.get(path)).status_code == 404
    first = await cloud.start()
    cloud.time.move(60)
    await cloud.start()
    assert (await cloud.client.get(path)).json()["metadata"]["env"]["DBT_CLOUD_RUN_ID"] == str(first["id"])
