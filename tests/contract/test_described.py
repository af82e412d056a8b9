"""Every endpoint, in every state of a run that changes its shape, against the official description."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract import description
from tests.contract.conftest import ACCOUNT, DOCS, FAILING, HELD, QUICK, Cloud
from watcher.simulator.routes import ENDPOINTS

ALL = ["trigger", "job", "environment", "run_steps", "debug_logs", "audit"]
# The keys of a run in the replies recorded in 2024; the description requires only two of them.
KEYS = set((description.DATA.parent / "run-keys.txt").read_text().split())


@pytest.mark.parametrize("seconds", [0, 2.5, 5, 100], ids=["queued", "starting", "running", "finished"])
@pytest.mark.parametrize("related", [[], ALL], ids=["bare", "with relations"])
@pytest.mark.parametrize("job", [QUICK, FAILING, HELD, DOCS])
async def test_a_run_is_as_described(cloud: Cloud, job: int, related: list[str], seconds: float) -> None:
    run = await cloud.start(job)
    cloud.time.move(seconds)
    found = await cloud.run(run["id"], *related)
    assert set(found) - {"audit"} == KEYS


async def test_a_run_has_the_53_keys_of_the_recordings_in_every_reply(cloud: Cloud) -> None:
    started = await cloud.start()
    listed = (await cloud.data("GET", "runs/"))[0]
    cancelled = await cloud.cancel(started["id"])
    assert len(KEYS) == 53
    assert set(started) == set(listed) == set(cancelled) == KEYS


@pytest.mark.parametrize(
    "path",
    [
        "",
        "runs/",
        "jobs/",
        f"jobs/{QUICK}/",
        f"jobs/{QUICK}/?include_related=[project,environment,account,most_recent_run,most_recent_completed_run]",
        "projects/",
        "projects/11/",
        "environments/",
        "environments/21/",
        f"/api/v3/accounts/{ACCOUNT}/",
        f"/api/v3/accounts/{ACCOUNT}/projects/",
        f"/api/v3/accounts/{ACCOUNT}/projects/11/",
        f"/api/v3/accounts/{ACCOUNT}/projects/11/environments/",
        f"/api/v3/accounts/{ACCOUNT}/projects/11/environments/21/",
        "/api/v2/whoami/",
        "/api/v2/accounts/",
    ],
)
@pytest.mark.parametrize("slash", ["with", "without"])
async def test_a_reply_is_as_described_with_and_without_the_trailing_slash(cloud: Cloud, path: str, slash: str) -> None:
    await cloud.start()
    base, _, query = path.partition("?")
    url = f"http://simulator{base}" if base.startswith("/") else f"{cloud.client.base_url}{base}"
    response = await cloud.client.get((url if slash == "with" else url.rstrip("/")) + (f"?{query}" if query else ""))
    assert response.status_code == 200


async def test_a_failed_run_is_as_described_in_all_its_parts(cloud: Cloud) -> None:
    run = await cloud.start(FAILING)
    cloud.time.move(100)
    steps = (await cloud.run(run["id"], "run_steps"))["run_steps"]
    await cloud.data("GET", f"steps/{steps[0]['id']}/")
    await cloud.data("GET", f"runs/{run['id']}/artifacts/")
    await cloud.data("GET", f"runs/{run['id']}/retry/")
    await cloud.data("POST", f"runs/{run['id']}/retry/")
    await cloud.data("POST", f"jobs/{FAILING}/rerun/")


def test_every_endpoint_of_the_simulator_is_described_or_known_to_be_undescribed() -> None:
    for method, path, _, _ in ENDPOINTS:
        concrete = path.replace("{path:path}", "manifest.json")
        for name in ("account_id", "run_id", "job_id", "project_id", "environment_id", "step_id"):
            concrete = concrete.replace(f"{{{name}}}", "1")
        if not description.UNDESCRIBED.fullmatch(concrete):
            description.schema_of(method, concrete)


@pytest.mark.parametrize(
    ("field", "value"),
    [("status", 15), ("created_at", "2024-07-03T13:59:00Z"), ("id", None), ("run_steps", None), ("duration", 3)],
)
async def test_the_check_sees_a_reply_that_is_not_as_described(cloud: Cloud, field: str, value: Any) -> None:
    run = await cloud.start()
    schema = {"$ref": "#/components/schemas/RunResponse"}
    assert description.complaints(schema, run) == []
    assert description.complaints(schema, run | {field: value})
