from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_trigger.waiting import event
from airflow_trigger.waiting.event import Payload, Subject
from dbtrun.api import FINAL_PHASES, Phase, Reason
from tests.unit.airflow_trigger.fakes import dbtrun

NIGHTLY = Subject("team", "nightly")
URL = "https://cloud.getdbt.com/deploy/1/projects/2/runs/98765"
RAN: dict[str, Any] = {
    "runId": 98765,
    "url": URL,
    "startedAt": "2026-01-01T00:00:10Z",
    "finishedAt": "2026-01-01T01:00:10Z",
}


def ended(phase: str, reason: str = "Because", message: str = "", **status: Any) -> Payload:
    return event.ended(NIGHTLY, dbtrun(phase=phase, reason=reason, message=message, **status))


def test_a_success_has_the_sentence_that_users_know() -> None:
    assert ended("Succeeded", "RunSucceeded", "dbt Cloud run 98765 succeeded.", **RAN) == {
        "status": "success",
        "run_id": 98765,
        "message": "Job run 98765 has completed successfully.",
        "job_run_url": URL,
        "reason": "RunSucceeded",
        "namespace": "team",
        "name": "nightly",
    }


def test_a_failure_counts_the_failed_nodes_and_repeats_what_dbt_said() -> None:
    payload = ended(
        "Failed", "RunFailed", "model.a failed.", results={"counts": {"error": 2, "fail": 1, "skipped": 9}}, **RAN
    )
    assert payload["status"] == "error"
    assert payload["message"] == "Job run 98765 has failed (3 failed nodes). model.a failed."
    one = ended("Failed", "RunFailed", "model.a failed.", results={"counts": {"error": 1}}, **RAN)
    assert one["message"] == "Job run 98765 has failed (1 failed node). model.a failed."


def test_a_failure_without_node_results_claims_no_count() -> None:
    assert ended("Failed", **RAN)["message"] == "Job run 98765 has failed."


def test_a_cancelled_run_says_who_cancelled_it() -> None:
    payload = ended("Cancelled", "CancelRequested", "spec.cancel is true.", **RAN)
    assert (payload["status"], payload["reason"]) == ("cancelled", "CancelRequested")
    assert payload["message"] == "Job run 98765 has been cancelled. spec.cancel is true."


def test_a_passed_deadline_is_a_timeout_that_says_after_how_many_seconds() -> None:
    payload = ended("TimedOut", "ActiveDeadlineExceeded", "It passed a deadline.", **RAN)
    assert payload["status"] == "timeout"
    assert payload["message"] == "Timeout: job run 98765 was ended after 3600 seconds. It passed a deadline."


def test_a_run_that_never_started_counts_its_queue_time() -> None:
    payload = ended("TimedOut", runId=5, startTime="2026-01-01T00:00:00Z", completionTime="2026-01-01T00:01:30Z")
    assert "after 90 seconds" in payload["message"]


def test_an_error_says_that_dbt_did_not_report_a_failure() -> None:
    payload = ended("Error", "LostContact", "No answer for 6 h", **RAN)
    assert payload["status"] == "error"
    assert payload["reason"] == "LostContact"
    assert payload["message"] == (
        "DbtRun team/nightly ended with LostContact: No answer for 6 h. dbt Cloud did not report that run 98765 failed."
    )


def test_an_error_before_any_run_has_no_run_id() -> None:
    payload = ended("Error", "InvalidConnection", "Secret dbt is missing.")
    assert payload["run_id"] is None
    assert payload["message"].endswith("No dbt Cloud run is known to have failed.")


def test_every_final_phase_has_an_event_status() -> None:
    assert {event.STATUSES[phase] for phase in FINAL_PHASES} == {"success", "error", "cancelled", "timeout"}


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("phase", sorted(FINAL_PHASES))
def test_every_end_is_json_and_keeps_its_reason(phase: Phase, reason: Reason) -> None:
    payload = ended(phase, reason, "why", **RAN)
    assert json.loads(json.dumps(payload)) == payload
    assert payload["reason"] == reason


def test_a_message_stays_bounded() -> None:
    assert len(ended("Failed", message="x" * 100_000)["message"]) == event.MAX_MESSAGE


def test_a_wait_that_ends_first_says_after_how_many_seconds_and_that_nothing_was_cancelled() -> None:
    payload = event.waited_too_long(NIGHTLY, dbtrun(phase="Running", **RAN), 3600.2)
    assert (payload["status"], payload["reason"], payload["job_run_url"]) == ("timeout", "WaitTimeout", URL)
    assert payload["message"] == (
        "Timeout: job run 98765 has not reached a terminal status after 3600 seconds (last seen: Running); "
        "it was not cancelled."
    )


def test_a_wait_that_ends_before_there_is_a_run_names_the_object() -> None:
    message = event.waited_too_long(NIGHTLY, None, 60)["message"]
    assert message.startswith("Timeout: DbtRun team/nightly has not reached a terminal status after 60 seconds")


def test_a_deleted_object_says_what_its_policy_did_to_the_run() -> None:
    started = event.deleted(NIGHTLY, dbtrun(phase="Running", runId=5))
    adopted = event.deleted(NIGHTLY, dbtrun(spec={"runId": 5}))
    kept = event.deleted(NIGHTLY, dbtrun(spec={"job": {"id": 1}, "deletionPolicy": "Orphan"}, runId=5))
    assert "policy Cancel, dbt Cloud run 5 is cancelled" in started["message"]
    assert "policy Orphan, dbt Cloud run 5 may still be running" in adopted["message"]
    assert "policy Orphan, dbt Cloud run 5 may still be running" in kept["message"]


def test_an_object_that_never_was_is_not_called_deleted() -> None:
    payload = event.deleted(NIGHTLY, None)
    assert (payload["status"], payload["reason"]) == ("error", "NotFound")
    assert payload["message"] == "DbtRun team/nightly does not exist."


def test_an_address_that_leads_elsewhere_is_in_no_event() -> None:
    odd = {**RAN, "url": "https://cloud.getdbt.com@evil.example/x"}
    assert ended("Succeeded", **odd)["job_run_url"] is None


def test_the_simulators_address_is_in_the_event() -> None:
    local = "http://127.0.0.1:8580/deploy/1/projects/2/runs/3/"
    assert ended("Succeeded", **{**RAN, "url": local})["job_run_url"] == local
    assert ended("Succeeded", **{**RAN, "url": "http://cloud.getdbt.com/x"})["job_run_url"] is None


def test_a_wait_that_was_too_long_says_why_the_run_has_not_begun() -> None:
    last = dbtrun(phase="Pending", reason="InvalidConnection", message="No such Secret.")
    message = event.waited_too_long(NIGHTLY, last, 60)["message"]
    assert "(last seen: Pending, InvalidConnection: No such Secret); it was not cancelled." in message
