"""A status that cannot be written holds back neither the cancel of a run nor the deletion of its object."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dbtrun.api import Phase, Reason, Retry, RetryWhen
from tests.unit.lifecycle.builders import (
    RUN,
    claim,
    claimed,
    decided,
    facts,
    following,
    known,
    live,
    mono,
    next_step,
    read,
    run,
    seen,
    wall,
)
from tests.unit.lifecycle.world import Reply, World
from watcher.lifecycle.decisions import Cancel, Connect, RemoveFinalizer, Write
from watcher.lifecycle.facts import RunState, Started
from watcher.lifecycle.known import CancelTry, DetailsTry
from watcher.lifecycle.policy import Policy

STOPPED = facts(RunState.CANCELLED, finished_at=wall(50))
TOLD = DetailsTry(run_id=RUN, at=mono(55), tries=2, over=True)
STEPS = 9
"""More than an object takes from its creation until its run is followed."""


def cancelled(world: World) -> None:
    world.api.edit(cancel=True)


def deleted(world: World) -> None:
    world.api.delete()


@pytest.mark.parametrize("stop", [cancelled, deleted])
@pytest.mark.parametrize("reply", [Reply.ANSWERED, Reply.LOST])
@pytest.mark.parametrize("dies", [False, True])
def test_a_stop_reaches_dbt_cloud_whenever_statuses_begin_to_be_refused(
    stop: Callable[[World], None], reply: Reply, dies: bool
) -> None:
    for steps in range(STEPS):
        world = World.of(run(held=False), Policy())
        world.cloud.next_reply, world.cloud.duration = reply, 1e9
        for _ in range(steps):
            world.tick()
        world.api.refusing = True
        stop(world)
        if dies:
            world.leader.die()
        world.leader.listen()
        began = world.time.now
        while world.alive or (stop is deleted and world.api.stored is not None):
            assert world.time.now < began + 400, f"after {steps} steps: {world.api.stored}"
            world.tick()
            world.leader.listen()
        assert len(world.cloud.runs) <= 1


def test_the_end_is_written_once_statuses_are_taken_again() -> None:
    world = World.of(run(retry=Retry(limit=3, when=(RetryWhen.CANCELLED,))), Policy())
    world.cloud.duration = 1e9
    for _ in range(STEPS):
        world.tick()
    world.api.refusing = True
    world.api.edit(cancel=True)
    world.leader.listen()
    for _ in range(20):
        world.tick()
    world.api.refusing = False
    world.settle()
    assert world.api.stored is not None
    status = world.api.stored.status
    assert (status.phase, status.reason) == (Phase.CANCELLED, Reason.CANCEL_REQUESTED)
    assert len(world.cloud.runs) == 1, "a cancel that was asked for is not retried"


def test_the_write_comes_first_and_the_cancel_after_a_refusal_with_pauses() -> None:
    obj = run(live(), cancel=True)
    memory = following(obj, seen(facts()))
    assert decided(Write, obj, memory).status.phase is Phase.CANCELLING
    memory = following(obj, seen(facts()), unwritten=True)
    assert next_step(obj, memory) == Cancel(RUN)
    memory = following(obj, seen(facts()), unwritten=True, cancel=CancelTry(run_id=RUN, at=1_020.0))
    assert isinstance(next_step(obj, memory, 49), Write)
    assert next_step(obj, memory, 51) == Cancel(RUN)


def test_a_deadline_is_kept_too() -> None:
    obj = run(live(), active_deadline_seconds=5)
    assert next_step(obj, following(obj, seen(facts()), unwritten=True)) == Cancel(RUN)


def test_a_run_that_a_deadline_ended_is_told_so_by_a_watcher_that_did_not_see_it() -> None:
    obj = run(live(), active_deadline_seconds=5, retry=Retry(limit=1, when=(RetryWhen.CANCELLED,)))
    status = decided(Write, obj, following(obj, seen(STOPPED, 55), details=TOLD, results=read()), 60).status
    assert (status.phase, status.reason) == (Phase.TIMED_OUT, Reason.ACTIVE_DEADLINE_EXCEEDED)


def test_a_run_that_somebody_cancelled_before_its_deadline_is_told_so() -> None:
    obj = run(live(), active_deadline_seconds=100)
    status = decided(Write, obj, following(obj, seen(STOPPED, 200), details=TOLD, results=read()), 200).status
    assert status.reason is Reason.CANCELLED_IN_DBT_CLOUD


def test_a_deleted_object_whose_end_cannot_be_written_is_let_go_with_a_warning() -> None:
    obj = run(live(Phase.CANCELLING, Reason.DELETED), deleted=15)
    decision = next_step(obj, following(obj, seen(STOPPED, 55), details=TOLD, results=read(), unwritten=True), 60)
    assert isinstance(decision, RemoveFinalizer)
    assert decision.event is not None
    assert decision.event.reason == "EndNotWritten"


def test_an_object_that_is_not_deleted_is_never_let_go_for_want_of_a_status() -> None:
    obj = run(live(), cancel=True)
    assert isinstance(
        next_step(obj, following(obj, seen(STOPPED, 55), details=TOLD, results=read(), unwritten=True), 60), Write
    )


def test_without_a_connection_it_is_read_first() -> None:
    obj = run(live(), cancel=True)
    assert next_step(obj, following(obj, seen(facts()), unwritten=True, account_id=None)) == Connect()


def test_a_run_whose_start_could_not_be_recorded_is_cancelled_and_its_object_let_go() -> None:
    obj = run(claimed(), deleted=15)
    sent = claim(obj, sent=True, submission=Started(facts(RunState.QUEUED)))
    memory = known(claim=sent, unwritten=True)
    assert next_step(obj, memory) == Cancel(RUN)
    asked = known(claim=sent, unwritten=True, cancel=CancelTry(run_id=RUN, at=mono(19)))
    assert isinstance(next_step(obj, asked), RemoveFinalizer)
    assert isinstance(next_step(run(claimed(), cancel=True), asked), Write), "one that is not deleted stays"
