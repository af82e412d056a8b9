"""Before a start."""

from __future__ import annotations

from dataclasses import replace as known_with
from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import Attempt, ConditionStatus, ConditionType, DeletionPolicy, Job, Phase, Reason, Reuse, Status
from tests.unit.lifecycle.builders import (
    ACCOUNT,
    JOB,
    MARK,
    RUN,
    START,
    UID,
    at,
    condition,
    decided,
    facts,
    following,
    known,
    mono,
    next_step,
    rested,
    run,
    seen,
    trouble,
    wall,
    written,
)
from watcher.lifecycle.decisions import (
    AddFinalizer,
    ClaimStart,
    Connect,
    Event,
    FindLive,
    ProveToken,
    RemoveFinalizer,
    ResolveJob,
    Wait,
    Write,
)
from watcher.lifecycle.facts import Place, RunState
from watcher.lifecycle.known import Known, remember
from watcher.lifecycle.marker import marker

NAMES = Job(name="nightly", project="shop", environment="prod")
ACCEPTED = Status(phase=Phase.PENDING, reason=Reason.ACCEPTED)


def backing_off(until: float) -> Status:
    attempt = Attempt(number=2, phase=Phase.PENDING, marker=marker(UID, 2), not_before=wall(until))
    return replace(ACCEPTED, reason=Reason.RETRY_BACKOFF, attempts=(attempt,))


# ── the way to a claim ──


def test_a_new_object_is_connected_first() -> None:
    assert next_step(run(), Known()) == Connect()


def test_a_job_given_by_names_is_resolved() -> None:
    assert next_step(run(job=NAMES), known()) == ResolveJob(NAMES)


def test_names_that_name_no_job_end_the_object() -> None:
    status = written(run(job=NAMES), known(job_refused='No job is named "nightly".'))
    assert (status.phase, status.reason) == (Phase.ERROR, Reason.JOB_NOT_FOUND)
    assert status.message == 'No job is named "nightly".'


def test_the_finalizer_is_on_the_object_before_anything_is_started() -> None:
    assert next_step(run(held=False), known()) == AddFinalizer()


def test_a_start_is_claimed_with_its_marker_and_its_time() -> None:
    claim = decided(ClaimStart, run(), known()).status
    attempt = claim.attempt
    assert (claim.phase, claim.reason, claim.job_id) == (Phase.SUBMITTING, Reason.CLAIMED, JOB)
    assert (claim.account_id, claim.start_time) == (ACCOUNT, wall(20))
    assert attempt == Attempt(
        number=1, phase=Phase.SUBMITTING, marker=MARK, claim_time=wall(20), first_claim_time=wall(20)
    )


def test_two_claims_within_a_second_have_different_times() -> None:
    first, second = (decided(ClaimStart, run(), known(), moment).status.attempt for moment in (20.1, 20.2))
    assert first is not None
    assert second is not None
    assert first.claim_time != second.claim_time


def test_a_claim_of_resolved_names_carries_the_job() -> None:
    assert decided(ClaimStart, run(job=NAMES), known(job_id=77)).status.job_id == 77


def test_a_backoff_is_waited_for() -> None:
    _, until = rested(run(backing_off(50)), known())
    assert until == 50


def test_the_next_attempt_is_claimed_after_its_backoff() -> None:
    claim = decided(ClaimStart, run(backing_off(50)), known(), 50).status
    assert claim.attempt is not None
    assert (claim.attempt.number, claim.attempt.marker, claim.attempt.not_before) == (2, marker(UID, 2), None)


# ── the line for a run slot ──


def test_an_object_that_waits_for_a_run_slot_says_so_and_its_place() -> None:
    status = written(run(ACCEPTED), known(place=Place(within=50, limit=25, priority=0)))
    assert (status.phase, status.reason) == (Phase.PENDING, Reason.WAITING_FOR_SLOT)
    assert status.message == (
        "Waiting for a run slot: the account has 25 live runs, the connection's max-concurrent-runs; "
        "among the first 50 in line."
    )
    first = written(run(ACCEPTED), known(place=Place(within=1, limit=25, priority=0)))
    assert first.message.endswith("; next in line.")


def test_before_the_first_count_nothing_is_written_and_nothing_is_started() -> None:
    obj, _ = rested(run(ACCEPTED), known(place=Place(within=None, limit=25, priority=0)))
    assert (obj.status.phase, obj.status.reason) == (Phase.PENDING, Reason.ACCEPTED)


def test_a_changed_priority_is_a_reason_to_ask_again() -> None:
    decided(ClaimStart, run(ACCEPTED, priority=5), known(place=Place(within=50, limit=25, priority=0)))


def test_an_object_in_line_can_be_cancelled() -> None:
    status = written(run(ACCEPTED, cancel=True), known(place=Place(within=50, limit=25, priority=0)))
    assert status.phase is Phase.CANCELLED


# ── held back ──


def test_a_suspended_object_says_so_and_starts_nothing() -> None:
    obj, until = rested(run(suspend=True), known())
    assert (obj.status.phase, obj.status.reason) == (Phase.PENDING, Reason.SUSPENDED)
    assert until == 20 + 600


def test_a_cancelled_object_ends_before_it_starts() -> None:
    status = written(run(cancel=True), known())
    assert (status.phase, status.reason) == (Phase.CANCELLED, Reason.CANCEL_REQUESTED)


def test_an_object_that_is_cancelled_while_suspended_ends() -> None:
    assert written(run(cancel=True, suspend=True), known()).phase is Phase.CANCELLED


def test_a_deleted_object_ends_before_it_starts() -> None:
    status = written(run(deleted=20), known())
    assert (status.phase, status.reason) == (Phase.CANCELLED, Reason.DELETED)


def test_the_account_of_the_connection_must_be_the_one_in_the_spec() -> None:
    status = written(run(account_id=7), known())
    assert (status.phase, status.reason) == (Phase.ERROR, Reason.INVALID_CONNECTION)
    assert "spec.accountId is 7" in status.message
    assert "account 42" in status.message


def test_an_account_that_is_the_one_in_the_spec_is_used() -> None:
    decided(ClaimStart, run(account_id=ACCOUNT), known())


# ── dbt Cloud cannot be asked ──


def test_a_broken_connection_is_told_on_the_object_at_once() -> None:
    fault = trouble(Reason.INVALID_CONNECTION, since=20, retry_at=25, message="There is no Secret data/dbt.")
    obj, until = rested(run(), Known(trouble=fault))
    assert (obj.status.phase, obj.status.reason) == (Phase.PENDING, Reason.INVALID_CONNECTION)
    assert obj.status.message == "There is no Secret data/dbt."
    assert condition(obj.status, ConditionType.REACHABLE) is ConditionStatus.FALSE
    assert until == 25


def test_the_wording_of_one_fault_is_written_once() -> None:
    fault = trouble(since=5, retry_at=25, message="No route.")
    obj, _ = rested(run(), Known(trouble=fault))
    other = trouble(since=5, retry_at=25, message="No route to that host.")
    assert isinstance(next_step(obj, Known(trouble=other)), Wait)


@pytest.mark.parametrize(
    ("spec", "memory"),
    [({"run_id": RUN}, known()), ({}, known(place=Place(within=50, limit=25, priority=0)))],
    ids=["adopting", "in line"],
)
def test_a_try_that_may_be_refused_again_is_not_told(spec: dict[str, Any], memory: Known) -> None:
    """Else an object with a refused token would be written twice at each try, for hours."""
    refused = known_with(memory, trouble=trouble(Reason.UNAUTHORIZED, since=20, retry_at=25), answered=False)
    obj, _ = rested(run(ACCEPTED, **spec), refused)
    assert obj.status.reason is Reason.UNAUTHORIZED
    assert isinstance(next_step(obj, refused, 26), Wait), "the connection is tried again"
    again = known_with(refused, trouble=trouble(Reason.UNAUTHORIZED, since=20, retry_at=80))
    assert isinstance(next_step(obj, again, 27), Wait)
    assert written(obj, memory, 81).reason is not Reason.UNAUTHORIZED, "dbt Cloud has answered"


def test_a_token_that_was_refused_is_tried_with_a_question_before_the_next_claim() -> None:
    refused = trouble(Reason.UNAUTHORIZED, since=5, retry_at=19)
    assert decided(ProveToken, run(), known(trouble=refused)) == ProveToken(JOB)
    assert isinstance(next_step(run(), known(trouble=refused, proven_at=mono(18))), Write | ProveToken)
    decided(ClaimStart, run(), known(trouble=refused, proven_at=mono(19)))


@pytest.mark.parametrize("reason", [Reason.UNREACHABLE, Reason.SERVER_ERROR, Reason.FORBIDDEN])
def test_after_any_other_trouble_the_start_is_tried(reason: Reason) -> None:
    """A refusal of the start alone would be forgotten with each question that is answered."""
    decided(ClaimStart, run(), known(trouble=trouble(reason, since=5, retry_at=19)))


def test_the_next_fault_of_a_connection_is_written() -> None:
    fault = trouble(Reason.INVALID_CONNECTION, since=20, retry_at=25, message="No Secret.")
    obj, _ = rested(run(), Known(trouble=fault))
    obj, _ = rested(obj, Known(trouble=trouble(Reason.INVALID_CONNECTION, since=20, retry_at=25, message="No token.")))
    reachable = obj.status.condition(ConditionType.REACHABLE)
    assert reachable is not None
    assert (obj.status.message, reachable.message) == ("No token.", "No token.")


def test_a_short_outage_is_not_written() -> None:
    obj, until = rested(run(ACCEPTED), Known(trouble=trouble(since=18, retry_at=40)))
    assert obj.status.reason is Reason.ACCEPTED
    assert condition(obj.status, ConditionType.REACHABLE) is ConditionStatus.UNKNOWN
    assert until == 18 + 10


def test_a_lasting_outage_is_written() -> None:
    obj, until = rested(run(ACCEPTED), Known(trouble=trouble(since=5, retry_at=40)))
    assert obj.status.reason is Reason.UNREACHABLE
    assert until == 40


def test_the_connection_is_read_anew_after_the_pause() -> None:
    assert next_step(run(), Known(trouble=trouble(since=5, retry_at=19))) == Connect()


def test_an_object_without_contact_for_too_long_ends() -> None:
    obj = run(lost_contact_deadline_seconds=100)
    status = written(obj, Known(trouble=trouble(since=5, retry_at=110)), 106)
    assert (status.phase, status.reason) == (Phase.ERROR, Reason.LOST_CONTACT)
    assert "100 s (spec.lostContactDeadlineSeconds): No route." in status.message


def test_an_object_whose_connection_was_broken_for_too_long_says_so() -> None:
    fault = trouble(Reason.INVALID_CONNECTION, since=5, retry_at=110)
    assert (
        written(run(lost_contact_deadline_seconds=100), Known(trouble=fault), 106).reason is Reason.INVALID_CONNECTION
    )


@pytest.mark.parametrize("reason", [Reason.INVALID_CONNECTION, Reason.UNAUTHORIZED, Reason.FORBIDDEN])
def test_what_only_a_person_can_mend_ends_the_object_after_minutes(reason: Reason) -> None:
    obj, fault = run(), trouble(reason, since=5, retry_at=700, message="No such Secret.")
    memory = Known(trouble=fault, unusable_since=mono(5))
    obj, _ = rested(obj, memory, 20)
    _, until = rested(obj, memory, 500)
    assert until == 5 + 600
    status = written(obj, memory, 606)
    assert (status.phase, status.reason) == (Phase.ERROR, reason)
    assert status.message == "Nothing was started, because the connection could not be used for 600 s: No such Secret."


def test_what_may_heal_by_itself_is_waited_for() -> None:
    obj, _ = rested(run(), Known(trouble=trouble(since=5, retry_at=7_000)), 6_000)
    assert obj.status.phase is Phase.PENDING


def test_an_object_that_has_started_something_waits_for_a_person() -> None:
    fault = trouble(Reason.UNAUTHORIZED, since=5, retry_at=7_000)
    obj, _ = rested(run(), Known(trouble=fault, unusable_since=mono(5), submitted=1), 6_000)
    assert obj.status.phase is Phase.PENDING


def test_the_time_of_an_unusable_connection_begins_with_the_refusal_not_with_the_outage_before() -> None:
    outage = remember(run(), Known(trouble=trouble(since=5, retry_at=40)), at(20))
    assert outage.unusable_since is None
    refused = remember(run(), known_with(outage, trouble=trouble(Reason.UNAUTHORIZED, since=5, retry_at=60)), at(50))
    assert refused.unusable_since == mono(50)
    later = remember(run(), known_with(refused, trouble=trouble(Reason.FORBIDDEN, since=5, retry_at=70)), at(65))
    assert later.unusable_since == mono(50)
    for healed in (None, trouble(since=5, retry_at=90)):
        assert remember(run(), known_with(later, trouble=healed), at(80)).unusable_since is None


def test_trouble_is_an_event_once() -> None:
    outage = trouble(since=5, retry_at=40, message="No route.")
    first = decided(Write, run(ACCEPTED), Known(trouble=outage), 20)
    assert first.event == Event("Warning", "Unreachable", "No route.")
    obj = replace(run(ACCEPTED), status=first.status)
    other = trouble(Reason.SERVER_ERROR, since=5, retry_at=90, message="502.")
    assert decided(Write, obj, Known(trouble=other), 50).event is None, "one for an outage, however its faults vary"
    refused = trouble(Reason.UNAUTHORIZED, since=5, retry_at=90, message="Invalid token.")
    assert decided(Write, obj, Known(trouble=refused), 50).event == Event("Warning", "Unauthorized", "Invalid token.")


def test_each_fault_of_a_connection_is_an_event() -> None:
    first, second = (
        trouble(Reason.INVALID_CONNECTION, since=20, retry_at=25, message=words)
        for words in ("No Secret.", "No token.")
    )
    obj, _ = rested(run(), Known(trouble=first))
    assert decided(Write, obj, Known(trouble=second)).event == Event("Warning", "InvalidConnection", "No token.")


def test_a_short_outage_is_no_event() -> None:
    obj, _ = rested(run(ACCEPTED), Known(trouble=trouble(since=18, retry_at=40)))
    assert obj.status.reason is Reason.ACCEPTED


def test_a_fault_from_before_a_suspension_is_no_reason_to_give_up() -> None:
    obj = run(lost_contact_deadline_seconds=100)
    assert next_step(obj, Known(trouble=trouble(since=5, retry_at=10)), 5_000) == Connect()


def test_the_time_without_contact_survives_a_restart() -> None:
    first, _ = rested(run(lost_contact_deadline_seconds=100), Known(trouble=trouble(since=5, retry_at=40)), 20)
    _, until = rested(first, Known(trouble=trouble(since=90, retry_at=200)), 101)
    assert until == 20 + 100


# ── adopting ──


def test_an_adopting_object_waits_to_see_its_run() -> None:
    obj, until = rested(run(run_id=RUN), known())
    assert obj.status.message == f"Looking for run {RUN}."
    assert until == 20 + 600


def test_a_run_is_adopted_when_it_is_seen() -> None:
    obj = run(run_id=RUN)
    decision = decided(Write, obj, following(obj, seen(facts())))
    status = decision.status
    assert (status.phase, status.reason, status.run_id) == (Phase.RUNNING, Reason.RUN_STARTED, RUN)
    assert (status.job_id, status.queued_at, status.started_at) == (JOB, START, wall(10))
    assert status.attempt is not None
    assert status.attempt.adopted
    assert decision.event is not None
    assert (decision.event.reason, decision.event.message) == ("Adopted", f"Following dbt Cloud run {RUN}.")


def test_a_queued_run_is_adopted_as_queued() -> None:
    obj = run(run_id=RUN)
    assert written(obj, following(obj, seen(facts(RunState.QUEUED)))).phase is Phase.QUEUED


def test_the_finalizer_is_on_the_object_before_a_run_is_adopted() -> None:
    obj = run(run_id=RUN, held=False)
    assert next_step(obj, following(obj, seen(facts()))) == AddFinalizer()


def test_a_run_that_is_denied_once_is_asked_for_again() -> None:
    obj = run(run_id=RUN)
    _, until = rested(obj, following(obj, seen(None, 20), missing_since=mono(20)))
    assert until == 25


def test_a_run_that_is_denied_again_does_not_exist() -> None:
    obj = run(run_id=RUN)
    status = written(obj, following(obj, seen(None, 26), missing_since=mono(20)), 27)
    assert (status.phase, status.reason) == (Phase.ERROR, Reason.RUN_NOT_FOUND)
    assert f"no run {RUN} in account {ACCOUNT}" in status.message


def test_a_cancelled_adopting_object_still_takes_its_run_to_cancel_it() -> None:
    obj = run(run_id=RUN, cancel=True, suspend=True)
    assert written(obj, following(obj, seen(facts()))).phase is Phase.RUNNING


def test_a_deleted_adopting_object_leaves_its_run_alone() -> None:
    assert written(run(run_id=RUN, deleted=20), known()).phase is Phase.CANCELLED


def test_a_deleted_object_that_shall_cancel_its_run_looks_for_it_even_if_suspended() -> None:
    obj = run(run_id=RUN, deleted=20, suspend=True, deletion_policy=DeletionPolicy.CANCEL)
    assert written(obj, following(obj, seen(facts()))).run_id == RUN


def test_a_deleted_object_whose_run_is_never_seen_is_let_go() -> None:
    obj = run(run_id=RUN, deleted=20, deletion_policy=DeletionPolicy.CANCEL)
    assert decided(RemoveFinalizer, obj, known(), 621).event is not None


def test_a_deleted_object_waits_no_longer_than_its_grace() -> None:
    _, until = rested(run(run_id=RUN, deleted=-30, deletion_policy=DeletionPolicy.CANCEL), known())
    assert until == -30 + 600


# ── reuse ──


def test_a_live_run_is_looked_for_before_a_start_that_may_reuse_one() -> None:
    assert next_step(run(reuse=Reuse.RUNNING), known()) == FindLive(JOB)


def test_a_live_run_is_reused() -> None:
    status = written(run(reuse=Reuse.RUNNING), known(reuse_checked=True, reusable=facts()))
    assert status.run_id == RUN
    assert status.attempt is not None
    assert status.attempt.adopted


def test_the_finalizer_is_on_the_object_before_a_run_is_reused() -> None:
    obj = run(reuse=Reuse.RUNNING, held=False)
    assert next_step(obj, known(reuse_checked=True, reusable=facts())) == AddFinalizer()


def test_without_a_live_run_one_is_started() -> None:
    decided(ClaimStart, run(reuse=Reuse.RUNNING), known(reuse_checked=True))


def test_a_retry_does_not_reuse() -> None:
    decided(ClaimStart, run(backing_off(0), reuse=Reuse.RUNNING), known())


def test_a_claim_says_the_moment_to_the_fraction() -> None:
    claim = decided(ClaimStart, run(), known(), 20.25).status
    assert claim.attempt is not None
    assert claim.attempt.claim_time == at(20.25).wall
    assert claim.start_time == wall(20)


def test_the_first_attempt_resumes_the_run_that_the_spec_names() -> None:
    attempt = decided(ClaimStart, run(retry_of=77), known()).status.attempts[0]
    assert (attempt.number, attempt.retry_of, attempt.marker) == (1, 77, "")
