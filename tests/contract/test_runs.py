"""The life of a run, instant by instant."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from tests.contract.conftest import CI, FAILING, HELD, OTHER, QUICK, SCENARIO, Cloud, scenario, simulated
from watcher.simulator.testing import ManualTime


async def test_a_run_goes_through_every_state_at_the_times_of_its_script(cloud: Cloud) -> None:
    run = await cloud.start()
    seen = []
    for _ in range(15):
        seen.append((await cloud.run(run["id"]))["status"])
        cloud.time.move(1)
    assert seen == [1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 10, 10]


async def test_timestamps_have_a_space_and_ids_fourteen_digits(cloud: Cloud) -> None:
    run = await cloud.start()
    cloud.time.move(60)
    run = await cloud.run(run["id"])
    assert run["created_at"] == "2024-07-03 13:59:00+00:00"
    assert run["finished_at"] == "2024-07-03 13:59:13+00:00"
    assert re.fullmatch(r"\d{14}", str(run["id"]))
    assert run["href"].endswith(f"/projects/11/runs/{run['id']}/")


async def test_durations_count_up_while_the_run_is_queued(cloud: Cloud) -> None:
    await cloud.start()
    second = await cloud.start()
    cloud.time.move(12)
    found = await cloud.run(second["id"])
    assert (found["queued_duration"], found["run_duration"]) == ("00:00:12", "00:00:00")
    assert found["duration_humanized"] == "12 seconds"
    assert found["finished_at_humanized"] == "0 minutes from now"


async def test_runs_of_one_job_are_serial_and_say_what_blocks_them(cloud: Cloud) -> None:
    first, second = await cloud.start(), await cloud.start()
    assert second["blocked_by"] == [first["id"]]
    cloud.time.move(12)
    assert [run["status"] for run in await cloud.data("GET", "runs/")] == [3, 1]
    cloud.time.move(1.5)
    found = await cloud.run(second["id"])
    assert (found["status"], found["blocked_by"]) == (2, [])
    cloud.time.move(20)
    runs = await cloud.data("GET", "runs/")
    assert runs[1]["dequeued_at"] >= runs[0]["finished_at"]


async def test_runs_of_different_jobs_and_ci_runs_do_not_wait_for_each_other(cloud: Cloud) -> None:
    for job in (QUICK, OTHER, CI, CI):
        await cloud.start(job)
    cloud.time.move(4)
    assert {run["status"] for run in await cloud.data("GET", "runs/")} == {3}


async def test_run_slots_limit_what_runs_at_once(time: ManualTime) -> None:
    cloud = simulated(time, account=SCENARIO["account"] | {"run_slots": 1})
    await cloud.start(QUICK)
    await cloud.start(OTHER)
    time.move(5)
    assert [run["status"] for run in await cloud.data("GET", "runs/")] == [3, 1]
    time.move(8.5)
    assert [run["status"] for run in await cloud.data("GET", "runs/")] == [10, 2]


async def test_a_queued_run_is_cancelled_at_once_and_never_started(cloud: Cloud) -> None:
    run = await cloud.start()
    ended = await cloud.cancel(run["id"])
    assert (ended["status"], ended["status_message"]) == (30, "Cancelled by user.")
    assert (ended["started_at"], ended["dequeued_at"], ended["run_duration"]) == (None, None, "00:00:00")
    assert ended["finished_at"] is not None


async def test_a_running_run_is_cancelled_a_little_later(cloud: Cloud) -> None:
    run = await cloud.start(HELD)
    cloud.time.move(10)
    assert (await cloud.cancel(run["id"]))["status"] == 3
    cloud.time.move(4.9)
    assert (await cloud.run(run["id"]))["status"] == 3
    cloud.time.move(0.2)
    ended = await cloud.run(run["id"])
    assert (ended["status"], ended["status_message"], ended["is_cancelled"]) == (30, "Cancelled by user.", True)


async def test_a_run_that_ends_before_its_cancel_takes_effect_keeps_its_result(cloud: Cloud) -> None:
    run = await cloud.start()
    cloud.time.move(12.5)
    await cloud.cancel(run["id"])
    cloud.time.move(5)
    assert (await cloud.run(run["id"]))["status"] == 10


async def test_cancelling_a_finished_run_changes_nothing(cloud: Cloud) -> None:
    run = await cloud.start()
    cloud.time.move(60)
    before = await cloud.run(run["id"])
    assert await cloud.cancel(run["id"]) == before
    assert [entry.action for entry in cloud.simulator.journal.entries] == ["start"]


async def test_the_next_run_goes_on_when_the_one_before_it_is_cancelled(cloud: Cloud) -> None:
    first, second, third = [await cloud.start() for _ in range(3)]
    await cloud.cancel(second["id"])
    await cloud.cancel(first["id"])
    cloud.time.move(3)
    assert (await cloud.run(third["id"]))["status"] == 3


async def test_a_time_out_is_reported_as_cancelled_with_a_message(cloud: Cloud) -> None:
    run = await cloud.start(HELD)
    cloud.time.move(3603)
    ended = await cloud.run(run["id"])
    assert ended["status"] == 30
    assert ended["status_message"] == (
        "This run timed out after running for 1 hour, which exceeded the configured timeout of 3600 seconds."
    )
    assert ended["retry_not_supported_reason"] == "RETRY_NOT_FAILED_RUN"


@pytest.mark.parametrize("asked", [0, 200_000])
async def test_the_account_ends_every_run_after_a_day(cloud: Cloud, asked: int) -> None:
    run = await cloud.start(HELD, timeout_seconds_override=asked)
    cloud.time.move(86400 + 3)
    assert "1 day, which exceeded the configured timeout of 86400" in (await cloud.run(run["id"]))["status_message"]


async def test_everything_that_was_asked_is_echoed_in_the_trigger(cloud: Cloud) -> None:
    asked: dict[str, Any] = {
        "cause": "dbtrun:1234/1",
        "git_sha": "a" * 40,
        "git_branch": "feature",
        "azure_pull_request_id": 1,
        "github_pull_request_id": 2,
        "gitlab_merge_request_id": 3,
        "non_native_pull_request_id": 4,
        "schema_override": "tmp",
        "dbt_version_override": "1.9.0",
        "threads_override": 8,
        "target_name_override": "ci",
        "generate_docs_override": True,
        "timeout_seconds_override": 60,
        "steps_override": ["dbt run", "dbt test"],
    }
    run = await cloud.start(**asked)
    assert asked.items() <= run["trigger"].items()
    assert run["job"]["name"] == "quick"
    found = await cloud.run(run["id"], "trigger")
    assert asked.items() <= found["trigger"].items()
    assert (found["job"], found["dbt_version"], found["trigger"]["cause_category"]) == (None, "1.9.0", "api")


async def test_overrides_may_be_null_and_unknown_keys_are_ignored(cloud: Cloud) -> None:
    run = await cloud.start(steps_override=None, schema_override=None, no_such_key=1)
    assert run["status"] == 1


async def test_steps_override_replaces_the_steps_and_docs_add_one(cloud: Cloud) -> None:
    run = await cloud.start(steps_override=["dbt run", "dbt test"], generate_docs_override=True)
    cloud.time.move(60)
    steps = (await cloud.run(run["id"], "run_steps"))["run_steps"]
    assert [step["index"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert [step["name"] for step in steps[3:]] == [
        "Invoke dbt with `dbt run`",
        "Invoke dbt with `dbt test`",
        "Invoke dbt with `dbt docs generate`",
    ]
    assert {step["status"] for step in steps} == {10}


async def test_steps_advance_with_the_run(cloud: Cloud) -> None:
    run = await cloud.start(steps_override=["dbt run", "dbt test"])
    assert (await cloud.run(run["id"], "run_steps"))["run_steps"] == []
    cloud.time.move(3 + 2)
    assert [s["status"] for s in (await cloud.run(run["id"], "run_steps"))["run_steps"]] == [10, 10, 10, 3, 1]
    cloud.time.move(5)
    assert [s["status"] for s in (await cloud.run(run["id"], "run_steps"))["run_steps"]] == [10, 10, 10, 10, 3]


async def test_the_steps_behind_the_one_that_failed_never_ran(cloud: Cloud) -> None:
    run = await cloud.start(FAILING)
    cloud.time.move(60)
    steps = (await cloud.run(run["id"], "run_steps"))["run_steps"]
    assert [step["status"] for step in steps] == [10, 10, 10, 10, 20, 30]
    assert steps[5]["started_at"] is None
    assert "division by zero" in steps[4]["logs"]


async def test_debug_logs_come_only_when_asked_for(cloud: Cloud) -> None:
    run = await cloud.start()
    cloud.time.move(60)
    assert (await cloud.run(run["id"]))["run_steps"] == []
    plain = (await cloud.run(run["id"], "run_steps"))["run_steps"]
    assert {step["debug_logs"] for step in plain} == {None}
    debug = (await cloud.run(run["id"], "run_steps", "debug_logs"))["run_steps"]
    assert "\x1b[" in debug[-1]["debug_logs"]


async def test_a_failed_run_can_be_retried_from_the_point_of_failure(cloud: Cloud) -> None:
    failed = await cloud.start(FAILING, schema_override="tmp")
    cloud.time.move(60)
    assert (await cloud.run(failed["id"]))["can_retry"] is True
    again = await cloud.data("POST", f"runs/{failed['id']}/retry/")
    assert again["retrying_run_id"] == failed["id"]
    assert again["trigger"]["schema_override"] == "tmp"
    assert again["trigger"]["cause_category"] == "rerun"
    cloud.time.move(60)
    ended = await cloud.run(again["id"], "run_steps")
    assert ended["status"] == 10
    assert [step["name"] for step in ended["run_steps"][3:]] == [
        "Invoke dbt with `dbt build`",
        "Invoke dbt with `dbt test`",
    ]


async def test_what_failed_and_what_was_skipped_can_be_asked(cloud: Cloud) -> None:
    run = await cloud.start(FAILING)
    cloud.time.move(60)
    assert await cloud.data("GET", f"runs/{run['id']}/retry/") == {
        "failed_step": "Invoke dbt with `dbt build`",
        "skipped_steps": ["Invoke dbt with `dbt test`"],
    }


@pytest.mark.parametrize(
    ("job", "body", "reason"),
    [
        (QUICK, {}, "RETRY_NOT_FAILED_RUN"),
        (507, {}, "RETRY_UNSUPPORTED_VERSION"),
        (FAILING, {"dbt_version_override": "1.5.0-latest"}, "RETRY_UNSUPPORTED_VERSION"),
        (FAILING, {"steps_override": ["dbt source freshness"]}, "RETRY_UNSUPPORTED_CMD"),
    ],
)
async def test_a_retry_is_refused_with_its_reason(cloud: Cloud, job: int, body: dict[str, str], reason: str) -> None:
    run = await cloud.start(job, **body)
    cloud.time.move(60)
    found = await cloud.run(run["id"])
    assert (found["can_retry"], found["retry_not_supported_reason"]) == (False, reason)
    response = await cloud.client.post(f"runs/{run['id']}/retry/")
    assert response.status_code == 400
    assert response.json()["data"] == {"retry_not_supported_reason": reason}


async def test_only_the_latest_run_of_a_job_can_be_retried(cloud: Cloud) -> None:
    first = await cloud.start(FAILING)
    cloud.time.move(60)
    await cloud.start(FAILING)
    assert (await cloud.run(first["id"]))["retry_not_supported_reason"] == "RETRY_NOT_LATEST_RUN"


async def test_rerun_retries_what_failed_and_otherwise_starts_afresh(cloud: Cloud) -> None:
    failed = await cloud.start(FAILING)
    cloud.time.move(60)
    retried = await cloud.data("POST", f"jobs/{FAILING}/rerun/")
    cloud.time.move(60)
    fresh = await cloud.data("POST", f"jobs/{FAILING}/rerun/")
    assert (retried["retrying_run_id"], fresh["retrying_run_id"]) == (failed["id"], None)
    assert [entry.action for entry in cloud.simulator.journal.entries] == ["start", "rerun", "rerun"]


async def test_the_clock_can_run_faster_and_its_past_stays_what_it_was(cloud: Cloud) -> None:
    run = await cloud.start(HELD)
    cloud.time.move(3)
    started = (await cloud.run(run["id"]))["started_at"]
    await cloud.control("POST", "clock", {"speed": 100})
    cloud.time.move(36)
    ended = await cloud.run(run["id"])
    assert (ended["status"], ended["started_at"]) == (30, started)
    assert ended["run_duration"] == "00:00:36"


async def test_a_clock_that_is_wrong_shows_in_stamps_and_in_the_date_header(cloud: Cloud) -> None:
    await cloud.control("POST", "clock", {"offset": -3600})
    response = await cloud.client.post(f"jobs/{QUICK}/run/", json={"cause": "x"})
    assert response.json()["data"]["created_at"] == "2024-07-03 12:59:00+00:00"
    assert response.headers["date"] == "Wed, 03 Jul 2024 12:59:00 GMT"


async def test_a_spread_is_drawn_from_and_the_same_seed_draws_the_same(time: ManualTime) -> None:
    jobs = [SCENARIO["jobs"][0] | {"run": [5, 50]}]
    clouds = [simulated(time, jobs=jobs, seed=seed) for seed in (1, 1, 2)]
    drawn = []
    for cloud in clouds:
        await cloud.start()
        drawn.append(next(iter(cloud.simulator.account.runs.values())).run)
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(value is not None and 5 <= value <= 50 for value in drawn)


def test_a_scenario_comes_back_from_its_own_text_unchanged() -> None:
    before = scenario()
    assert msgspec.convert(msgspec.to_builtins(before), type(before)) == before
