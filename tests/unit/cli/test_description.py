"""`dbtrun describe`: how it stands, why, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from dbtrun.api import REASON_DOCS, Reason
from dbtrun.cli.description import described, remedy
from dbtrun.cli.sections import Event
from tests.unit.cli.builders import NOW, ago, run, shown

FAILED: dict[str, Any] = {
    "phase": "Failed",
    "reason": "RunFailed",
    "message": "Step 4 (dbt build) failed: model.shop.orders: Database Error",
    "job": "nightly",
    "jobId": 98765,
    "runId": 123,
    "url": "https://cloud.getdbt.com/deploy/1/projects/2/runs/123/",
    "startedAt": ago(minutes=50),
    "finishedAt": ago(minutes=40),
    "progress": "4/4",
    "steps": [
        {"index": 1, "name": "Clone git repository", "status": "Success", "startedAt": ago(minutes=50),
         "finishedAt": ago(minutes=49)},
        {"index": 4, "name": "Invoke dbt with `dbt build`", "status": "Error", "startedAt": ago(minutes=49),
         "finishedAt": ago(minutes=40)},
    ],
    "failedStep": {"index": 4, "name": "Invoke dbt with `dbt build`", "logTail": "first line\n  \x1b[31mDatabase"},
    "results": {
        "counts": {"success": 7, "error": 1},
        "failures": [{"uniqueId": "model.shop.orders", "status": "error", "message": "no such relation"}],
        "unreadSteps": [2],
    },
    "artifacts": [
        {"path": "manifest.json", "configMap": "nightly-artifacts", "key": "manifest.json"},
        {"path": "catalog.json", "problem": "the run has no such file"},
    ],
    "attempts": [
        {"number": 1, "phase": "Failed", "runId": 122, "reason": "RunFailed"},
        {"number": 2, "phase": "Failed", "runId": 123, "reason": "RunFailed"},
    ],
}  # fmt: skip


def text(events: Any = (), **status: Any) -> str:
    return shown(described(run(**status), events, NOW))


def test_a_failure_is_told_with_its_log_its_nodes_and_its_attempts() -> None:
    told = text(**FAILED)
    for expected in (
        "Phase:       Failed (RunFailed)",
        "Job:         nightly (id 98765)",
        "Run:         123",
        "Took:        10m",
        "Step 4 (dbt build) failed",
        "✓  1  Clone git repository",
        "✗  4  Invoke dbt with",
        "Log of the failed step 4",
        "  first line",
        "  Database",
        "Results:     7 success, 1 error",
        "model.shop.orders (error): no such relation",
        "could not be read: 2.",
        "1  Failed",
        "manifest.json: ConfigMap nightly-artifacts",
        "catalog.json: not kept: the run",
    ):
        assert expected in told
    assert "\x1b" not in told


def test_the_way_out_is_told_where_there_is_one() -> None:
    told = text(phase="Pending", reason="InvalidConnection", message="There is no Secret 'a'.")
    assert f"What to do:  {REASON_DOCS[Reason.INVALID_CONNECTION].remedy}".replace("`", "") in told
    assert "What to do" not in text(phase="Running", reason="RunStarted")


@pytest.mark.parametrize("reason", Reason)
def test_no_remedy_says_that_there_is_nothing_to_do(reason: Reason) -> None:
    told = remedy(run(phase="Pending", reason=reason))
    assert not told.startswith("Nothing")
    assert bool(told) is not REASON_DOCS[reason].remedy.startswith("Nothing")


def test_a_reason_of_a_later_release_is_shown_without_a_remedy() -> None:
    assert "Pending (Later)" in text(phase="Pending", reason="Later")


def test_an_object_without_a_status_says_that_no_watcher_has_seen_it() -> None:
    assert "No watcher has seen it yet. `dbtrun doctor` finds out why." in text()


def test_dbt_cloud_that_does_not_answer_is_told() -> None:
    condition = {"type": "Reachable", "status": "False", "reason": "Unauthorized", "message": "The token is refused."}
    assert "Reachable:   False (Unauthorized): The token is refused." in text(phase="Running", conditions=[condition])
    answering = {"type": "Reachable", "status": "True", "reason": "Answering", "message": ""}
    assert "Reachable:" not in text(phase="Running", conditions=[answering])


def test_events_are_told() -> None:
    told = text([Event(reason="Failed", note="The run\nfailed", type="Warning", event_time=None)], **FAILED)
    assert "Failed  The run failed" in told


@pytest.mark.parametrize("width", [80, 120])
def test_long_lines_wrap_on_a_terminal(width: int) -> None:
    told = shown(described(run(**FAILED | {"message": "word " * 60}), [], NOW), width)
    assert max(map(len, told.splitlines())) <= width
    assert told.count("word") == 60


@pytest.mark.parametrize(
    ("job", "number", "told"),
    [
        ("nightly", 98765, "nightly (id 98765)"),
        ("98765", 98765, "98765"),
        ("nightly", 5, "nightly"),  # the status names another job than the spec: nobody knows which was started
    ],
)
def test_the_job_is_named_with_its_id_if_that_is_certain(job: str, number: int, told: str) -> None:
    assert f"Job:         {told}\n" in text(phase="Running", job=job, jobId=number)


def test_a_single_attempt_is_not_listed() -> None:
    assert "Attempts" not in text(**FAILED | {"attempts": FAILED["attempts"][:1]})
