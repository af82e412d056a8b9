"""Reading objects: a status that somebody forged, or another version wrote, takes no object away from the watcher."""

from __future__ import annotations

from typing import Any

import pytest

from dbtrun.api import Phase, UnreadableObject, parse

STEP = {"index": 1, "name": "dbt build", "status": "Success"}
ATTEMPT = {"number": 1, "phase": "Running", "runId": 7, "reason": "OfALaterVersion"}
CONDITION = {
    "type": "Finished",
    "status": "False",
    "reason": "RunStarted",
    "message": "",
    "lastTransitionTime": "2026-01-05T12:00:00Z",
    "observedGeneration": 1,
}


def body(spec: Any = None, **status: Any) -> dict[str, Any]:
    metadata = {"name": "run", "namespace": "ns", "uid": "u1", "resourceVersion": "1"}
    return {"metadata": metadata, "spec": spec or {"job": {"id": 1}}, "status": status}


def test_a_status_as_the_watcher_writes_it_is_read_whole() -> None:
    assert parse(body(phase="Running", conditions=[CONDITION])).unread == ()


@pytest.mark.parametrize(
    ("status", "unread"),
    [
        ({"reason": "OfALaterVersion"}, "reason"),
        ({"completionTime": "0000-01-01T00:00:00Z"}, "completionTime"),
        ({"steps": [STEP, STEP | {"startedAt": "2026-01-01T00:00:00+99:99"}]}, "steps"),
        ({"conditions": [CONDITION | {"reason": "OfALaterVersion"}]}, "conditions"),
        (
            {"attempts": [ATTEMPT | {"notBefore": "never"}]},
            "attempts",
        ),
    ],
)
def test_only_what_cannot_be_read_is_left_out(status: dict[str, Any], unread: str) -> None:
    run = parse(body(phase="Running", runId=7, **status))
    assert (run.status.phase, run.status.run_id, run.unread) == (Phase.RUNNING, 7, (unread,))


@pytest.mark.parametrize(
    "status", [{"phase": "Skipped"}, {"phase": "Running", "attempts": [ATTEMPT | {"phase": "Skipped"}]}]
)
def test_an_object_whose_phase_a_newer_release_has_written_is_left_alone(status: dict[str, Any]) -> None:
    with pytest.raises(UnreadableObject, match="a phase that this release does not know, at status"):
        parse(body(**status))


def test_an_attempt_keeps_what_can_be_read_of_it() -> None:
    (read,) = parse(body(attempts=[ATTEMPT])).status.attempts
    assert (read.run_id, read.reason) == (7, None)


def test_a_condition_without_its_reason_is_none() -> None:
    run = parse(body(conditions=[CONDITION | {"reason": "OfALaterVersion"}, CONDITION]))
    assert len(run.status.conditions) == 1


def test_what_the_api_server_sent_is_not_changed() -> None:
    forged = body(reason="OfALaterVersion")
    parse(forged)
    assert forged == body(reason="OfALaterVersion")


@pytest.mark.parametrize("wrong", [{"suspend": "often"}, {"job": {"id": "one"}}])
def test_a_spec_that_cannot_be_read_names_its_field(wrong: Any) -> None:
    with pytest.raises(UnreadableObject, match=next(iter(wrong))):
        parse(body(wrong, reason="OfALaterVersion"))
