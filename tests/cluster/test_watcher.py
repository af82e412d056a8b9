"""The whole watcher on a real API server, under its own ServiceAccount, against the simulator: what a user sees.

The tests share one system; each has an object of its own. What breaks the system is in test_watcher_faults.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio

from airflow_trigger.artifacts import DbtRunArtifactOperator
from dbtrun.api import FINALIZER
from tests.chart.helm import chart_of
from tests.controlplane import ControlPlane
from tests.stack import JOBS, Own, Stack, dbt_run, until
from tests.stack.dbt import ACCOUNT

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

MISSING_RUN = 70403999999999

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, "watcher")
    async with Stack.up(plane, "watcher", tmp_path_factory.mktemp("watcher")) as stack:
        yield stack


@pytest.fixture
def own(stack: Stack, request: pytest.FixtureRequest) -> Own:
    """An object named after the test."""
    return Own(stack, re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_"))[:50].strip("-"))


async def theirs(stack: Stack) -> int:
    """Somebody else's endless run."""
    run = await stack.ask("POST", "/runs", {"job_id": JOBS["endless"], "cause": "from the UI"})
    return int(run["id"])


async def ends(stack: Stack, run_id: int) -> None:
    await stack.ask("POST", f"/runs/{run_id}/finish", {"status": 10})


async def test_a_run_is_started_followed_and_told_to_its_end(own: Own) -> None:
    await own.apply(cause="nightly")
    status = await own.reaches("Succeeded")
    (run,) = await own.runs()
    assert (status["runId"], status["jobId"], status["reason"]) == (run["id"], JOBS["success"], "RunSucceeded")
    assert status["url"].endswith(f"/runs/{run['id']}/")
    assert run["cause"].endswith("nightly")
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Succeeded": "True", "Finished": "True", "Reachable": "True", "Reconciling": "False", "Stalled": "False",
    }  # fmt: skip


async def test_there_is_one_event_for_the_start_and_one_for_the_end(stack: Stack, own: Own) -> None:
    await own.apply()
    await own.reaches("Succeeded")

    async def both() -> bool:
        return [reason for reason, _ in await stack.events(own.name)] == ["Started", "Succeeded"]

    await until(both, what="Started and Succeeded")


async def test_kubectl_wait_ends_on_any_end_and_again_after_an_edit(stack: Stack, own: Own) -> None:
    await own.apply("failure")
    await stack.kubectl("wait", f"dr/{own.name}", "--for=condition=Finished", "--timeout=60s")
    await own.patch(ttlSecondsAfterFinished=3600)
    await stack.kubectl("wait", f"dr/{own.name}", "--for=condition=Finished", "--timeout=30s")


@pytest.mark.parametrize(("job", "code"), [("success", 0), ("failure", 1)])
async def test_helm_waits_for_the_end_of_a_run_and_fails_with_it(
    stack: Stack, tmp_path: Path, job: str, code: int
) -> None:
    name = f"helm-{job}"
    chart = chart_of(tmp_path / name, dbt_run(name, job))
    where = ("-n", stack.namespace, "--wait", "--timeout", "90s")
    assert (await stack.plane.helm("install", name, str(chart), *where, check=False)).returncode == code
    assert (await stack.status(name))["phase"] == ("Succeeded" if code == 0 else "Failed")


async def test_a_failure_shows_its_failed_nodes_and_lets_the_object_go(stack: Stack, own: Own) -> None:
    await own.apply("failure")
    status = await own.reaches("Failed")
    (failed,) = status["results"]["failures"]
    assert failed["uniqueId"] == "model.shop.orders"
    assert "relation does not exist" in failed["message"]
    assert "model.shop.orders" in status["message"]

    async def released() -> bool:
        return FINALIZER not in (await stack.get(own.name))["metadata"].get("finalizers", [])

    await until(released, what="the finalizer is gone")


async def test_setting_cancel_cancels_the_run_and_says_who_wanted_it(own: Own) -> None:
    await own.apply("endless")
    await own.reaches("Running")
    await own.patch(cancel=True)
    assert (await own.reaches("Cancelled"))["reason"] == "CancelRequested"
    assert await own.run_statuses() == [30]


async def test_a_run_that_ended_in_dbt_cloud_keeps_its_true_result(own: Own) -> None:
    await own.apply("endless")
    await own.reaches("Running")
    await own.finish(30)
    assert (await own.reaches("Cancelled"))["reason"] == "CancelledInDbtCloud"


async def test_deleting_cancels_the_run_before_the_object_goes(own: Own) -> None:
    await own.apply("endless")
    await own.reaches("Running")
    await own.delete()
    assert await own.run_statuses() == [30]


async def test_deleting_with_orphan_leaves_the_run_alone(own: Own) -> None:
    await own.apply("endless", deletionPolicy="Orphan")
    await own.reaches("Running")
    await own.delete()
    assert await own.run_statuses() == [3]
    await own.finish(10)


async def test_an_existing_run_is_adopted_and_survives_its_object(stack: Stack, own: Own) -> None:
    run_id = await theirs(stack)
    await own.apply(runId=run_id)
    await own.reaches("Running", runId=run_id)
    await own.delete()
    assert [run["status"] for run in await stack.runs() if run["id"] == run_id] == [3]
    await ends(stack, run_id)


async def test_a_run_that_does_not_exist_is_an_error_that_says_so(own: Own) -> None:
    await own.apply(runId=MISSING_RUN)
    status = await own.reaches("Error")
    assert status["reason"] == "RunNotFound"
    assert str(MISSING_RUN) in status["message"]


def named(job: str) -> dict[str, Any]:
    return {"name": job, "project": "Analytics", "environment": "Production"}


async def test_a_job_is_found_by_its_names(own: Own) -> None:
    await own.apply(None, job=named("daily build"))
    assert (await own.reaches("Succeeded"))["jobId"] == JOBS["success"]


async def test_a_name_that_names_no_job_is_an_error_that_shows_the_near_ones(own: Own) -> None:
    await own.apply(None, job=named("daily biuld"))
    status = await own.reaches("Error")
    assert status["reason"] == "JobNotFound"
    assert '"daily build"' in status["message"]
    assert await own.runs() == []


async def test_an_unknown_job_id_is_an_error(own: Own) -> None:
    await own.apply(None, job={"id": 424242})
    assert (await own.reaches("Error"))["reason"] == "JobNotFound"


async def test_overrides_reach_dbt_cloud(stack: Stack, own: Own) -> None:
    overrides = {"steps": ["dbt seed", "dbt test"], "schema": "pr_7", "threads": 3, "pullRequestId": {"github": 7}}
    await own.apply(overrides=overrides)
    status = await own.reaches("Succeeded")
    sent = (await stack.dbt(f"runs/{status['runId']}/?include_related=trigger"))["trigger"]
    assert (sent["steps_override"], sent["schema_override"]) == (["dbt seed", "dbt test"], "pr_7")
    assert (sent["threads_override"], sent["github_pull_request_id"]) == (3, 7)


async def test_a_run_that_is_too_long_in_the_queue_times_out(stack: Stack, own: Own) -> None:
    first = Own(stack, "holds-the-job-up")
    await first.apply("slow")
    await first.reaches("Running")
    await own.apply("slow", queueDeadlineSeconds=1)
    status = await own.reaches("TimedOut")
    assert status["reason"] == "QueueDeadlineExceeded"
    assert "startedAt" not in status
    await first.finish(10)


async def test_a_run_that_is_too_long_is_cancelled_and_times_out(own: Own) -> None:
    await own.apply("endless", activeDeadlineSeconds=2)
    assert (await own.reaches("TimedOut"))["reason"] == "ActiveDeadlineExceeded"
    assert await own.run_statuses() == [30]


async def test_a_failed_run_is_resumed_from_its_failure(stack: Stack, own: Own) -> None:
    await own.apply("flaky", retry={"limit": 1, "backoffSeconds": 1})
    first, second = (await own.reaches("Succeeded"))["attempts"]
    assert (first["phase"], second["phase"]) == ("Failed", "Succeeded")
    assert second["retryOf"] == first["runId"]
    actions = [entry["action"] for entry in await stack.journal() if entry["run_id"] == second["runId"]]
    assert actions == ["retry"]


async def test_a_failed_run_is_started_anew(own: Own) -> None:
    await own.apply("flaky-too", retry={"limit": 1, "backoffSeconds": 1, "strategy": "Fresh"})
    status = await own.reaches("Succeeded")
    assert len({attempt["marker"] for attempt in status["attempts"]}) == 2
    assert [run["retrying_run_id"] for run in await own.runs()] == [None, None]


async def test_retries_end_at_their_limit(own: Own) -> None:
    await own.apply("failure", retry={"limit": 2, "backoffSeconds": 1, "strategy": "Fresh"})

    async def used_up() -> bool:
        return len((await own.status()).get("attempts", [])) == 3

    await until(used_up, 60, "three attempts")
    status = await own.reaches("Failed")
    assert [attempt["phase"] for attempt in status["attempts"]] == ["Failed"] * 3


async def test_a_finished_object_goes_after_its_ttl(stack: Stack, own: Own) -> None:
    await own.apply(ttlSecondsAfterFinished=1)
    await stack.gone(own.name)
    assert await own.run_statuses() == [10]


async def test_a_suspended_object_starts_when_it_is_let_go(own: Own) -> None:
    await own.apply(suspend=True)
    await own.reaches("Pending", reason="Suspended")
    assert await own.runs() == []
    await own.patch(suspend=False)
    await own.reaches("Succeeded")


async def test_a_live_run_is_reused_when_asked_for(stack: Stack, own: Own) -> None:
    run_id = await theirs(stack)
    await own.apply("endless", reuse="Running")
    await own.reaches("Running", runId=run_id)
    assert await own.runs() == []
    await ends(stack, run_id)


async def test_files_are_kept_with_the_end_and_go_with_the_object(stack: Stack, own: Own) -> None:
    await stack.ask("POST", "/faults", {"effect": {"type": "huge", "size": 2_000_000}, "path": "huge[.]json$"})
    await own.apply(artifacts=["run_results.json", "huge.json", "compiled/shop/a.sql", "manifest.json"])
    status = await own.reaches("Succeeded")
    results, huge, missing, manifest = status["artifacts"]
    assert "too large" in huge["problem"]
    assert missing == {"path": "compiled/shop/a.sql", "problem": "dbt Cloud has no such file of this run."}
    kept = await stack.json("get", "configmap", results["configMap"])
    for artifact in (results, manifest):
        original = await stack.file(status["runId"], artifact["path"])
        assert kept["data"][artifact["key"]].encode() == original
        assert artifact["bytes"] == len(original)
    await own.delete()

    async def collected() -> bool:
        return not await stack.kubectl("get", "configmap", results["configMap"], "--ignore-not-found", "-oname")

    await until(collected, 60, "the ConfigMap is gone")


async def test_airflow_reads_a_file_without_dbt_cloud(stack: Stack, own: Own, tmp_path: Path) -> None:
    await own.apply(artifacts=["manifest.json"])
    status = await own.reaches("Succeeded")
    operator = DbtRunArtifactOperator(
        task_id="read",
        run_id=status["runId"],
        path="manifest.json",
        output_file_name=str(tmp_path / "manifest.json"),
        namespace=stack.namespace,
        config_file=str(stack.plane.kubeconfig),
    )
    written = await asyncio.to_thread(operator.execute, cast("Context", {}))
    assert Path(written).read_bytes() == await stack.file(status["runId"], "manifest.json")  # noqa: ASYNC240


async def test_the_files_of_an_adopted_run_that_failed_are_kept(stack: Stack, own: Own) -> None:
    failed = await stack.ask("POST", "/runs", {"job_id": JOBS["failure"], "cause": "from the UI"})
    await own.apply(runId=int(failed["id"]), artifacts=["run_results.json"])
    (results,) = (await own.reaches("Failed"))["artifacts"]
    assert results["bytes"] == len(await stack.file(int(failed["id"]), "run_results.json"))


async def test_a_config_map_that_is_not_the_runs_own_is_left_as_it_is(stack: Stack, own: Own) -> None:
    name = f"{own.name}-artifacts"
    await stack.kubectl("create", "configmap", name, "--from-literal=run_results.json=theirs")
    await own.apply(artifacts=["run_results.json"])
    (results,) = (await own.reaches("Succeeded"))["artifacts"]
    assert f"ConfigMap {name} that does not belong to this DbtRun" in results["problem"]
    assert (await stack.json("get", "configmap", name))["data"] == {"run_results.json": "theirs"}


async def test_a_missing_secret_is_told_and_heals_when_it_comes(stack: Stack, own: Own) -> None:
    await own.apply(connectionRef={"name": "late"})
    assert "no Secret 'late'" in (await own.reaches("Pending", reason="InvalidConnection"))["message"]
    assert (await own.condition("Reachable"))["status"] == "False"
    keys = {"token": stack.token, "account-id": str(ACCOUNT), "host": stack.url}
    await stack.apply(stack.secret("late", keys))
    await own.reaches("Succeeded", seconds=120)


async def test_a_secret_of_another_type_is_never_used(stack: Stack, own: Own) -> None:
    keys = {"token": stack.token, "account-id": str(ACCOUNT), "host": stack.url}
    await own.apply_with([stack.secret("opaque", keys, kind="Opaque")], connectionRef={"name": "opaque"})
    assert "Opaque" in (await own.reaches("Pending", reason="InvalidConnection"))["message"]
    assert await own.runs() == []


async def test_a_secret_without_a_token_says_which_key(stack: Stack, own: Own) -> None:
    keys = {"account-id": str(ACCOUNT), "host": stack.url}
    await own.apply_with([stack.secret("tokenless", keys)], connectionRef={"name": "tokenless"})
    assert "`token`" in (await own.reaches("Pending", reason="InvalidConnection"))["message"]


async def test_an_object_whose_connection_is_broken_can_be_deleted(own: Own) -> None:
    await own.apply(connectionRef={"name": "never"})
    await own.reaches("Pending", reason="InvalidConnection")
    await own.delete()


async def test_another_account_than_the_connections_names_both(own: Own) -> None:
    await own.apply(accountId=12345)
    status = await own.reaches("Error")
    assert status["reason"] == "InvalidConnection"
    assert "12345" in status["message"]
    assert str(ACCOUNT) in status["message"]
