"""A status can be older than the truth: what was done before this process knew of an object is looked up."""

from __future__ import annotations

from dataclasses import replace as known_with
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import Attempt, DbtRun, Phase, Reason, Retry, RetryStrategy, RetryWhen, Status
from tests.unit.lifecycle.builders import (
    BEFORE,
    JOB,
    MARK,
    POLICY,
    RUN,
    START,
    UID,
    at,
    claim,
    claimed,
    decided,
    facts,
    following,
    known,
    live,
    looked,
    mono,
    next_step,
    over,
    run,
    seen,
    trouble,
    wall,
    written,
)
from watcher.lifecycle.decisions import ClaimStart, SearchPast, Wait, Write
from watcher.lifecycle.facts import NotSent, Refused, RunFacts, RunState, Started, Undecided
from watcher.lifecycle.known import CLOCK_MARGIN, CancelTry, Known, LookBack, certain, remember, saw_live, witnessed
from watcher.lifecycle.marker import marker

RESTARTED = START + timedelta(seconds=15)
"""When a watcher began that finds the object there."""
MET = known(since=RESTARTED)
RETRIES = Retry(limit=1, backoff_seconds=0)


def searched(seconds: float, *found: RunFacts, number: int = 1, tries: int = 1) -> LookBack:
    return LookBack(number=number, lookup=looked(seconds, *found, tries=tries))


def second(**attempt: Any) -> Status:
    """The first attempt has failed, the second has not been claimed."""
    first = over(Phase.FAILED, Reason.RUN_FAILED).attempts
    following_one = Attempt(number=2, phase=Phase.PENDING, **{"marker": marker(UID, 2), **attempt})
    return Status(phase=Phase.PENDING, reason=Reason.RETRY_BACKOFF, attempts=(*first, following_one))


# ── whose past is known ──


@pytest.mark.parametrize(
    ("since", "seen_from_birth"),
    [(BEFORE, True), (START - CLOCK_MARGIN, True), (START, False), (RESTARTED, False), (None, False)],
)
def test_an_object_is_fresh_if_it_was_created_after_the_watcher_began(since: object, seen_from_birth: bool) -> None:
    assert witnessed(run(), known(since=since)) is seen_from_birth


def test_a_fresh_object_is_claimed_without_a_search() -> None:
    decided(ClaimStart, run(), known())


def test_an_object_that_does_not_say_when_it_was_created_is_not_fresh() -> None:
    obj = run()
    obj = replace(obj, metadata=replace(obj.metadata, creation_timestamp=None))
    assert decided(SearchPast, obj, known()).since.year == 2000


def test_an_object_that_is_met_is_searched_for_before_its_first_claim() -> None:
    search = decided(SearchPast, run(), MET)
    assert search == SearchPast(JOB, 1, MARK, None, START - timedelta(seconds=600), starts=True)


def test_a_search_that_finds_nothing_is_made_once() -> None:
    decided(ClaimStart, run(), known_with(MET, looked_back=searched(19)))
    unsent = claim(run(claimed()), sent=True, submission=NotSent(trouble()))
    released = known_with(MET, looked_back=searched(19), claim=unsent)
    decided(ClaimStart, run(), remember(run(), released, at(20)))


def test_a_run_that_is_found_is_taken_on_with_a_warning() -> None:
    write = decided(Write, run(), known_with(MET, looked_back=searched(19, facts(cause=MARK))))
    assert (write.status.phase, write.status.run_id) == (Phase.RUNNING, RUN)
    assert write.status.attempt is not None
    assert (write.status.attempt.marker, write.status.attempt.sweep_after) == (MARK, None)
    assert write.event is not None
    assert (write.event.type, write.event.reason) == ("Warning", "RunFound")
    assert f"run {RUN}" in write.event.message


def test_a_twin_of_the_run_that_is_found_is_swept() -> None:
    twins = searched(19, facts(cause=MARK), facts(cause=MARK, run_id=RUN + 1))
    status = written(run(), known_with(MET, looked_back=twins))
    assert status.run_id == RUN
    assert status.attempt is not None
    assert status.attempt.sweep_after == wall(20)


@pytest.mark.parametrize("wish", [{"cancel": True}, {"deleted": 18.0}])
def test_what_nobody_wants_any_more_is_searched_for_before_it_is_said_to_have_no_run(wish: dict[str, object]) -> None:
    obj = run(**wish)  # type: ignore[arg-type]
    search = decided(SearchPast, obj, MET)
    assert not search.starts
    assert written(obj, known_with(MET, looked_back=searched(19))).phase is Phase.CANCELLED
    assert written(obj, known_with(MET, looked_back=searched(19, facts(cause=MARK)))).phase is Phase.RUNNING


@pytest.mark.parametrize("wish", [{"cancel": True}, {"deleted": 18.0}])
def test_what_nobody_wants_any_more_is_searched_for_now_and_not_when_its_retry_is_due(wish: dict[str, object]) -> None:
    backing_off = run(second(not_before=wall(3600)), retry=Retry(limit=1, backoff_seconds=3600), **wish)  # type: ignore[arg-type]
    decided(SearchPast, backing_off, MET)
    assert written(backing_off, known_with(MET, looked_back=searched(19, number=2))).phase is Phase.CANCELLED


@pytest.mark.parametrize("wish", [{"cancel": True}, {"deleted": 18.0}])
@pytest.mark.parametrize(
    ("reason", "since"), [(Reason.INVALID_CONNECTION, 19), (Reason.UNAUTHORIZED, 9), (Reason.FORBIDDEN, 9)]
)
def test_what_nobody_wants_any_more_ends_if_only_a_person_can_mend_its_connection(
    wish: dict[str, object], reason: Reason, since: float
) -> None:
    obj = run(**wish)  # type: ignore[arg-type]
    broken = trouble(reason, since=since, retry_at=90)
    status = written(obj, Known(since=RESTARTED, trouble=broken, unusable_since=broken.since.mono))
    assert status.phase is Phase.CANCELLED
    assert "No run is known" in status.message


@pytest.mark.parametrize("wish", [{"cancel": True}, {"deleted": 18.0}])
def test_a_refusal_at_the_end_of_an_outage_is_not_believed_at_once(wish: dict[str, object]) -> None:
    refused = trouble(Reason.UNAUTHORIZED, since=-500, retry_at=90)
    known = Known(since=RESTARTED, trouble=refused, unusable_since=mono(19))
    assert written(run(**wish), known).phase is Phase.PENDING  # type: ignore[arg-type]


@pytest.mark.parametrize("wish", [{"cancel": True}, {"deleted": 18.0}])
@pytest.mark.parametrize(
    ("reason", "since"), [(Reason.UNREACHABLE, -500), (Reason.RATE_LIMITED, -500), (Reason.UNAUTHORIZED, 11)]
)
def test_what_nobody_wants_any_more_waits_for_the_search_while_its_connection_may_work_again(
    wish: dict[str, object], reason: Reason, since: float
) -> None:
    obj = run(**wish)  # type: ignore[arg-type]
    status = written(obj, Known(since=RESTARTED, trouble=trouble(reason, since=since, retry_at=90)))
    assert (status.phase, status.reason) == (Phase.PENDING, reason)


# ── attempts after the first ──


def test_a_retry_is_searched_for_by_its_marker_and_by_what_it_resumes() -> None:
    search = decided(SearchPast, run(second(), retry=RETRIES), MET)
    assert (search.number, search.marker, search.retried) == (2, marker(UID, 2), RUN)
    assert search.since == START, "the attempt before was queued then"


def test_a_retry_that_runs_afresh_is_searched_for_by_its_marker_alone() -> None:
    fresh = Retry(limit=1, strategy=RetryStrategy.FRESH, backoff_seconds=0)
    assert decided(SearchPast, run(second(), retry=fresh), MET).retried is None


def test_a_retry_of_a_run_is_searched_for_by_that_run() -> None:
    assert decided(SearchPast, run(second(marker="", retry_of=RUN), retry=RETRIES), MET).retried == RUN
    assert decided(SearchPast, run(retry_of=77), MET).retried == 77


def test_a_first_attempt_that_was_released_is_searched_for_by_its_marker() -> None:
    pending = Status(phase=Phase.PENDING, attempts=(Attempt(number=1, phase=Phase.PENDING, marker=MARK),))
    assert decided(SearchPast, run(pending), MET).retried is None


def test_a_resumed_run_that_is_found_is_recorded_as_such() -> None:
    resumed = searched(19, facts(run_id=RUN + 1, retrying_run_id=RUN), number=2)
    attempt = written(run(second(), retry=RETRIES), known_with(MET, looked_back=resumed)).attempt
    assert attempt is not None
    assert (attempt.run_id, attempt.retry_of, attempt.marker) == (RUN + 1, RUN, "")


def test_no_attempt_follows_a_run_that_was_seen_live() -> None:
    running = run(live(), retry=RETRIES)
    memory = remember(running, known_with(MET, about=RUN, observation=seen(facts())), at(20))
    assert certain(running, memory, 2)
    decided(ClaimStart, run(second(), retry=RETRIES), remember(run(second()), memory, at(30)), 30)


def test_no_attempt_follows_a_run_that_this_process_started() -> None:
    obj = run(claimed())
    started = known_with(MET, claim=claim(obj, sent=True, submission=Started(facts())))
    memory = remember(run(live()), started, at(20))
    assert memory.claim is None
    assert certain(obj, memory, 2)
    assert not certain(obj, memory, 1)


# ── a status that goes back under a running watcher ──


@pytest.mark.parametrize(
    ("submission", "reached"),
    [(None, True), (Undecided("No answer."), True), (Started(facts()), True),
     (Refused(Reason.FORBIDDEN, "No."), False), (NotSent(trouble()), False)],
)  # fmt: skip
def test_what_reached_dbt_cloud_is_remembered(submission: object, reached: bool) -> None:
    obj = run(claimed())
    memory = known(claim=claim(obj, sent=True, submission=submission))
    assert remember(run(), memory, at(20)).submitted == int(reached)


def test_a_claim_that_was_not_sent_reached_nobody() -> None:
    assert remember(run(), known(claim=claim(run(claimed()))), at(20)).submitted == 0


def test_what_was_started_here_is_searched_for_until_it_must_have_shown() -> None:
    memory = remember(run(), following(run(live())), at(20))
    decided(SearchPast, run(), memory)
    empty = known_with(memory, looked_back=searched(21))
    status = written(run(), empty, 22)
    assert (status.phase, status.reason) == (Phase.PENDING, Reason.LOOKING_UP)
    assert isinstance(next_step(run(status), empty, 22), Wait)
    decided(SearchPast, run(status), empty, 21 + POLICY.lookup_backoff)
    decided(ClaimStart, run(), known_with(memory, looked_back=searched(20 + POLICY.quiet_period)), 150)


def test_an_attempt_that_is_made_pending_again_is_not_started_again() -> None:
    again = Status(phase=Phase.PENDING, attempts=(Attempt(number=1, phase=Phase.PENDING, marker=MARK),))
    decided(SearchPast, run(again), remember(run(again), following(run(live())), at(20)))
    sent = known(claim=claim(run(claimed()), sent=True, submission=Undecided("No answer.")))
    decided(SearchPast, run(again), remember(run(again), sent, at(20)))


# ── a cancel whose wish is forgotten ──


def cancelled(memory: Known, obj: DbtRun) -> Status:
    return written(obj, known_with(memory, about=RUN, observation=seen(facts(RunState.CANCELLED, started_at=None))))


ALWAYS = Retry(limit=1, when=tuple(RetryWhen), strategy=RetryStrategy.FRESH)


def test_a_cancel_that_is_met_is_not_undone_by_a_retry() -> None:
    status = cancelled(MET, run(live(), retry=ALWAYS))
    assert (status.phase, status.reason) == (Phase.CANCELLED, Reason.CANCELLED_IN_DBT_CLOUD)
    assert "It is not retried, because this watcher did not see the run live" in status.message


def test_a_cancel_of_our_own_is_not_undone_by_a_retry_when_the_status_goes_back() -> None:

    memory = known(cancel=CancelTry(run_id=RUN, at=mono(19)), untried=2)
    assert cancelled(memory, run(live(), retry=ALWAYS)).phase is Phase.CANCELLED


def test_a_cancel_in_dbt_cloud_that_was_seen_to_happen_is_retried() -> None:
    assert saw_live(run(), known_with(MET, untried=2), 1)
    assert cancelled(known_with(MET, untried=2), run(live(), retry=ALWAYS)).phase is Phase.PENDING


def test_a_cancel_that_is_met_says_nothing_of_retries_that_nobody_wants() -> None:
    assert "retried" not in cancelled(MET, run(live())).message
