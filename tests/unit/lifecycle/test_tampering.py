"""A status that somebody else wrote steers nothing: it ends the object, or what is strange in it is written anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import (
    Attempt,
    Condition,
    ConditionStatus,
    ConditionType,
    DbtRun,
    Phase,
    Reason,
    Status,
)
from tests.unit.lifecycle.builders import (
    RUN,
    START,
    UID,
    at,
    claimed,
    decided,
    following,
    known,
    live,
    mono,
    next_step,
    over,
    run,
    seen,
    wall,
    written,
)
from watcher.lifecycle.decisions import AddFinalizer, ClaimStart, RemoveFinalizer, SearchPast, Write
from watcher.lifecycle.known import Known, remember
from watcher.lifecycle.marker import marker
from watcher.lifecycle.tampering import tampered

OTHER = "00000000-0000-4000-8000-000000000000"
FAR = datetime(9999, 12, 31, tzinfo=UTC)
EARLY = datetime(1, 1, 1, tzinfo=UTC)


def numbered(*numbers: int) -> Status:
    attempts = tuple(Attempt(number=number, phase=Phase.PENDING) for number in numbers)
    return Status(phase=Phase.PENDING, attempts=attempts)


def unreachable(since: datetime) -> Status:
    told = Condition(
        type=ConditionType.REACHABLE,
        status=ConditionStatus.FALSE,
        reason=Reason.UNREACHABLE,
        message="No route.",
        last_transition_time=since,
        observed_generation=1,
    )
    return replace(live(), conditions=(told,))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (claimed(marker=marker(OTHER, 1)), "a marker of another object"),
        (claimed(marker=marker(UID, 2)), "a marker of another object"),
        (numbered(0), "not numbered"),
        (numbered(2, 1), "not numbered"),
        (numbered(22), "not numbered"),
        (numbered(2**31 - 1), "not numbered"),
        (replace(live(), started_at=FAR), "an invalid time"),
        (replace(live(), queued_at=EARLY), "an invalid time"),
        (claimed(claim_time=EARLY), "an invalid time"),
        (claimed(first_claim_time=FAR), "an invalid time"),
        (live(sweep_after=FAR), "an invalid time"),
        (over(sweep_after=FAR), "an invalid time"),
        (unreachable(FAR), "an invalid time"),
        (replace(over(), completion_time=None), "says Succeeded without"),
        (replace(over(), message=""), "says Succeeded without"),
        (replace(over(), run_id=RUN + 1), "says Succeeded without"),
        (replace(over(), attempts=()), "says Succeeded without"),
        (Status(phase=Phase.FAILED, message="No.", completion_time=START), "says Failed without"),
        (replace(over(), phase=Phase.FAILED), "says Failed without"),
    ],
)
def test_what_the_watcher_never_writes_ends_the_object(status: Status, words: str) -> None:
    obj = run(status)
    end = written(obj, known())
    assert (end.phase, end.reason) == (Phase.ERROR, Reason.STATUS_TAMPERED)
    assert words in end.message
    assert f"its cause begins with dbtrun:{UID}." in end.message
    assert tampered(replace(obj, status=end)) is None


@pytest.mark.parametrize("emptied", [Status(), numbered(1)])
def test_a_status_that_lost_an_attempt_starts_none_again(emptied: Status) -> None:
    memory = remember(run(live(number=2)), known(), at(10))
    assert decided(SearchPast, run(emptied), memory).marker == marker(UID, 1)


@pytest.mark.parametrize("attempt", [{"run_id": RUN}, {"claim_time": START}])
def test_what_was_submitted_is_not_pending_again(attempt: dict[str, Any]) -> None:
    pending = Attempt(number=1, phase=Phase.PENDING, marker=marker(UID, 1), **attempt)
    end = written(run(Status(phase=Phase.PENDING, attempts=(pending,))), known())
    assert end.reason is Reason.STATUS_TAMPERED


def test_an_adopted_run_has_no_cause_to_look_for() -> None:
    assert "cause" not in written(run(replace(live(), run_id=None), run_id=RUN), known()).message


@pytest.mark.parametrize("reason", [Reason.JOB_NOT_FOUND, Reason.STATUS_TAMPERED])
def test_an_end_without_a_run_is_believed(reason: Reason) -> None:
    status = Status(phase=Phase.ERROR, reason=reason, message="No.", completion_time=START)
    assert next_step(run(status), Known()) == RemoveFinalizer()


@pytest.mark.parametrize("status", [claimed(), live(Phase.QUEUED), live()])
def test_a_finalizer_that_somebody_took_away_comes_back(status: Status) -> None:
    assert next_step(run(status, held=False), known()) == AddFinalizer()


@pytest.mark.parametrize("obj", [run(live(), held=False, deleted=0), run(over(), held=False)])
def test_no_finalizer_comes_back_to_what_is_going_or_over(obj: DbtRun) -> None:
    assert next_step(obj, known()) != AddFinalizer()


def test_an_object_is_not_held_for_a_search_that_never_comes_due() -> None:
    distant = wall(0) + timedelta(days=400)
    status = written(run(over(sweep_after=distant), deleted=10), known(swept=frozenset({1})))
    assert status.attempt is not None
    assert status.attempt.sweep_after is None


def test_a_backoff_longer_than_any_is_not_waited_for() -> None:
    distant = wall(0) + timedelta(days=400)
    pending = Attempt(number=1, phase=Phase.PENDING, marker=marker(UID, 1), not_before=distant)
    status = Status(phase=Phase.PENDING, reason=Reason.RETRY_BACKOFF, attempts=(pending,))
    decided(ClaimStart, run(status), known())


def test_what_could_not_be_read_is_written_anew() -> None:
    told = written(run(live()), following(run(live()), seen(None), missing_since=mono(20)))
    obj = run(told)
    memory = following(obj, seen(None), missing_since=mono(20))
    assert not isinstance(next_step(obj, memory), Write)
    assert written(replace(obj, unread=("steps",)), memory) == replace(told, last_observed_at=wall(20))


def test_an_object_that_adopts_has_no_attempt_before_it_has_its_run() -> None:
    pending = Status(phase=Phase.PENDING, attempts=(Attempt(number=1, phase=Phase.PENDING),))
    assert "would not have made yet" in written(run(pending, run_id=RUN), known()).message


@pytest.mark.parametrize("status", [Status(phase=Phase.PENDING, reason=Reason.INVALID_CONNECTION), live()])
def test_a_status_without_a_message_gets_one(status: Status) -> None:
    assert status.message == ""
    assert written(run(status, suspend=True), known()).message
