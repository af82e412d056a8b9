"""After the end."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import FINALIZER, ConditionStatus, ConditionType, DbtRun, Phase, Reason, Status
from tests.unit.lifecycle.builders import (
    decided,
    known,
    live,
    next_step,
    over,
    rested,
    run,
    trouble,
    wall,
    written,
)
from watcher.lifecycle.decisions import Connect, DeleteObject, RemoveFinalizer, Sweep, Wait, Write
from watcher.lifecycle.ended import rests_until
from watcher.lifecycle.known import Known


def told() -> Status:
    """A final status with all its conditions."""
    return written(run(over(), held=False), Known(), 61)


def test_a_finished_object_is_let_go() -> None:
    assert next_step(run(over()), Known()) == RemoveFinalizer()


def test_a_finished_object_waits_for_an_edit() -> None:
    assert next_step(run(told(), held=False), Known()) == Wait(None, "finished")


def test_the_conditions_of_a_finished_object_follow_its_generation() -> None:
    status = written(run(told(), held=False, generation=2), Known(), 90)
    assert status.observed_generation == 2
    assert {c.observed_generation for c in status.conditions} == {2}
    finished = status.condition(ConditionType.FINISHED)
    assert finished is not None
    assert finished.last_transition_time == wall(61)


def test_an_edit_of_a_finished_object_changes_no_end() -> None:
    obj = run(told(), held=False, generation=2, cancel=True)
    assert written(obj, Known(), 90).phase is Phase.SUCCEEDED


def test_a_finished_object_is_kept_until_its_ttl() -> None:
    obj = run(told(), held=False, ttl_seconds_after_finished=100)
    _, until = rested(obj, Known(), 70)
    assert until == 60 + 100


def test_a_finished_object_is_deleted_after_its_ttl() -> None:
    obj = run(told(), held=False, ttl_seconds_after_finished=100)
    assert next_step(obj, Known(), 160) == DeleteObject()


def test_a_finished_object_with_a_ttl_of_zero_is_deleted_at_once() -> None:
    assert next_step(run(told(), held=False, ttl_seconds_after_finished=0), Known(), 61) == DeleteObject()


def test_an_object_that_is_going_is_left_alone() -> None:
    assert next_step(run(over(), held=False, deleted=70), Known()) == Wait(None, "the object is going")


def test_a_finished_object_that_somebody_deleted_is_let_go_and_not_deleted_again() -> None:
    assert next_step(run(told(), deleted=70, ttl_seconds_after_finished=0), Known(), 90) == RemoveFinalizer()


def test_the_finalizer_stays_until_a_twin_was_looked_for() -> None:
    obj = run(over(sweep_after=wall(100)), deleted=70)
    _, until = rested(obj, known(), 90)
    assert until == 100
    assert isinstance(next_step(obj, known(), 100), Sweep)


def test_the_search_for_a_twin_needs_a_connection() -> None:
    assert next_step(run(over(sweep_after=wall(100))), Known(), 100) == Connect()


def test_the_search_for_a_twin_waits_out_a_pause() -> None:
    obj = run(over(sweep_after=wall(100)))
    _, until = rested(obj, known(trouble=trouble(since=95, retry_at=130)), 120)
    assert until == 130


def test_after_the_search_for_a_twin_the_object_is_let_go() -> None:
    obj = run(over(sweep_after=wall(100)))
    status = written(obj, known(swept=frozenset({1})), 101)
    assert status.attempt is not None
    assert status.attempt.sweep_after is None
    assert next_step(run(status), known(), 101) == RemoveFinalizer()


def test_a_twin_that_cannot_be_looked_for_does_not_hold_the_object_for_ever() -> None:
    obj = run(over(sweep_after=wall(100)))
    status = written(obj, known(trouble=trouble(since=95, retry_at=720)), 701)
    assert status.attempt is not None
    assert status.attempt.sweep_after is None


def test_the_search_of_a_finished_object_changes_no_end() -> None:
    obj = run(over(Phase.FAILED, Reason.RUN_FAILED, sweep_after=wall(100)))
    assert written(obj, known(swept=frozenset({1})), 101).phase is Phase.FAILED


def test_an_object_that_ended_without_an_attempt_is_let_go() -> None:
    obj = run(Status(phase=Phase.ERROR, reason=Reason.RUN_NOT_FOUND, completion_time=wall(60)))
    assert decided(RemoveFinalizer, obj, Known()).event is None


# ── what needs no look any more ──


def settled(status: Status | None = None, **changes: Any) -> DbtRun:
    """A finished object that says in its conditions what it says itself."""
    obj = run(status or over(), held=False, **changes)
    decision = next_step(obj, Known(), 70)
    return replace(obj, status=decision.status) if isinstance(decision, Write) else obj


SETTLED = settled()
OTHER_WORDS = tuple(replace(each, message="In other words.") for each in SETTLED.status.conditions)
LIE = tuple(replace(each, status=ConditionStatus.UNKNOWN) for each in SETTLED.status.conditions)
FINISHED = {
    "settled": SETTLED,
    "in the words of another release": replace(SETTLED, status=replace(SETTLED.status, conditions=OTHER_WORDS)),
    "with conditions that are not so": replace(SETTLED, status=replace(SETTLED.status, conditions=LIE)),
    "without conditions": replace(SETTLED, status=replace(SETTLED.status, conditions=())),
    "edited": replace(SETTLED, metadata=replace(SETTLED.metadata, generation=2)),
    "held": replace(SETTLED, metadata=replace(SETTLED.metadata, finalizers=(FINALIZER,))),
    "deleted and held": run(over(), deleted=65),
    "unreadable in part": replace(SETTLED, unread=("steps",)),
    "with a twin to look for": settled(over(sweep_after=wall(600))),
    "forged": run(replace(over(), completion_time=None), held=False),
    "expiring late": settled(ttl_seconds_after_finished=10_000),
    "expiring soon": settled(ttl_seconds_after_finished=65),
    "expired": settled(ttl_seconds_after_finished=5),
    "not finished": run(live()),
}
RESTING = {"settled", "in the words of another release", "expiring late"}


@pytest.mark.parametrize("which", FINISHED)
def test_an_object_rests_exactly_when_nothing_is_to_be_done(which: str) -> None:
    obj = FINISHED[which]
    until = rests_until(obj, wall(70))
    assert (until is not None) is (which in RESTING)
    decision = next_step(obj, Known(), 70)
    if until is not None:
        assert isinstance(decision, Wait)
        assert (decision.until is None) is (until == math.inf)
    elif which not in ("expiring soon", "with a twin to look for"):
        assert not isinstance(decision, Wait), "something is to be done"


def test_an_object_is_at_hand_before_its_ttl_ends() -> None:
    until = rests_until(FINISHED["expiring late"], wall(70))
    assert until == (wall(60) + timedelta(seconds=10_000 - 60)).timestamp()


def test_a_twin_is_not_held_against_a_deletion_whose_status_cannot_be_written() -> None:
    obj = run(over(sweep_after=wall(61)), deleted=65)
    assert isinstance(next_step(obj, Known(swept=frozenset({1})), 70), Write)
    assert isinstance(next_step(obj, Known(swept=frozenset({1}), unwritten=True), 70), RemoveFinalizer)
