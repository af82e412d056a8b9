"""The whole watcher on a real API server, under its own ServiceAccount, against the simulator: what a user sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import ControlPlane
from tests.stack import JOBS, Stack, dbt_run, until
from watcher.api import FINALIZER

MISSING_RUN = 70403999999999


@pytest.fixture
async def stack(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack.up(plane, namespace, tmp_path) as stack:
        yield stack


def condition(status: dict[str, Any], kind: str) -> dict[str, str]:
    found: dict[str, str] = next(c for c in status["conditions"] if c["type"] == kind)
    return found


async def test_a_run_is_started_followed_and_told_to_its_end(stack: Stack) -> None:
    await stack.apply(dbt_run("a", cause="nightly"))
    status = await stack.reaches("a", "Succeeded")
    (run,) = await stack.runs()
    assert (status["runId"], status["jobId"], status["reason"]) == (run["id"], JOBS["success"], "RunSucceeded")
    assert status["url"].endswith(f"/runs/{run['id']}/")
    assert run["cause"].endswith("nightly")
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Succeeded": "True", "Finished": "True", "Reachable": "True", "Reconciling": "False", "Stalled": "False",
    }  # fmt: skip
    assert [reason for reason, _ in await stack.events("a")] == ["Started", "Succeeded"]


async def test_kubectl_wait_ends_on_any_end_and_again_after_an_edit(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "failure"))
    await stack.kubectl("wait", "dr/a", "--for=condition=Finished", "--timeout=60s")
    await stack.patch("a", {"ttlSecondsAfterFinished": 3600})
    await stack.kubectl("wait", "dr/a", "--for=condition=Finished", "--timeout=30s")


async def test_a_failure_shows_its_failed_nodes_and_lets_the_object_go(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "failure"))
    status = await stack.reaches("a", "Failed")
    (failed,) = status["results"]["failures"]
    assert failed["uniqueId"] == "model.shop.orders"
    assert "relation does not exist" in failed["message"]
    assert "model.shop.orders" in status["message"]

    async def released() -> bool:
        return FINALIZER not in (await stack.get("a"))["metadata"].get("finalizers", [])

    await until(released, what="the finalizer is gone")


async def test_setting_cancel_cancels_the_run_and_says_who_wanted_it(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "endless"))
    await stack.reaches("a", "Running")
    await stack.patch("a", {"cancel": True})
    status = await stack.reaches("a", "Cancelled")
    assert status["reason"] == "CancelRequested"
    assert [run["status"] for run in await stack.runs()] == [30]


async def test_deleting_cancels_the_run_before_the_object_goes(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "endless"))
    await stack.reaches("a", "Running")
    await stack.kubectl("delete", "dr", "a", "--timeout=60s")
    assert [run["status"] for run in await stack.runs()] == [30]


async def test_deleting_with_orphan_leaves_the_run_alone(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "endless", deletionPolicy="Orphan"))
    await stack.reaches("a", "Running")
    await stack.kubectl("delete", "dr", "a", "--timeout=60s")
    assert [run["status"] for run in await stack.runs()] == [3]
    assert [entry["action"] for entry in await stack.journal()] == ["start"]


async def test_an_existing_run_is_adopted_and_survives_its_object(stack: Stack) -> None:
    theirs = await stack.ask("POST", "/runs", {"job_id": JOBS["endless"], "cause": "from the UI"})
    await stack.apply(dbt_run("a", runId=theirs["id"]))
    await stack.reaches("a", "Running", runId=theirs["id"])
    await stack.kubectl("delete", "dr", "a", "--timeout=60s")
    assert [run["status"] for run in await stack.runs()] == [3]


async def test_a_run_that_does_not_exist_is_an_error_that_says_so(stack: Stack) -> None:
    await stack.apply(dbt_run("a", runId=MISSING_RUN))
    status = await stack.reaches("a", "Error")
    assert status["reason"] == "RunNotFound"
    assert str(MISSING_RUN) in status["message"]


async def test_a_job_is_found_by_its_names(stack: Stack) -> None:
    await stack.apply(dbt_run("a", job=None) | _job(name="daily build"))
    status = await stack.reaches("a", "Succeeded")
    assert status["jobId"] == JOBS["success"]


async def test_a_name_that_names_no_job_is_an_error_that_shows_the_near_ones(stack: Stack) -> None:
    await stack.apply(dbt_run("a", job=None) | _job(name="daily biuld"))
    status = await stack.reaches("a", "Error")
    assert status["reason"] == "JobNotFound"
    assert '"daily build"' in status["message"]
    assert await stack.runs() == []


def _job(name: str) -> dict[str, Any]:
    job = {"name": name, "project": "Analytics", "environment": "Production"}
    return {"spec": {"job": job, "pollIntervalSeconds": 5}}


async def test_an_unknown_job_id_is_an_error(stack: Stack) -> None:
    await stack.apply(dbt_run("a", job=None) | {"spec": {"job": {"id": 424242}}})
    assert (await stack.reaches("a", "Error"))["reason"] == "JobNotFound"


async def test_overrides_reach_dbt_cloud(stack: Stack) -> None:
    overrides = {"steps": ["dbt seed", "dbt test"], "schema": "pr_7", "threads": 3, "pullRequestId": {"github": 7}}
    await stack.apply(dbt_run("a", overrides=overrides))
    status = await stack.reaches("a", "Succeeded")
    sent = (await stack.dbt(f"runs/{status['runId']}/?include_related=trigger"))["trigger"]
    assert (sent["steps_override"], sent["schema_override"]) == (["dbt seed", "dbt test"], "pr_7")
    assert (sent["threads_override"], sent["github_pull_request_id"]) == (3, 7)


async def test_a_run_that_is_too_long_in_the_queue_times_out(stack: Stack) -> None:
    await stack.apply(dbt_run("first", "slow"))
    await stack.reaches("first", "Running")
    await stack.apply(dbt_run("second", "slow", queueDeadlineSeconds=1))
    status = await stack.reaches("second", "TimedOut")
    assert status["reason"] == "QueueDeadlineExceeded"
    assert "startedAt" not in status


async def test_a_run_that_is_too_long_is_cancelled_and_times_out(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "endless", activeDeadlineSeconds=2))
    status = await stack.reaches("a", "TimedOut")
    assert status["reason"] == "ActiveDeadlineExceeded"
    assert [run["status"] for run in await stack.runs()] == [30]


async def test_a_failed_run_is_resumed_from_its_failure(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "flaky", retry={"limit": 1, "backoffSeconds": 1}))
    status = await stack.reaches("a", "Succeeded")
    first, second = status["attempts"]
    assert (first["phase"], second["phase"]) == ("Failed", "Succeeded")
    assert second["retryOf"] == first["runId"]
    assert [entry["action"] for entry in await stack.journal()] == ["start", "retry"]


async def test_a_failed_run_is_started_anew(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "flaky", retry={"limit": 1, "backoffSeconds": 1, "strategy": "Fresh"}))
    status = await stack.reaches("a", "Succeeded")
    assert [entry["action"] for entry in await stack.journal()] == ["start", "start"]
    assert len({attempt["marker"] for attempt in status["attempts"]}) == 2


async def test_retries_end_at_their_limit(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "failure", retry={"limit": 2, "backoffSeconds": 1, "strategy": "Fresh"}))
    status = await stack.reaches("a", "Failed")
    assert [attempt["phase"] for attempt in status["attempts"]] == ["Failed"] * 3


async def test_a_finished_object_goes_after_its_ttl(stack: Stack) -> None:
    await stack.apply(dbt_run("a", ttlSecondsAfterFinished=1))
    await stack.gone("a")
    assert [run["status"] for run in await stack.runs()] == [10]


async def test_a_suspended_object_starts_when_it_is_let_go(stack: Stack) -> None:
    await stack.apply(dbt_run("a", suspend=True))
    await stack.reaches("a", "Pending", reason="Suspended")
    assert await stack.runs() == []
    await stack.patch("a", {"suspend": False})
    await stack.reaches("a", "Succeeded")


async def test_a_live_run_is_reused_when_asked_for(stack: Stack) -> None:
    theirs = await stack.ask("POST", "/runs", {"job_id": JOBS["endless"], "cause": "from the UI"})
    await stack.apply(dbt_run("a", "endless", reuse="Running"))
    await stack.reaches("a", "Running", runId=theirs["id"])
    assert len(await stack.runs()) == 1


async def test_a_missing_secret_is_told_and_heals_when_it_comes(stack: Stack) -> None:
    await stack.apply(dbt_run("a", connectionRef={"name": "mine"}))
    status = await stack.reaches("a", "Pending", reason="InvalidConnection")
    assert f"{stack.namespace}/mine" in status["message"]
    assert condition(status, "Reachable")["status"] == "False"
    keys = {"token": stack.token, "account-id": "70403103922125", "host": stack.url}
    await stack.apply(stack.secret("mine", keys))
    await stack.reaches("a", "Succeeded", seconds=120)


async def test_a_secret_of_another_type_is_never_used(stack: Stack) -> None:
    keys = {"token": stack.token, "account-id": "70403103922125", "host": stack.url}
    await stack.apply(stack.secret("mine", keys, kind="Opaque"), dbt_run("a", connectionRef={"name": "mine"}))
    status = await stack.reaches("a", "Pending", reason="InvalidConnection")
    assert "Opaque" in status["message"]
    assert await stack.runs() == []


async def test_a_secret_without_a_token_says_which_key(stack: Stack) -> None:
    keys = {"account-id": "70403103922125", "host": stack.url}
    await stack.apply(stack.secret("mine", keys), dbt_run("a", connectionRef={"name": "mine"}))
    assert "`token`" in (await stack.reaches("a", "Pending", reason="InvalidConnection"))["message"]


async def test_another_account_than_the_connections_names_both(stack: Stack) -> None:
    await stack.apply(dbt_run("a", accountId=12345))
    status = await stack.reaches("a", "Error")
    assert status["reason"] == "InvalidConnection"
    assert "12345" in status["message"]
    assert "70403103922125" in status["message"]


async def test_a_rotated_token_is_used_without_a_restart(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "endless"))
    await stack.reaches("a", "Running")
    fresh = stack.token + "f"
    await stack.ask("PUT", "/tokens", {"tokens": [{"token": fresh}]})

    async def refused() -> bool:
        return condition(await stack.status("a"), "Reachable")["reason"] == "Unauthorized"

    await until(refused, 60, "the refused token is told")
    await stack.connect(token=fresh)

    async def answering() -> bool:
        return condition(await stack.status("a"), "Reachable")["status"] == "True"

    await until(answering, 120, "the new token is used")
    await stack.patch("a", {"cancel": True})
    await stack.reaches("a", "Cancelled")


async def test_a_restart_of_the_watcher_loses_nothing(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "endless"), dbt_run("b", "endless"))
    await stack.reaches("a", "Running")
    await stack.reaches("b", "Running")
    assert await stack.watcher.stop() == 0
    first, second = await stack.runs()
    await stack.ask("POST", f"/runs/{first['id']}/finish", {"status": 10})
    stack.watcher.start()
    await stack.ask("POST", f"/runs/{second['id']}/finish", {"status": 20})
    phases = {(await stack.reaches(name, "Succeeded", "Failed"))["phase"] for name in ("a", "b")}
    assert phases == {"Succeeded", "Failed"}
    assert len(await stack.runs()) == 2


async def test_a_server_error_never_reads_as_a_failed_run(stack: Stack) -> None:
    await stack.apply(dbt_run("a", "endless"))
    await stack.reaches("a", "Running")
    await stack.ask("POST", "/faults", {"effect": {"type": "reply", "status": 502, "body": "html"}})

    async def told() -> bool:
        return condition(await stack.status("a"), "Reachable")["status"] == "False"

    await until(told, 60, "the trouble is told")
    assert (await stack.status("a"))["phase"] == "Running"
    await stack.ask("DELETE", "/faults")
    (run,) = await stack.runs()
    await stack.ask("POST", f"/runs/{run['id']}/finish", {"status": 10})
    await stack.reaches("a", "Succeeded", seconds=120)
