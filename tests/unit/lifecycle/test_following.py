"""While a dbt Cloud run is live."""

from __future__ import annotations

from dataclasses import replace as known_with
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import (
    WATCHED_ANNOTATION,
    ConditionStatus,
    ConditionType,
    DbtRun,
    DeletionPolicy,
    FailedNode,
    FailedStep,
    Phase,
    Reason,
    Results,
    Retry,
    RetryStrategy,
    RetryWhen,
    Status,
    Step,
)
from tests.unit.lifecycle.builders import (
    RUN,
    UID,
    condition,
    decided,
    facts,
    following,
    interested,
    live,
    mono,
    next_step,
    read,
    rested,
    run,
    seen,
    step,
    trouble,
    wall,
    written,
)
from watcher.lifecycle.decisions import Cancel, Connect, FetchDetails, FetchResults, RemoveFinalizer, Sweep, Wait, Write
from watcher.lifecycle.facts import RunFacts, RunState
from watcher.lifecycle.known import CancelTry, DetailsTry, Known, Owner

ENDED = facts(RunState.ERROR, finished_at=wall(50), message="Step 2 failed.", can_retry=True)
PASSED = facts(RunState.SUCCESS, finished_at=wall(50))
STOPPED = facts(RunState.CANCELLED, finished_at=wall(50))
FAILURES = Results(counts={"error": 3, "success": 4}, failures=(FailedNode(unique_id="model.a", status="error"),))


def tried(over: bool, tries: int = 1, at: float = 55, run: RunFacts | None = None) -> DetailsTry:
    return DetailsTry(run_id=RUN, at=mono(at), tries=tries, over=over, run=run)


def watching(obj: DbtRun, run: RunFacts | None = None, seconds: float = 20, **changes: Any) -> Known:
    """A watcher that has seen the run as it is, and its details as far as they are to be had."""
    told = {"details": tried(over=True, run=run or facts()), "results": read(FAILURES)}
    return following(obj, seen(run or facts(), seconds), **{**told, **changes})


def cancelling(reason: Reason = Reason.CANCEL_REQUESTED) -> Status:
    return replace(live(Phase.CANCELLING, reason), message="Cancelling.")


# ── telling ──


def test_a_queued_run_that_begins_is_told_as_running() -> None:
    obj = run(live(Phase.QUEUED, Reason.RUN_QUEUED))
    status = written(obj, watching(obj))
    assert (status.phase, status.reason) == (Phase.RUNNING, Reason.RUN_STARTED)
    assert status.started_at == wall(10)
    assert status.attempt is not None
    assert (status.attempt.phase, status.attempt.started_at) == (Phase.RUNNING, wall(10))


def test_a_queued_run_is_told_as_queued() -> None:
    obj = run(live(Phase.QUEUED, Reason.RUN_QUEUED))
    status = written(obj, watching(obj, facts(RunState.QUEUED)))
    assert (status.phase, status.message) == (Phase.QUEUED, f"Run {RUN} is queued.")


def test_what_was_told_is_not_told_again() -> None:
    obj, _ = rested(run(live()), watching(run(live())))
    later = following(obj, seen(facts(), 300), details=tried(over=False, at=290))
    assert isinstance(next_step(obj, later, 301), Wait)


def test_a_write_says_when_dbt_cloud_last_told_something() -> None:
    obj = run(live(Phase.QUEUED, Reason.RUN_QUEUED))
    assert written(obj, watching(obj, seconds=17), 20).last_observed_at == wall(17)


def test_a_run_that_was_not_seen_yet_is_waited_for() -> None:
    _, until = rested(run(live()), following(run(live())))
    assert until == 20 + 600


def test_what_is_told_of_another_run_is_ignored() -> None:
    obj = run(live())
    memory = following(obj, seen(facts(RunState.SUCCESS, run_id=RUN + 1)))
    rested(obj, memory)


def test_the_connection_is_read_after_a_restart() -> None:
    assert next_step(run(live()), Known()) == Connect()


def test_the_end_is_estimated_from_the_last_time() -> None:
    obj = run(live())
    status = written(obj, watching(obj, typical=timedelta(minutes=5)))
    assert status.estimated_completion_time == wall(310)


def test_an_estimate_stays() -> None:
    obj = run(replace(live(), estimated_completion_time=wall(99)))
    assert written(obj, watching(obj, typical=timedelta(minutes=5))).estimated_completion_time == wall(99)


# ── steps ──


def test_the_steps_of_a_young_run_are_not_asked_for() -> None:
    obj = run(live())
    assert looks_from(obj, following(obj, seen(facts()))) == 10 + 60
    rested(obj, following(obj, seen(facts()), turn=mono(69)), 69)


def test_the_steps_of_a_running_run_are_asked_for_when_it_is_the_objects_turn() -> None:
    obj = run(live())
    assert decided(FetchDetails, obj, following(obj, seen(facts()), turn=mono(70)), 70) == FetchDetails(RUN, over=False)


def test_no_timer_waits_for_a_turn() -> None:
    """Thousands of objects would wake to find that it is another's."""
    obj = run(live())
    assert rested(obj, following(obj, seen(facts())), 71)[1] == 71 + 600


def test_a_turn_that_was_not_taken_in_time_is_lost() -> None:
    obj = run(live())
    kept = following(obj, seen(facts()), turn=mono(70))
    decided(FetchDetails, obj, kept, 75)
    rested(obj, kept, 76)


def test_a_turn_is_not_taken_while_dbt_cloud_may_not_be_asked() -> None:
    obj = run(live())
    kept = following(obj, seen(facts()), turn=mono(70), trouble=trouble(retry_at=90))
    assert not isinstance(next_step(obj, kept, 70), FetchDetails)


def test_when_the_steps_are_due_is_counted_on_dbt_clouds_clock() -> None:
    obj = run(live())
    ahead = seen(facts(started_at=wall(310)), clock_offset=timedelta(seconds=300))
    assert looks_from(obj, following(obj, ahead)) == 10 + 60
    assert decided(FetchDetails, obj, following(obj, ahead, turn=mono(70)), 70) == FetchDetails(RUN, over=False)


def test_the_steps_are_asked_for_sparsely() -> None:
    obj = run(live())
    looked = following(obj, seen(facts()), details=tried(over=False, at=70), turn=mono(80))
    assert looks_from(obj, looked, 80) == 70 + 300
    rested(obj, looked, 80)


@pytest.mark.parametrize("end", [facts(RunState.SUCCESS), facts(RunState.QUEUED, started_at=None), None])
def test_a_run_that_is_over_unknown_or_queued_has_no_steps_to_look_at(end: RunFacts | None) -> None:
    obj = run(live())
    memory = following(obj, seen(end)) if end is not None else following(obj)
    assert looks_from(obj, memory, 80) is None


def looks_from(obj: DbtRun, memory: Known, seconds: float = 20) -> float | None:
    """From when on the object wants a turn (seconds of the story)."""
    wanted = interested(obj, memory, seconds)
    assert wanted is not None
    return None if wanted.looks_from is None else wanted.looks_from - mono(0)


def watched(obj: DbtRun, until: float) -> DbtRun:
    marks = obj.metadata.annotations | {WATCHED_ANNOTATION: wall(until).isoformat()}
    return replace(obj, metadata=replace(obj.metadata, annotations=marks))


def test_a_watched_runs_steps_are_asked_for_at_once_and_then_every_five_seconds() -> None:
    obj = watched(run(live()), 140)
    assert decided(FetchDetails, obj, following(obj, seen(facts())), 21) == FetchDetails(RUN, over=False, watched=True)
    looked = following(obj, seen(facts()), details=tried(over=False, at=21))
    assert rested(obj, looked, 22)[1] == 21 + 5
    assert decided(FetchDetails, obj, looked, 26) == FetchDetails(RUN, over=False, watched=True)


def test_when_the_time_has_passed_the_steps_are_asked_for_sparsely_again() -> None:
    obj = watched(run(live()), 140)
    looked = following(obj, seen(facts()), details=tried(over=False, at=138))
    assert (rested(obj, looked, 139)[1], looks_from(obj, looked, 139)) == (143, None)
    assert (rested(obj, looked, 143)[1], looks_from(obj, looked, 143)) == (143 + 600, 138 + 300)


@pytest.mark.parametrize("until", [19, 20 + 601, 40_000_000])
def test_a_time_that_has_passed_or_is_far_ahead_asks_for_nothing(until: float) -> None:
    obj = watched(run(live()), until)
    assert looks_from(obj, following(obj, seen(facts()))) == 10 + 60


def test_a_watched_run_that_was_given_a_turn_waits_for_it() -> None:
    obj = watched(run(live()), 140)
    given = known_with(tried(over=False, at=21), turn=mono(50))
    assert rested(obj, following(obj, seen(facts()), details=given), 30)[1] == 50
    assert decided(FetchDetails, obj, following(obj, seen(facts()), details=given), 50).watched


def test_a_watched_run_is_not_looked_at_while_dbt_cloud_may_not_be_asked() -> None:
    obj = watched(run(live()), 140)
    assert not isinstance(next_step(obj, following(obj, seen(facts()), trouble=trouble(retry_at=60)), 30), FetchDetails)


def test_a_watched_run_that_is_queued_has_no_steps_to_look_at() -> None:
    obj = watched(run(live(Phase.QUEUED, Reason.RUN_QUEUED)), 140)
    assert rested(obj, following(obj, seen(facts(RunState.QUEUED))), 20)[1] > 300


def test_the_steps_are_told_with_their_progress() -> None:
    obj = run(live())
    seen_steps = tried(over=False, run=facts(steps=(step(1), step(2, state=3, name="dbt test"))))
    status = written(obj, watching(obj, details=seen_steps))
    assert status.progress == "1/2"
    assert status.steps == (
        Step(index=1, name="dbt build", status="Success", started_at=wall(0)),
        Step(index=2, name="dbt test", status="Running", started_at=wall(0)),
    )


def test_the_details_of_another_run_are_ignored() -> None:
    obj = run(live())
    other = DetailsTry(run_id=RUN + 1, at=mono(15), tries=1, over=True, run=facts(steps=(step(1),)))
    assert written(obj, watching(obj, details=other)).progress is None


# ── the end ──


@pytest.mark.parametrize(
    ("end", "phase", "reason", "succeeded"),
    [
        (PASSED, Phase.SUCCEEDED, Reason.RUN_SUCCEEDED, ConditionStatus.TRUE),
        (ENDED, Phase.FAILED, Reason.RUN_FAILED, ConditionStatus.FALSE),
        (STOPPED, Phase.CANCELLED, Reason.CANCELLED_IN_DBT_CLOUD, ConditionStatus.FALSE),
    ],
)
def test_the_end_is_dbt_clouds(end: RunFacts, phase: Phase, reason: Reason, succeeded: ConditionStatus) -> None:
    obj = run(live())
    decision = decided(Write, obj, watching(obj, end), 60)
    status = decision.status
    assert (status.phase, status.reason, status.finished_at, status.completion_time) == (
        phase,
        reason,
        wall(50),
        wall(60),
    )
    assert condition(status, ConditionType.SUCCEEDED) is succeeded
    assert condition(status, ConditionType.FINISHED) is ConditionStatus.TRUE
    assert status.attempt is not None
    assert (status.attempt.phase, status.attempt.reason) == (phase, reason)
    assert decision.event is not None
    assert decision.event.reason == phase.value


def test_the_failed_nodes_are_asked_for_before_the_end_is_told() -> None:
    obj = run(live())
    assert next_step(obj, following(obj, seen(ENDED, 55)), 60) == FetchDetails(RUN, over=True)


def test_what_was_fetched_before_the_end_does_not_count() -> None:
    obj = run(live())
    memory = following(obj, seen(ENDED, 55), details=tried(over=False, run=facts()))
    assert next_step(obj, memory, 60) == FetchDetails(RUN, over=True)


def test_the_failed_nodes_are_asked_for_twice_at_most() -> None:
    obj = run(live())
    once, twice = (following(obj, seen(ENDED, 55), details=tried(over=True, tries=tries)) for tries in (1, 2))
    assert next_step(obj, once, 60) == FetchDetails(RUN, over=True)
    assert next_step(obj, twice, 60) == FetchResults(RUN, ())
    again, enough = (known_with(twice, results=read(tries=tries, done=False)) for tries in (1, 2))
    assert next_step(obj, again, 60) == FetchResults(RUN, ())
    assert written(obj, enough, 60).phase is Phase.FAILED


def test_the_results_are_asked_for_step_by_step() -> None:
    obj, ended = run(live()), facts(RunState.ERROR, steps=(step(1), step(2, 20)))
    memory = following(obj, seen(ENDED, 55), details=tried(over=True, run=ended))
    assert next_step(obj, memory, 60) == FetchResults(RUN, ended.steps or ())
    none_to_be_had = known_with(memory, results=read(None))
    assert written(obj, none_to_be_had, 60).results is None


def test_the_results_of_an_earlier_run_do_not_count() -> None:
    obj = run(live())
    memory = watching(obj, ENDED, results=read(FAILURES, run_id=RUN - 1))
    assert isinstance(next_step(obj, memory, 60), FetchResults)


def test_the_failed_step_is_told_with_the_end_of_its_log() -> None:
    cloned = step(1, 20, name="Clone git repository", log="Cloning…\nfatal: repository not found")
    obj = run(live())
    memory = watching(obj, ENDED, details=tried(over=True, run=facts(RunState.ERROR, steps=(cloned,))), results=read())
    decision = decided(Write, obj, memory, 60)
    status, cause = decision.status, "step 1, Clone git repository: fatal: repository not found"
    assert status.failed_step == FailedStep(index=1, name="Clone git repository", log_tail=cloned.log)
    assert status.message == f"dbt Cloud run {RUN} failed: {cause}"
    assert decision.event is not None
    assert decision.event.message == status.message


def test_the_end_does_not_wait_for_details_that_cannot_be_asked_for() -> None:
    obj = run(live())
    memory = following(obj, seen(ENDED, 55), account_id=None, trouble=trouble(since=56, retry_at=70))
    assert written(obj, memory, 60).phase is Phase.FAILED


def test_a_dropped_connection_is_read_anew_for_the_details() -> None:
    obj = run(live())
    assert next_step(obj, following(obj, seen(ENDED, 55), account_id=None), 60) == Connect()


def test_a_run_that_never_began_has_no_details() -> None:
    obj = run(live(Phase.QUEUED, Reason.RUN_QUEUED))
    never = facts(RunState.CANCELLED, started_at=None, finished_at=wall(50))
    assert written(obj, following(obj, seen(never, 55)), 60).phase is Phase.CANCELLED


def test_the_failed_nodes_are_told_with_the_end() -> None:
    obj = run(live())
    status = written(obj, watching(obj, ENDED, details=tried(over=True, run=ENDED)), 60)
    assert status.results == FAILURES
    assert status.message == f"dbt Cloud run {RUN} failed: model.a (and 2 more): error"


def test_the_steps_are_told_with_the_end() -> None:
    obj = run(live())
    ended = tried(over=True, run=facts(RunState.ERROR, steps=(step(1), step(2, 20))))
    assert written(obj, watching(obj, ENDED, details=ended), 60).progress == "2/2"


def test_a_success_has_passed_all_its_steps() -> None:
    shown = (Step(index=1, name="dbt build", status="Success"), Step(index=2, name="dbt test", status="Running"))
    obj = run(replace(live(), steps=shown, progress="1/60"))
    status = written(obj, watching(obj, PASSED), 60)
    assert status.progress == "60/60"
    assert [shown.status for shown in status.steps] == ["Success", "Success"]


def test_a_success_whose_progress_was_not_told_has_passed_the_steps_that_were() -> None:
    obj = run(replace(live(), steps=(Step(index=1, name="dbt build", status="Running"),)))
    assert written(obj, watching(obj, PASSED), 60).progress == "1/1"


def test_the_estimate_goes_with_the_end() -> None:
    obj = run(replace(live(), estimated_completion_time=wall(99)))
    assert written(obj, watching(obj, PASSED), 60).estimated_completion_time is None


# ── stopping ──


def test_a_cancelled_object_says_so_and_then_cancels_its_run() -> None:
    obj = run(live(), cancel=True)
    status = written(obj, watching(obj))
    assert (status.phase, status.reason) == (Phase.CANCELLING, Reason.CANCEL_REQUESTED)
    assert status.message == f"Cancelling run {RUN}: spec.cancel is true."
    assert next_step(replace(obj, status=status), watching(obj)) == Cancel(RUN)


def test_a_cancel_is_repeated_until_dbt_cloud_confirms_it() -> None:
    obj = run(cancelling(), cancel=True)
    memory = watching(obj, cancel=CancelTry(run_id=RUN, at=mono(15)))
    _, until = rested(obj, memory)
    assert until == 15 + 30
    assert next_step(obj, memory, 45) == Cancel(RUN)


def test_the_cancel_of_an_earlier_run_does_not_count() -> None:
    obj = run(cancelling(), cancel=True)
    assert next_step(obj, watching(obj, cancel=CancelTry(run_id=RUN - 1, at=mono(15)))) == Cancel(RUN)


def test_a_cancel_waits_out_a_pause() -> None:
    obj = run(cancelling(), cancel=True)
    _, until = rested(obj, watching(obj, trouble=trouble(since=0, retry_at=50)))
    assert until == 50


def test_a_run_that_is_being_cancelled_stays_told_as_cancelling() -> None:
    obj = run(cancelling(), cancel=True)
    obj, _ = rested(obj, watching(obj, cancel=CancelTry(run_id=RUN, at=mono(15))))
    assert obj.status.phase is Phase.CANCELLING


def test_a_confirmed_cancel_ends_the_object_with_its_reason() -> None:
    obj = run(cancelling(), cancel=True)
    status = written(obj, watching(obj, STOPPED), 60)
    assert (status.phase, status.reason) == (Phase.CANCELLED, Reason.CANCEL_REQUESTED)


def test_a_run_that_finished_before_its_cancel_keeps_its_result() -> None:
    obj = run(cancelling(), cancel=True)
    assert written(obj, watching(obj, PASSED), 60).phase is Phase.SUCCEEDED


def test_a_deleted_object_cancels_its_run() -> None:
    obj = run(live(), deleted=20)
    assert written(obj, watching(obj)).reason is Reason.DELETED


def test_a_deleted_object_that_adopted_its_run_leaves_it_alone() -> None:
    obj = run(live(adopted=True), deleted=20)
    assert next_step(obj, watching(obj)) == RemoveFinalizer()


def test_a_deleted_object_that_adopted_its_run_cancels_it_if_told_to() -> None:
    obj = run(live(adopted=True), run_id=RUN, deleted=20, deletion_policy=DeletionPolicy.CANCEL)
    assert written(obj, watching(obj, owner=Owner(run_id=RUN, foreign=False))).phase is Phase.CANCELLING


def test_a_deleted_object_whose_cancel_is_not_confirmed_is_let_go_with_a_warning() -> None:
    obj = run(cancelling(Reason.DELETED), deleted=20)
    event = decided(RemoveFinalizer, obj, watching(obj), 620).event
    assert event is not None
    assert f"run {RUN}" in event.message


# ── deadlines ──


def test_a_run_that_waits_too_long_in_the_queue_is_cancelled() -> None:
    obj = run(live(Phase.QUEUED, Reason.RUN_QUEUED), queue_deadline_seconds=60)
    memory = watching(obj, facts(RunState.QUEUED))
    _, until = rested(obj, memory, 59)
    assert until == 60
    status = written(obj, memory, 60)
    assert (status.phase, status.reason) == (Phase.CANCELLING, Reason.QUEUE_DEADLINE_EXCEEDED)
    assert "did not begin in 60 s (spec.queueDeadlineSeconds)" in status.message


def test_a_run_that_runs_too_long_is_cancelled() -> None:
    obj = run(live(), active_deadline_seconds=60, queue_deadline_seconds=1)
    memory = watching(obj)
    _, until = rested(obj, memory, 69)
    assert until == 70
    assert written(obj, memory, 70).reason is Reason.ACTIVE_DEADLINE_EXCEEDED


def test_a_run_that_has_begun_has_no_queue_deadline() -> None:
    obj = run(live(), queue_deadline_seconds=1)
    assert rested(obj, watching(obj))[0].status.phase is Phase.RUNNING


def test_a_run_that_passed_a_deadline_ends_as_timed_out() -> None:
    obj = run(cancelling(Reason.ACTIVE_DEADLINE_EXCEEDED), active_deadline_seconds=60)
    status = written(obj, watching(obj, STOPPED), 80)
    assert (status.phase, status.reason) == (Phase.TIMED_OUT, Reason.ACTIVE_DEADLINE_EXCEEDED)


def test_a_deadline_is_counted_on_dbt_clouds_clock() -> None:
    obj = run(live(), active_deadline_seconds=60)
    behind = seen(facts(), clock_offset=timedelta(seconds=-300))
    _, until = rested(obj, following(obj, behind, details=tried(over=False, at=200)), 201)
    assert until == 10 + 300 + 60


def test_no_deadline_has_passed_before_dbt_cloud_told_its_clock() -> None:
    obj = run(live(), active_deadline_seconds=60)
    assert rested(obj, following(obj), 5_000)[0].status.phase is Phase.RUNNING


# ── retrying ──


def retrying(**changes: Any) -> Retry:
    return Retry(**{"limit": 2, "backoff_seconds": 30, **changes})


def test_a_failed_attempt_is_followed_by_one_that_resumes_it() -> None:
    obj = run(live(), retry=retrying())
    decision = decided(Write, obj, watching(obj, ENDED), 60)
    status = decision.status
    first, second = status.attempts
    assert (status.phase, status.reason, status.run_id) == (Phase.PENDING, Reason.RETRY_BACKOFF, None)
    assert (first.phase, first.run_id, first.finished_at) == (Phase.FAILED, RUN, wall(50))
    assert (second.number, second.marker, second.retry_of, second.not_before) == (2, "", RUN, wall(90))
    assert status.message.startswith("Attempt 1 of 3: ")
    assert decision.event is not None
    assert decision.event.reason == "Retrying"


def test_a_fresh_retry_has_a_marker_of_its_own() -> None:
    obj = run(live(), retry=retrying(strategy=RetryStrategy.FRESH))
    second = written(obj, watching(obj, ENDED), 60).attempt
    assert second is not None
    assert (second.marker, second.retry_of) == (f"dbtrun:{UID}/2", None)


def test_a_run_that_dbt_cloud_cannot_resume_is_run_anew() -> None:
    obj = run(live(), retry=retrying())
    never = facts(RunState.ERROR, can_retry=False, finished_at=wall(50))
    second = written(obj, watching(obj, never), 60).attempt
    assert second is not None
    assert second.retry_of is None


def test_the_last_attempt_ends_the_object() -> None:
    obj = run(live(number=3), retry=retrying())
    assert written(obj, watching(obj, ENDED), 60).phase is Phase.FAILED


def test_an_end_that_is_not_among_the_chosen_is_not_retried() -> None:
    obj = run(live(), retry=retrying(when=(RetryWhen.TIMED_OUT,)))
    assert written(obj, watching(obj, ENDED), 60).phase is Phase.FAILED


def test_a_run_that_was_cancelled_in_dbt_cloud_is_retried_if_chosen() -> None:
    obj = run(live(), retry=retrying(when=(RetryWhen.CANCELLED,)))
    assert written(obj, watching(obj, STOPPED), 60).reason is Reason.RETRY_BACKOFF


@pytest.mark.parametrize("wish", [{"cancel": True}, {"deleted": 55}])
def test_a_run_that_nobody_wants_any_more_is_not_retried(wish: dict[str, Any]) -> None:
    obj = run(live(), retry=retrying(), **wish)
    assert written(obj, watching(obj, ENDED), 60).phase is Phase.FAILED


def test_a_deadline_is_not_retried() -> None:
    obj = run(cancelling(Reason.ACTIVE_DEADLINE_EXCEEDED), retry=retrying(when=tuple(RetryWhen)))
    assert written(obj, watching(obj, STOPPED), 60).phase is Phase.TIMED_OUT


def test_an_adopted_run_is_not_retried() -> None:
    obj = run(live(adopted=True), run_id=RUN, retry=retrying())
    assert written(obj, watching(obj, ENDED), 60).phase is Phase.FAILED


def test_a_twin_is_looked_for_before_the_next_attempt() -> None:
    obj = run(live(sweep_after=wall(500)), retry=retrying())
    assert isinstance(next_step(obj, watching(obj, ENDED), 60), Sweep)
    after = written(obj, watching(obj, ENDED, swept=frozenset({1})), 60)
    assert (after.reason, after.attempts[0].sweep_after) == (Reason.RETRY_BACKOFF, None)


def test_the_next_attempt_does_not_wait_for_a_search_that_cannot_be_made() -> None:
    obj = run(live(sweep_after=wall(500)), retry=retrying())
    memory = watching(obj, ENDED, trouble=trouble(since=56, retry_at=70))
    assert written(obj, memory, 60).reason is Reason.RETRY_BACKOFF


# ── denied, out of contact ──


def test_a_run_that_is_denied_once_is_not_gone() -> None:
    obj = run(live())
    _, until = rested(obj, following(obj, seen(None, 20), missing_since=mono(20)))
    assert until == 20 + 60


def test_a_run_that_was_denied_once_long_ago_is_asked_for_again() -> None:
    obj = run(live())
    _, until = rested(obj, following(obj, seen(None, 20), missing_since=mono(20)), 500)
    assert until == 505


def test_a_run_that_is_denied_for_a_minute_is_gone() -> None:
    obj = run(live())
    status = written(obj, following(obj, seen(None, 80), missing_since=mono(20)), 81)
    assert (status.phase, status.reason) == (Phase.ERROR, Reason.RUN_NOT_FOUND)
    assert str(RUN) in status.message


def test_an_outage_while_a_run_is_denied_is_an_outage() -> None:
    obj = run(live(), lost_contact_deadline_seconds=100)
    memory = following(obj, seen(None, 20), missing_since=mono(20), trouble=trouble(since=25))
    assert written(obj, memory, 126).reason is Reason.LOST_CONTACT


def test_a_lost_contact_says_that_the_run_may_go_on() -> None:
    obj = run(live(), lost_contact_deadline_seconds=100)
    status = written(obj, watching(obj, trouble=trouble(since=25)), 126)
    assert (status.phase, status.reason) == (Phase.ERROR, Reason.LOST_CONTACT)
    assert status.message.startswith(f"Run {RUN} may still be running.")


def test_a_lasting_outage_is_told_and_changes_no_phase() -> None:
    obj = run(live())
    fault = trouble(Reason.SERVER_ERROR, since=5)
    status = written(obj, watching(obj, trouble=fault))
    assert status.phase is Phase.RUNNING
    assert condition(status, ConditionType.REACHABLE) is ConditionStatus.FALSE


def test_an_answer_ends_the_outage() -> None:
    obj, _ = rested(run(live()), watching(run(live()), trouble=trouble(Reason.SERVER_ERROR, since=5)))
    assert condition(written(obj, watching(obj), 25), ConditionType.REACHABLE) is ConditionStatus.TRUE


# ── twins ──


def test_a_twin_is_looked_for_when_its_time_comes() -> None:
    obj = run(live(sweep_after=wall(100)))
    _, until = rested(obj, watching(obj), 50)
    assert until == 100
    assert isinstance(next_step(obj, watching(obj), 100), Sweep)


def test_a_twin_is_looked_for_once() -> None:
    obj = run(live(sweep_after=wall(15)))
    status = written(obj, watching(obj, swept=frozenset({1})))
    assert status.attempt is not None
    assert status.attempt.sweep_after is None


def test_a_twin_is_not_looked_for_during_a_pause() -> None:
    obj = run(live(sweep_after=wall(15)))
    _, until = rested(obj, watching(obj, trouble=trouble(since=0, retry_at=50)))
    assert until == 50


def test_the_twins_of_a_resumption_are_searched_as_far_back_as_its_claim() -> None:
    obj = run(live(sweep_after=wall(15), marker="", retry_of=5, first_claim_time=wall(0)))
    assert decided(Sweep, obj, watching(obj)).since == wall(-600)


def test_the_end_of_a_resumed_run_is_not_estimated() -> None:
    obj = run(live())
    memory = watching(obj, facts(retrying_run_id=RUN - 1), typical=timedelta(minutes=5))
    obj, _ = rested(obj, memory)
    assert obj.status.estimated_completion_time is None
