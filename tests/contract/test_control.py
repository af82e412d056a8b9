"""The control surface: what people and tests do to the simulator while it runs."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.contract.conftest import FAILING, HELD, QUICK, Cloud
from watcher.simulator.server import application


async def test_requests_are_counted_by_kind_and_by_code(cloud: Cloud) -> None:
    run = await cloud.start()
    for _ in range(3):
        await cloud.run(run["id"])
    await cloud.client.get("runs/1/")
    await cloud.client.get("runs/")
    report = await cloud.control("GET", "requests")
    assert report["kinds"] == {"start": 1, "get-run": 4, "list-runs": 1}
    assert report["codes"]["get-run"] == {"200": 3, "404": 1}
    assert report["statuses"] == {"200": 5, "404": 1}
    await cloud.control("DELETE", "requests")
    assert (await cloud.control("GET", "requests"))["total"] == 0


async def test_the_journal_has_what_was_committed_and_nothing_else(cloud: Cloud) -> None:
    run = await cloud.start(cause="marker")
    await cloud.client.post(f"jobs/{QUICK}/run/", json={})
    await cloud.cancel(run["id"])
    await cloud.cancel(run["id"])
    journal = await cloud.control("GET", "journal")
    assert [(entry["action"], entry["run_id"], entry["cause"]) for entry in journal] == [
        ("start", run["id"], "marker"),
        ("cancel", run["id"], "marker"),
    ]
    assert len(await cloud.control("GET", "journal?action=start")) == 1


async def test_somebody_else_can_start_a_run(cloud: Cloud) -> None:
    made = await cloud.control("POST", "runs", {"job_id": QUICK, "cause": "by hand"})
    trigger = (await cloud.run(made["id"], "trigger"))["trigger"]
    assert (trigger["cause"], trigger["cause_category"]) == ("by hand", "ui")
    assert [entry["action"] for entry in await cloud.control("GET", "journal")] == ["ui"]


@pytest.mark.parametrize(("status", "message"), [(10, None), (20, "gone wrong"), (30, "Cancelled by an admin")])
async def test_a_held_run_ends_when_it_is_told_to(cloud: Cloud, status: int, message: str | None) -> None:
    run = await cloud.start(HELD)
    cloud.time.move(1000)
    assert (await cloud.run(run["id"]))["status"] == 3
    await cloud.control("POST", f"runs/{run['id']}/finish", {"status": status, "message": message})
    ended = await cloud.run(run["id"], "run_steps")
    assert (ended["status"], ended["status_message"], ended["run_duration"]) == (status, message, "00:16:38")
    assert ended["run_steps"][3]["status"] == status


async def test_a_run_that_was_to_fail_can_be_made_to_succeed(cloud: Cloud) -> None:
    run = await cloud.start(FAILING)
    cloud.time.move(5)
    await cloud.control("POST", f"runs/{run['id']}/finish", {"status": 10})
    ended = await cloud.run(run["id"], "run_steps")
    assert [step["status"] for step in ended["run_steps"]] == [10] * 6
    assert all(step["finished_at"] for step in ended["run_steps"])


async def test_a_queued_run_can_be_ended_too(cloud: Cloud) -> None:
    first, second = await cloud.start(), await cloud.start()
    await cloud.control("POST", f"runs/{second['id']}/finish", {"status": 20})
    assert (await cloud.run(second["id"]))["can_retry"] is True
    cloud.time.move(60)
    assert (await cloud.run(first["id"]))["status"] == 10


async def test_a_job_gets_a_new_script_and_its_live_runs_keep_the_old_one(cloud: Cloud) -> None:
    old = await cloud.start()
    await cloud.control("PATCH", f"jobs/{QUICK}", {"outcomes": ["error"], "run": 1, "message": "as told"})
    new = await cloud.start()
    cloud.time.move(60)
    assert (await cloud.run(old["id"]))["status"] == 10
    ended = await cloud.run(new["id"])
    assert (ended["status"], ended["status_message"]) == (20, "as told")
    assert (await cloud.control("GET", f"jobs/{QUICK}"))["queue"] == 2


async def test_a_job_can_be_added(cloud: Cloud) -> None:
    await cloud.control("PUT", "jobs/900", {"name": "new", "project": "Finance"})
    assert (await cloud.start(900))["project_id"] == 12


async def test_a_token_can_be_rotated(cloud: Cloud) -> None:
    await cloud.control("PUT", "tokens", {"tokens": [{"token": "fresh"}]})
    assert (await cloud.client.get("runs/")).status_code == 401
    assert (await cloud.client.get("runs/", headers={"Authorization": "Token fresh"})).status_code == 200


async def test_the_state_counts_runs_and_shows_no_token(cloud: Cloud) -> None:
    await cloud.start()
    await cloud.start(FAILING)
    cloud.time.move(60)
    await cloud.start()
    state = await cloud.control("GET", "state")
    assert state["runs"] == {"success": 1, "error": 1, "queued": 1}
    assert state["live"] == 1
    assert "finance-only" not in str(state)


@pytest.mark.parametrize(
    ("method", "path", "body", "sentence"),
    [
        ("POST", "runs", {"job_id": 1}, "job_id: there is no job 1."),
        ("POST", "runs/1/finish", {}, "There is no run 1."),
        ("POST", "clock", {"speed": 0}, "speed: expected `float` > 0.0."),
        (
            "POST",
            "clock",
            {"sped": 2},
            "the top level has no field `sped`: see the list of fields in docs/simulator.md.",
        ),
        (
            "PUT",
            "jobs/501",
            {"name": "x", "project": "Sales"},
            "job.project: there is no project 'Sales', the projects",
        ),
        ("PUT", "tokens", {"tokens": [{"token": "x", "projects": [9]}]}, "tokens[0].projects: there is no project 9"),
        ("POST", "faults", {"effect": {"type": "storm"}}, "effect.type: invalid value 'storm'."),
        ("POST", "faults", {"effect": {"type": "drop"}, "kinds": ["begin"]}, "kinds: there is no kind 'begin'"),
        ("POST", "faults", {"effect": {"type": "drop"}, "path": "("}, "path: not a regular expression"),
        ("POST", "faults", {"effect": {"type": "drop"}, "times": 0}, "times: expected `int` >= 1."),
    ],
)
async def test_a_wrong_wish_is_one_sentence(cloud: Cloud, method: str, path: str, body: Any, sentence: str) -> None:
    response = await cloud.client.request(method, f"http://simulator/_simulator/{path}", json=body)
    assert response.status_code in (400, 404)
    assert response.json()["error"].startswith(sentence)


@pytest.mark.parametrize(("remote", "code"), [(False, 403), (True, 200)])
async def test_other_hosts_reach_the_control_surface_only_where_it_was_opened(
    cloud: Cloud, remote: bool, code: int
) -> None:
    app = application(cloud.simulator, remote_control=remote)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=("192.0.2.7", 1))) as client:
        assert (await client.get("http://simulator/_simulator/state")).status_code == code
