"""`dbtc`, the community's client, against the host in its environment. Prints what it saw as one JSON object."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from dbtc import dbtCloudClient

cloud = dbtCloudClient().cloud


def wait(account: int, run_id: int) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        run: dict[str, Any] = cloud.get_run(account, run_id)["data"]
        if run["is_complete"]:
            return run
        time.sleep(0.02)
    raise TimeoutError(f"run {run_id} did not end")


def main() -> None:
    seen: dict[str, Any] = {}
    account = cloud.list_accounts()["data"][0]["id"]
    project = cloud.list_projects(account)["data"][0]["id"]
    jobs = {job["name"]: job["id"] for job in cloud.list_jobs(account, project_id=project, order_by="name")["data"]}
    seen["jobs"] = list(jobs)
    started = cloud.trigger_job(account, jobs["daily build"], {"cause": "from dbtc"}, should_poll=False)["data"]
    live = cloud.list_runs(account, status=["queued", "starting", "running"], include_related=["trigger", "job"])
    seen["live"] = [run["trigger"]["cause"] for run in live["data"]]
    seen["finished"] = wait(account, started["id"])["status"]
    seen["artifacts"] = cloud.list_run_artifacts(account, started["id"])["data"]
    seen["results"] = cloud.get_run_artifact(account, started["id"], "run_results.json")["results"]
    failed = cloud.trigger_job(account, jobs["broken build"], {"cause": "x"}, should_poll=False)["data"]["id"]
    seen["failed"] = wait(account, failed)["status"]
    again = cloud.trigger_job_from_failure(account, jobs["broken build"], should_poll=False)["data"]
    seen["retried"] = again["retrying_run_id"] == failed
    seen["cancelled"] = cloud.cancel_run(account, again["id"])["status"]["is_success"]
    seen["latest"] = cloud.get_most_recent_run(account, job_definition_id=jobs["daily build"])["data"]["id"]
    seen["started"] = started["id"]
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
