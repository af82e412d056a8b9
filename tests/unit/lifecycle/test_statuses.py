"""Statuses: bounded, stamped, put together."""

from __future__ import annotations

from dataclasses import replace as facts_with

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dbtrun.api import (
    Attempt,
    ConditionStatus,
    ConditionType,
    FailedNode,
    Phase,
    Reason,
    Results,
    Retry,
    Status,
    Step,
)
from dbtrun.api.status import MAX_MESSAGE, MAX_STATUS, MAX_STEP_NAME, MAX_STEPS
from tests.unit.lifecycle.builders import (
    RUN,
    START,
    claim,
    claimed,
    condition,
    decided,
    facts,
    following,
    known,
    live,
    over,
    run,
    seen,
    step,
    trouble,
    wall,
    written,
)
from watcher.lifecycle.decisions import Write
from watcher.lifecycle.facts import Refused, RunState
from watcher.lifecycle.statuses import bounded, seconds, shown_steps, stamped, with_attempt

NASTY = st.sampled_from(['"', "\\", "\n", "😀", "<", "x", "é"])


def full(filler: str, attempts: int = 21) -> Status:
    """A status with every list full and every text as long as it may be."""
    return Status(
        phase=Phase.FAILED,
        reason=Reason.RUN_FAILED,
        message=filler * MAX_MESSAGE,
        steps=tuple(Step(index=n, name=filler * MAX_STEP_NAME, status=filler * 40) for n in range(MAX_STEPS)),
        results=Results(
            counts={f"{filler * 60}{n}": n for n in range(20)},
            failures=tuple(
                FailedNode(unique_id=filler * 500, status=filler * 60, message=filler * 500) for _ in range(20)
            ),
        ),
        attempts=tuple(
            Attempt(number=n, phase=Phase.FAILED, run_id=RUN, message=filler * MAX_MESSAGE) for n in range(attempts)
        ),
    )


# ── bounds ──


@given(NASTY, st.integers(1, 21))
@settings(deadline=None, derandomize=True, max_examples=30, database=None)
def test_a_status_is_never_larger_than_its_bound(filler: str, attempts: int) -> None:
    status = bounded(stamped(full(filler, attempts), 1, START, None, answered=True))
    assert len(msgspec.json.encode(status)) <= MAX_STATUS
    assert status.message == filler * MAX_MESSAGE
    assert len(status.attempts) == attempts


def test_a_status_within_its_bound_is_told_in_full() -> None:
    assert bounded(over()) == over()


def test_the_steps_go_before_the_failures() -> None:
    status = Status(
        steps=tuple(Step(index=n, name="😀" * MAX_STEP_NAME, status="Success") for n in range(MAX_STEPS)),
        results=Results(counts={}, failures=tuple(FailedNode(unique_id="😀" * 300, status="error") for _ in range(20))),
    )
    assert bounded(status).steps == ()
    assert bounded(status).results == status.results


def test_a_write_is_bounded_whatever_dbt_cloud_tells() -> None:
    huge = facts(steps=tuple(step(n, name='"' * 9_000) for n in range(500)), message='"' * 9_000)
    obj = run(replace(full('"'), completion_time=wall(60)), generation=9, held=False)
    assert len(msgspec.json.encode(written(obj, known(observation=seen(huge))))) <= MAX_STATUS


def test_a_message_is_cut_to_what_the_api_server_takes() -> None:
    obj = run(claimed())
    refusal = Refused(Reason.SUBMISSION_REJECTED, "no " * 9_000)
    status = written(obj, known(claim=claim(obj, sent=True, submission=refusal)))
    assert status.attempt is not None
    assert len(status.message) == len(status.attempt.message) == MAX_MESSAGE


def test_the_message_of_a_retry_is_cut_too() -> None:
    obj = run(live(), retry=Retry(limit=1))
    ended = facts(RunState.ERROR, message="x" * 9_000, started_at=None)
    decision = decided(Write, obj, following(obj, seen(ended)))
    assert len(decision.status.message) == MAX_MESSAGE


# ── steps ──


def test_steps_are_shown_with_their_progress() -> None:
    shown = shown_steps((step(1), step(2, state=3)))
    assert shown["progress"] == "1/2"
    assert [s.status for s in shown["steps"]] == ["Success", "Running"]


def test_a_run_without_steps_has_no_progress() -> None:
    assert shown_steps(()) == {"steps": (), "progress": None}


def test_the_first_steps_of_many_are_shown_and_all_are_counted() -> None:
    shown = shown_steps(tuple(step(n) for n in range(80)))
    assert (len(shown["steps"]), shown["progress"]) == (MAX_STEPS, "80/80")


def test_the_name_of_a_step_is_plain_and_short() -> None:
    (shown,) = shown_steps((step(1, name="\x1b[1m" + "x" * 900),))["steps"]
    assert len(shown.name) == MAX_STEP_NAME
    assert shown.name.startswith("xxx")


def test_the_times_of_a_step_are_whole_seconds() -> None:
    begun = wall(3.75)
    (shown,) = shown_steps((facts_with(step(1), started_at=begun, finished_at=begun),))["steps"]
    assert shown.started_at == shown.finished_at == wall(3)


# ── conditions ──


@pytest.mark.parametrize(
    ("phase", "succeeded", "finished", "reconciling", "stalled"),
    [
        (Phase.PENDING, "Unknown", "False", "True", "False"),
        (Phase.SUBMITTING, "Unknown", "False", "True", "False"),
        (Phase.QUEUED, "Unknown", "False", "True", "False"),
        (Phase.RUNNING, "Unknown", "False", "True", "False"),
        (Phase.CANCELLING, "Unknown", "False", "True", "False"),
        (Phase.SUCCEEDED, "True", "True", "False", "False"),
        (Phase.FAILED, "False", "True", "False", "True"),
        (Phase.CANCELLED, "False", "True", "False", "True"),
        (Phase.TIMED_OUT, "False", "True", "False", "True"),
        (Phase.ERROR, "False", "True", "False", "True"),
    ],
)
def test_every_phase_has_its_conditions(
    phase: Phase, succeeded: str, finished: str, reconciling: str, stalled: str
) -> None:
    status = stamped(Status(phase=phase, reason=Reason.ACCEPTED), 3, START, None, answered=False)
    kinds = (ConditionType.SUCCEEDED, ConditionType.FINISHED, ConditionType.RECONCILING, ConditionType.STALLED)
    assert tuple(condition(status, kind) for kind in kinds) == (succeeded, finished, reconciling, stalled)
    assert status.observed_generation == 3


def test_a_transition_is_dated_once() -> None:
    first = stamped(live(), 1, wall(1), None, answered=True)
    second = stamped(first, 2, wall(9), None, answered=True)
    assert {c.last_transition_time for c in second.conditions} == {wall(1)}
    assert {c.observed_generation for c in second.conditions} == {2}


def test_an_outage_is_dated_and_ends() -> None:
    well = stamped(live(), 1, wall(1), None, answered=True)
    ill = stamped(well, 1, wall(5), trouble(), answered=False)
    again = stamped(ill, 1, wall(9), None, answered=True)
    found = [s.condition(ConditionType.REACHABLE) for s in (well, ill, again)]
    assert [c and (c.status, c.reason, c.last_transition_time) for c in found] == [
        (ConditionStatus.TRUE, Reason.ANSWERING, wall(1)),
        (ConditionStatus.FALSE, Reason.UNREACHABLE, wall(5)),
        (ConditionStatus.TRUE, Reason.ANSWERING, wall(9)),
    ]


def test_the_words_of_an_outage_are_not_rewritten() -> None:
    ill = stamped(live(), 1, wall(5), trouble(message="No route."), answered=False)
    assert stamped(ill, 1, wall(9), trouble(message="No route to host."), answered=False) == ill


def test_an_outage_of_another_kind_is_told() -> None:
    ill = stamped(live(), 1, wall(5), trouble(), answered=False)
    worse = stamped(ill, 1, wall(9), trouble(Reason.UNAUTHORIZED, message="No."), answered=False)
    reachable = worse.condition(ConditionType.REACHABLE)
    assert reachable is not None
    assert (reachable.reason, reachable.message, reachable.last_transition_time) == (
        Reason.UNAUTHORIZED,
        "No.",
        wall(5),
    )


@pytest.mark.parametrize("answered", [True, False])
def test_who_was_not_asked_yet_is_neither_reachable_nor_not(answered: bool) -> None:
    status = stamped(Status(), 1, START, None, answered=answered)
    assert condition(status, ConditionType.REACHABLE) is (ConditionStatus.TRUE if answered else ConditionStatus.UNKNOWN)


def test_what_was_told_of_the_contact_stays_until_something_is_known() -> None:
    ill = stamped(live(), 1, wall(5), trouble(), answered=False)
    assert stamped(ill, 1, wall(9), None, answered=False) == ill


# ── parts ──


def test_an_attempt_takes_the_place_of_its_number() -> None:
    first, second = (Attempt(number=n, phase=Phase.FAILED) for n in (1, 2))
    status = Status(attempts=(first, second))
    changed = Attempt(number=1, phase=Phase.ERROR)
    assert with_attempt(status, changed) == (changed, second)
    assert with_attempt(Status(attempts=(first,)), second) == (first, second)


def test_a_moment_is_stored_in_whole_seconds() -> None:
    assert seconds(wall(3.999)) == wall(3)
