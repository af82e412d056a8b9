"""Airflow's own DbtCloudHook against whatever host its connection names. Prints what it saw as one JSON object.

A process of its own: Airflow wants its home, its connection and the CA in the environment before it is imported.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook, DbtCloudJobRunException, DbtCloudJobRunStatus

LIVE = DbtCloudJobRunStatus.NON_TERMINAL_STATUSES.value
hook = DbtCloudHook()


def data(response: Any) -> Any:
    return response.json()["data"]


def a_run_that_succeeds(seen: dict[str, Any]) -> int:
    job = hook.get_job_by_name(project_name="Analytics", environment_name="Production", job_name="daily build")
    started = data(
        hook.trigger_job_run(
            job_id=job["id"],
            cause="from Airflow",
            steps_override=["dbt run"],
            additional_run_config={"threads_override": 8, "generate_docs_override": True},
        )
    )
    seen["job"], seen["started"] = job["id"], started
    seen["waited"] = hook.wait_for_job_run_status(started["id"], check_interval=0, timeout=30)
    seen["finished"] = data(hook.get_job_run(started["id"], include_related=["trigger", "job", "run_steps"]))
    seen["artifacts"] = data(hook.list_job_run_artifacts(started["id"]))
    artifact = hook.get_job_run_artifacts_concurrently(started["id"], ["manifest.json", "run_results.json"])
    seen["contents"] = sorted(asyncio.run(artifact))
    return int(started["id"])


async def the_asynchronous_half(run_id: int, seen: dict[str, Any]) -> None:
    hook = DbtCloudHook()
    seen["status, asynchronously"] = await hook.get_job_status(run_id=run_id)
    details = await hook.get_job_details(run_id=run_id, include_related=["trigger"])
    seen["cause, asynchronously"] = details["data"]["trigger"]["cause"]


def a_run_that_fails_and_is_retried(seen: dict[str, Any]) -> None:
    job = hook.get_job_by_name(project_name="Analytics", environment_name="Production", job_name="flaky build")["id"]
    failed = data(hook.trigger_job_run(job_id=job, cause="will fail"))["id"]
    try:
        hook.wait_for_job_run_status(failed, check_interval=0, timeout=30)
    except DbtCloudJobRunException as error:
        seen["failure"] = str(error)
    again = data(hook.trigger_job_run(job_id=job, cause="again", retry_from_failure=True))
    seen["retried"] = again["retrying_run_id"] == failed
    seen["retry waited"] = hook.wait_for_job_run_status(again["id"], check_interval=0, timeout=30)


def a_run_that_is_cancelled(seen: dict[str, Any]) -> None:
    job = hook.get_job_by_name(project_name="Analytics", environment_name="Production", job_name="endless build")["id"]
    run = data(hook.trigger_job_run(job_id=job, cause="to be cancelled"))["id"]
    hook.wait_for_job_run_status(run, expected_statuses=DbtCloudJobRunStatus.RUNNING.value, check_interval=0)
    live = hook.get_job_runs(
        payload={"job_definition_id": job, "status__in": str(list(LIVE)), "order_by": "-created_at"}
    )
    seen["live"] = [found["id"] == run for found in data(live)]
    hook.cancel_job_run(run)
    cancelled = DbtCloudJobRunStatus.CANCELLED.value
    seen["cancel waited"] = hook.wait_for_job_run_status(run, expected_statuses=cancelled, check_interval=0, timeout=30)


def pages_and_errors(seen: dict[str, Any]) -> None:
    pages = hook.list_job_runs(order_by="-id")
    seen["listed"] = sum(len(data(page)) for page in pages)
    try:
        hook.get_job_run(1)
    except Exception as error:  # noqa: BLE001 - which class it is differs between Airflow's versions
        seen["unknown run"] = str(error)
    seen["connection"] = hook.test_connection()


def main() -> None:
    seen: dict[str, Any] = {}
    run_id = a_run_that_succeeds(seen)
    asyncio.run(the_asynchronous_half(run_id, seen))
    a_run_that_fails_and_is_retried(seen)
    a_run_that_is_cancelled(seen)
    pages_and_errors(seen)
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
