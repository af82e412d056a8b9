"""After the end."""

from __future__ import annotations

from tests.unit.lifecycle.builders import (
    decided,
    known,
    next_step,
    over,
    rested,
    run,
    trouble,
    wall,
    written,
)
from watcher.api import ConditionType, Phase, Reason, Status
from watcher.lifecycle.decisions import Connect, DeleteObject, RemoveFinalizer, Sweep, Wait
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
