from __future__ import annotations

from typing import Any

import pytest

from airflow_trigger.shared.objects import Denied, Gone, Seen, State
from airflow_trigger.trigger import DbtRunTrigger
from airflow_trigger.waiting.event import Payload, Subject
from airflow_trigger.waiting.follow import CREATE, WAIT, Follower, Todo
from tests.unit.airflow_trigger.fakes import dbtrun

RUN_5 = {"runId": 5}


def following(**arguments: Any) -> Follower:
    wait = DbtRunTrigger(namespace="team", **arguments).plan()
    return Follower(Subject(wait.namespace, wait.name, wait.run_id), 60.0, wait)


@pytest.fixture
def named() -> Follower:
    """Waits for an object that somebody made."""
    return following(name="nightly")


@pytest.fixture
def adopting() -> Follower:
    """Follows dbt Cloud run 5."""
    return following(run_id=5)


def told(follower: Follower, *states: State) -> Payload:
    """The event after these states; all but the last must ask for patience."""
    *earlier, last = states
    for state in earlier:
        assert isinstance(follower.judge(state, 0.0), Todo)
    verdict = follower.judge(last, 0.0)
    assert not isinstance(verdict, Todo), verdict
    return verdict


def test_a_live_run_is_waited_for(named: Follower) -> None:
    assert named.judge(Seen(dbtrun(phase="Running")), 0.0) is WAIT


def test_an_object_that_no_watcher_has_seen_yet_is_waited_for(named: Follower) -> None:
    """The CRD gives it a status that says no more than that."""
    assert named.judge(Seen(dbtrun(observedGeneration=-1)), 0.0) is WAIT


def test_an_object_of_that_name_by_another_connection_is_not_followed(adopting: Follower) -> None:
    other = dbtrun(spec={**RUN_5, "connectionRef": {"name": "theirs"}}, phase="Succeeded")
    event = told(adopting, Seen(other))
    assert (event["status"], event["reason"]) == ("error", "NotAccepted")
    assert "follows run 5 by connection theirs" in event["message"]


def test_a_phase_that_only_a_newer_watcher_knows_is_waited_for(named: Follower) -> None:
    assert named.judge(Seen(dbtrun(phase="Hibernating")), 0.0) is WAIT


def test_a_final_phase_ends_the_wait(named: Follower) -> None:
    assert told(named, Seen(dbtrun(phase="Running")), Seen(dbtrun(phase="Succeeded")))["status"] == "success"


def test_an_object_deleted_after_its_end_tells_its_end(named: Follower) -> None:
    assert told(named, Gone(dbtrun(phase="Failed", reason="RunFailed")))["reason"] == "RunFailed"


def test_an_object_deleted_before_its_end_is_an_error(named: Follower) -> None:
    assert told(named, Seen(dbtrun(phase="Running", runId=5)), Gone())["reason"] == "Deleted"


def test_an_object_deleted_and_made_anew_is_not_mistaken_for_the_old_one(named: Follower) -> None:
    payload = told(named, Seen(dbtrun(phase="Running")), Seen(dbtrun(uid="u2", phase="Succeeded")))
    assert (payload["status"], payload["reason"]) == ("error", "Deleted")


def test_the_end_of_another_object_of_that_name_is_not_taken_for_ours(named: Follower) -> None:
    assert told(named, Seen(dbtrun(phase="Running")), Gone(dbtrun(uid="u2", phase="Succeeded")))["reason"] == "Deleted"


def test_a_named_object_that_does_not_exist_is_an_error(named: Follower) -> None:
    assert told(named, Gone())["reason"] == "NotFound"


def test_an_adopted_run_without_an_object_gets_one(adopting: Follower) -> None:
    assert adopting.judge(Gone(), 0.0) is CREATE


def test_an_object_that_follows_the_same_run_is_joined(adopting: Follower) -> None:
    assert adopting.judge(Seen(dbtrun(spec=RUN_5)), 0.0) is WAIT


def test_an_adopting_object_on_its_way_out_is_replaced_when_it_is_gone(adopting: Follower) -> None:
    assert adopting.judge(Seen(dbtrun(spec=RUN_5, deleting=True)), 0.0) is WAIT
    assert adopting.judge(Gone(dbtrun(spec=RUN_5, deleting=True)), 0.0) is CREATE
    assert adopting.judge(Seen(dbtrun(spec=RUN_5, uid="u2")), 0.0) is WAIT


def test_an_adopting_object_deleted_under_the_task_is_not_made_again(adopting: Follower) -> None:
    payload = told(adopting, Seen(dbtrun(spec=RUN_5)), Seen(dbtrun(spec=RUN_5, deleting=True)), Gone())
    assert payload["reason"] == "Deleted"
    assert "policy Orphan, dbt Cloud run 5 may still be running" in payload["message"]


def test_an_adopting_object_on_its_way_out_that_is_final_tells_its_end(adopting: Follower) -> None:
    assert told(adopting, Seen(dbtrun(spec=RUN_5, deleting=True, phase="Succeeded")))["status"] == "success"


def test_a_name_taken_by_another_run_is_an_error_that_names_it(adopting: Follower) -> None:
    payload = told(adopting, Seen(dbtrun(spec={"runId": 6}, phase="Succeeded")))
    assert (payload["status"], payload["reason"]) == ("error", "NotAccepted")
    assert "follows run 6" in payload["message"]


def test_a_refusal_is_borne_for_the_grace_and_then_told(named: Follower) -> None:
    refusal = Denied('Kubernetes refuses it: User "a" cannot list resource "dbtruns"')
    assert named.judge(refusal, 100.0) is WAIT
    assert named.judge(refusal, 159.0) is WAIT
    verdict = named.judge(refusal, 160.0)
    assert not isinstance(verdict, Todo)
    assert (verdict["status"], verdict["reason"]) == ("error", "NoAccess")
    assert 'cannot list resource "dbtruns"' in verdict["message"]


def test_a_refusal_that_was_mended_is_forgotten(named: Follower) -> None:
    named.judge(Denied("no"), 100.0)
    named.judge(Seen(dbtrun()), 150.0)
    assert named.judge(Denied("no"), 161.0) is WAIT


def test_a_refused_creation_is_told_after_the_grace_too(adopting: Follower) -> None:
    adopting.judge(Gone(), 0.0)
    adopting.judge(Denied("cannot create"), 5.0)
    adopting.judge(Gone(), 10.0)
    verdict = adopting.judge(Denied("cannot create"), 65.0)
    assert not isinstance(verdict, Todo)
    assert "cannot create" in verdict["message"]


# ── the log ──


def test_each_change_of_phase_reason_and_message_is_news_once(named: Follower) -> None:
    refused = {"phase": "Pending", "reason": "Unauthorized", "message": "Invalid token."}
    running = {"phase": "Running", "reason": "RunStarted", "message": "Run 5 is running."}
    states: list[dict[str, Any]] = [{}, refused, refused, running, running | {"startTime": "2026-01-01T00:00:00Z"}]
    news = []
    for status in states:
        named.judge(Seen(dbtrun(**status)), 0.0)
        news.append(named.news())
    assert news == [
        "Pending: no watcher has seen it yet",
        "Pending (Unauthorized): Invalid token.",
        None,
        "Running (RunStarted): Run 5 is running.",
        None,
    ]


def test_a_live_run_that_cannot_be_reached_is_news_and_that_it_can_be_again() -> None:
    named = following(name="nightly")
    running: dict[str, Any] = {"phase": "Running", "reason": "RunStarted", "message": "Run 5 is running."}

    def conditions(status: str) -> list[dict[str, str]]:
        reachable = {"type": "Reachable", "status": status, "reason": "Unauthorized", "message": "Invalid token."}
        return [{"type": "Succeeded", "status": "Unknown", "reason": "RunStarted", "message": ""}, reachable]

    news = []
    for status in ("True", "False", "False", "True"):
        named.judge(Seen(dbtrun(**running, conditions=conditions(status))), 0.0)
        news.append(named.news())
    assert news == [
        "Running (RunStarted): Run 5 is running.",
        "Running (RunStarted): Run 5 is running. dbt Cloud cannot be reached (Unauthorized): Invalid token.",
        None,
        "Running (RunStarted): Run 5 is running.",
    ]


def test_what_cannot_be_started_is_told_once() -> None:
    named = following(name="nightly")
    refused = {"type": "Reachable", "status": "False", "reason": "Unauthorized", "message": "Invalid token."}
    pending: dict[str, Any] = {"phase": "Pending", "reason": "Unauthorized", "message": "Invalid token."}
    named.judge(Seen(dbtrun(**pending, conditions=[refused])), 0.0)
    assert named.news() == "Pending (Unauthorized): Invalid token."


def test_conditions_that_nobody_reads_are_not_kept() -> None:
    reachable = {"type": "Reachable", "status": "True", "reason": "Answering", "message": "dbt Cloud answers."}
    assert dbtrun(phase="Running", conditions=[reachable] * 5).status.conditions == ()


@pytest.mark.parametrize(
    ("phase", "begun"), [("", False), ("Pending", False), ("Submitting", False), ("Queued", True), ("Running", True)]
)
def test_a_run_has_begun_once_dbt_cloud_has_it(named: Follower, phase: str, begun: bool) -> None:
    assert not named.begun
    named.judge(Seen(dbtrun(phase=phase)), 0.0)
    assert named.begun is begun


def test_nothing_is_news_of_an_object_that_was_not_seen(named: Follower) -> None:
    named.judge(Denied("no"), 0.0)
    assert named.news() is None
