"""Between a claim and a run id."""

from __future__ import annotations

from dataclasses import replace as known_with
from datetime import datetime
from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import DbtRun, DeletionPolicy, Overrides, Phase, Reason, Status
from tests.unit.lifecycle.builders import (
    ACCOUNT,
    JOB,
    MARK,
    RUN,
    claim,
    claimed,
    decided,
    facts,
    known,
    looked,
    next_step,
    rested,
    run,
    trouble,
    wall,
    written,
)
from watcher.lifecycle.decisions import ClaimStart, Connect, LookForRuns, RemoveFinalizer, Resume, Start, Write
from watcher.lifecycle.facts import NotSent, Refused, RunState, Started, Undecided
from watcher.lifecycle.known import Known

LOST = Undecided("No answer within 30 s.")


def searching(status: Status | None = None) -> Status:
    """A claim whose search was told."""
    return replace(
        status or claimed(),
        reason=Reason.LOOKING_UP,
        message="It is not known whether dbt Cloud started the run; the watcher is searching for it.",
    )


def undecided(obj: DbtRun, **changes: Any) -> Known:
    """Our own start has gone out, and no answer came."""
    return known(claim=claim(obj, sent=True, submission=LOST, **changes))


# ── sending ──


def test_a_claim_of_our_own_is_sent_with_its_marker() -> None:
    obj = run(claimed(), overrides=Overrides(threads=8), cause="Because.")
    assert next_step(obj, known(claim=claim(obj))) == Start(JOB, f"{MARK} Because.", Overrides(threads=8))


def test_a_claim_of_a_retry_resumes_the_failed_run() -> None:
    obj = run(claimed(2, marker="", retry_of=RUN))
    assert next_step(obj, known(claim=claim(obj))) == Resume(RUN)


def test_a_claim_that_is_older_than_its_window_is_not_sent_but_given_back() -> None:
    obj = run(claimed(2))
    status = written(obj, known(claim=claim(obj)), 31)
    assert (status.phase, status.reason) == (Phase.PENDING, Reason.ACCEPTED)
    assert status.attempt is not None
    assert (status.attempt.phase, status.attempt.claim_time) == (Phase.PENDING, None)


def test_a_claim_of_somebody_else_is_never_sent() -> None:
    obj = run(searching())
    decided(LookForRuns, obj, known(claim=claim(obj, own=False)))


def test_a_claim_that_was_sent_is_never_sent_again() -> None:
    obj = run(searching())
    decided(LookForRuns, obj, known(claim=claim(obj, sent=True)))


def test_a_claim_is_not_sent_over_a_connection_that_was_dropped() -> None:
    obj = run(claimed())
    assert next_step(obj, known(account_id=None, claim=claim(obj))) == Connect()


def test_a_claim_waits_out_a_pause_within_its_window() -> None:
    obj = run(claimed())
    _, until = rested(obj, known(claim=claim(obj), trouble=trouble(since=19, retry_at=25)))
    assert until == 25


def test_a_claim_of_a_cancelled_object_is_not_sent() -> None:
    obj = run(claimed(), cancel=True)
    status = written(obj, known(claim=claim(obj)))
    assert (status.phase, status.reason) == (Phase.CANCELLED, Reason.CANCEL_REQUESTED)
    assert status.message == "spec.cancel was set before anything was started."


def test_a_claim_of_a_deleted_object_is_not_sent() -> None:
    obj = run(claimed(), deleted=20)
    assert written(obj, known(claim=claim(obj))).reason is Reason.DELETED


def test_a_deleted_object_that_leaves_its_run_alone_goes_at_once() -> None:
    obj = run(claimed(), deleted=20, deletion_policy=DeletionPolicy.ORPHAN)
    assert next_step(obj, undecided(obj)) == RemoveFinalizer()


# ── dbt Cloud's answer ──


def test_a_started_run_is_recorded() -> None:
    obj = run(claimed())
    answer = Started(facts(RunState.QUEUED))
    decision = decided(Write, obj, known(claim=claim(obj, sent=True, submission=answer)))
    assert (decision.status.phase, decision.status.run_id, decision.status.url) == (
        Phase.QUEUED,
        RUN,
        "https://dbt/run",
    )
    assert decision.status.attempt is not None
    assert (decision.status.attempt.run_id, decision.status.attempt.sweep_after) == (RUN, None)
    assert decision.event is not None
    assert decision.event.reason == "Started"


def test_a_refused_start_ends_the_object_with_dbt_clouds_words() -> None:
    obj = run(claimed())
    refusal = Refused(Reason.SUBMISSION_REJECTED, "steps_override is not allowed.")
    status = written(obj, known(claim=claim(obj, sent=True, submission=refusal)))
    assert (status.phase, status.reason) == (Phase.ERROR, Reason.SUBMISSION_REJECTED)
    assert status.message == "steps_override is not allowed."


def test_a_refused_resumption_runs_the_job_anew() -> None:
    obj = run(claimed(2, marker="", retry_of=RUN))
    refusal = Refused(Reason.SUBMISSION_REJECTED, "The target run is too old.")
    decision = decided(Write, obj, known(claim=claim(obj, sent=True, submission=refusal)))
    attempt = decision.status.attempt
    assert attempt is not None
    assert (attempt.number, attempt.phase, attempt.retry_of) == (2, Phase.PENDING, None)
    assert attempt.marker.endswith("/2")
    assert decision.event is not None
    assert "The target run is too old." in decision.event.message


def test_a_start_that_was_not_sent_gives_the_claim_back() -> None:
    obj = run(claimed())
    status = written(obj, known(claim=claim(obj, sent=True, submission=NotSent(trouble()))))
    assert status.phase is Phase.PENDING


@pytest.mark.parametrize(
    ("number", "sweep_after", "submitted", "kept"),
    [(1, None, 0, False), (2, None, 0, True), (1, wall(250), 0, True), (1, None, 1, True)],
)
def test_only_an_object_that_certainly_has_no_run_keeps_no_account(
    number: int, sweep_after: datetime | None, submitted: int, kept: bool
) -> None:
    obj = run(replace(claimed(number, sweep_after=sweep_after), account_id=ACCOUNT, host="cloud.example.com"))
    unsent = claim(obj, sent=True, submission=NotSent(trouble()))
    status = written(obj, known(claim=unsent, submitted=submitted))
    there = (ACCOUNT, "cloud.example.com", JOB)
    assert (status.account_id, status.host, status.job_id) == (there if kept else (None, None, None))
    assert len(status.attempts) == kept


def test_a_refused_resumption_stays_refused_when_the_claim_is_given_back() -> None:
    obj = run(claimed(), retry_of=41)
    status = written(obj, known(claim=claim(obj, sent=True, submission=NotSent(trouble()))))
    assert status.attempt is not None
    assert status.attempt.retry_of is None


def test_a_claim_that_was_given_back_does_not_count_towards_giving_up() -> None:
    obj = run(claimed())
    free = written(obj, known(claim=claim(obj, sent=True, submission=NotSent(trouble()))))
    later = decided(ClaimStart, run(free), known(), 30_000).status
    assert later.attempt is not None
    assert later.attempt.first_claim_time == wall(30_000)


def test_a_claim_that_may_have_a_late_run_keeps_its_first_time_when_given_back() -> None:
    obj = run(claimed(claim_time=wall(130), sweep_after=wall(250)))
    free = written(obj, known(claim=claim(obj, sent=True, submission=NotSent(trouble()))), 131)
    assert free.attempt is not None
    assert free.attempt.first_claim_time == wall(0)


# ── undecided ──


def test_a_lost_answer_is_told_before_the_run_is_looked_up() -> None:
    obj = run(claimed())
    status = written(obj, undecided(obj))
    assert (status.phase, status.reason) == (Phase.SUBMITTING, Reason.LOOKING_UP)


def test_the_runs_of_the_job_are_searched_as_far_back_as_clocks_may_differ() -> None:
    obj = run(searching())
    search = decided(LookForRuns, obj, undecided(obj))
    assert (search.job_id, search.attempt, search.since) == (JOB, obj.status.attempt, wall(-600))


def test_a_found_run_is_the_attempts_and_its_twin_is_looked_for_later() -> None:
    obj = run(searching())
    status = written(obj, undecided(obj, lookup=looked(20, facts())))
    assert status.run_id == RUN
    assert status.attempt is not None
    assert status.attempt.sweep_after == wall(20 + 120)


def test_of_two_found_runs_the_older_is_taken_and_the_twin_swept_at_once() -> None:
    obj = run(searching())
    status = written(obj, undecided(obj, lookup=looked(20, facts(), facts(run_id=RUN + 1))))
    assert status.run_id == RUN
    assert status.attempt is not None
    assert status.attempt.sweep_after == wall(20)


@pytest.mark.parametrize(("tries", "pause"), [(1, 5), (2, 10), (3, 20), (4, 40), (9, 40)])
def test_the_search_is_repeated_with_backoff(tries: int, pause: float) -> None:
    obj = run(searching())
    _, until = rested(obj, undecided(obj, lookup=looked(20, tries=tries)))
    assert until == 20 + pause


def test_the_search_is_repeated_when_the_quiet_period_ends() -> None:
    obj = run(searching())
    _, until = rested(obj, undecided(obj, lookup=looked(100, tries=5)), 101)
    assert until == 120


def test_a_search_from_before_the_end_of_the_quiet_period_proves_nothing() -> None:
    obj = run(searching())
    decided(LookForRuns, obj, undecided(obj, lookup=looked(119.9)), 500)


def test_a_search_after_the_quiet_period_proves_that_nothing_was_started() -> None:
    obj = run(searching())
    status = decided(ClaimStart, obj, undecided(obj, lookup=looked(120)), 121.5).status
    assert status.attempt is not None
    assert (status.attempt.marker, status.attempt.claim_time) == (MARK, wall(121.5))
    assert (status.attempt.first_claim_time, status.attempt.sweep_after) == (wall(0), wall(121 + 120))


def test_a_met_claim_is_quiet_from_when_it_was_met() -> None:
    obj = run(searching())
    decided(LookForRuns, obj, known(claim=claim(obj, own=False, since=60, lookup=looked(179))), 300)
    decided(ClaimStart, obj, known(claim=claim(obj, own=False, since=60, lookup=looked(180))), 300)


def test_nothing_is_claimed_again_over_a_connection_that_was_dropped() -> None:
    obj = run(searching())
    memory = known_with(undecided(obj, lookup=looked(120)), account_id=None)
    assert next_step(obj, memory, 121) == Connect()


def test_a_cancelled_object_ends_once_it_is_certain_that_nothing_was_started() -> None:
    obj = run(searching(), cancel=True)
    decided(LookForRuns, obj, undecided(obj))
    status = written(obj, undecided(obj, lookup=looked(120)), 121)
    assert status.phase is Phase.CANCELLED


def test_a_run_that_shows_after_a_cancelled_start_is_still_looked_for() -> None:
    obj = run(searching(), cancel=True)
    status = written(obj, undecided(obj, lookup=looked(120)), 121)
    assert status.attempt is not None
    assert status.attempt.sweep_after == wall(241)


def test_a_deleted_object_is_let_go_undecided_after_its_grace() -> None:
    obj = run(searching(), deleted=20)
    event = decided(RemoveFinalizer, obj, undecided(obj), 621).event
    assert event is not None
    assert event.type == "Warning"


def test_a_start_that_stays_undecided_is_given_up_with_what_to_look_for() -> None:
    obj = run(searching(), lost_contact_deadline_seconds=100)
    status = written(obj, undecided(obj), 101)
    assert (status.phase, status.reason) == (Phase.ERROR, Reason.SUBMISSION_UNDECIDED)
    assert f"look for cause {MARK} in job {JOB}" in status.message


def test_a_resumption_that_stays_undecided_names_the_run_it_resumes() -> None:
    obj = run(searching(claimed(2, marker="", retry_of=RUN)), lost_contact_deadline_seconds=100)
    assert f"retried run {RUN}" in written(obj, undecided(obj), 101).message


def test_the_search_waits_out_a_pause() -> None:
    obj = run(searching())
    memory = known_with(undecided(obj), trouble=trouble(since=15, retry_at=50), answered=False)
    _, until = rested(obj, memory)
    assert until == 25
