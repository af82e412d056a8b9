"""A run that an object of another namespace has started is followed, and neither cancelled nor copied."""

from __future__ import annotations

from typing import Any

import pytest

from dbtrun.api import DbtRun, DeletionPolicy, Phase, Reason
from tests.unit.lifecycle.builders import RUN, decided, facts, following, live, next_step, rested, run, seen
from watcher.lifecycle.decisions import Cancel, FindOwner, KeepArtifacts, RemoveFinalizer, Write
from watcher.lifecycle.facts import RunState
from watcher.lifecycle.known import Known, Owner
from watcher.lifecycle.marker import marker, owner_of

OURS = Owner(run_id=RUN, foreign=False)
THEIRS = Owner(run_id=RUN, foreign=True)


def adopted(phase: Phase = Phase.RUNNING, reason: Reason = Reason.RUN_STARTED, **spec: Any) -> DbtRun:
    return run(live(phase, reason, adopted=True, marker=""), run_id=RUN, **spec)


def seeing(obj: DbtRun, owner: Owner | None, state: RunState = RunState.RUNNING) -> Known:
    return following(obj, seen(facts(state)), owner=owner)


def test_before_a_run_that_was_taken_over_is_cancelled_its_owner_is_asked_for() -> None:
    obj = adopted(cancel=True)
    assert decided(FindOwner, obj, seeing(obj, None)) == FindOwner(RUN)


def test_a_run_of_nobody_else_is_cancelled() -> None:
    obj = adopted(cancel=True)
    assert decided(Write, obj, seeing(obj, OURS)).status.phase is Phase.CANCELLING
    stopping = adopted(Phase.CANCELLING, Reason.CANCEL_REQUESTED, cancel=True)
    assert decided(Cancel, stopping, seeing(stopping, OURS)) == Cancel(RUN)


def test_after_a_restart_the_owner_is_asked_for_again_before_a_cancel_is_repeated() -> None:
    stopping = adopted(Phase.CANCELLING, Reason.CANCEL_REQUESTED, cancel=True)
    assert decided(FindOwner, stopping, seeing(stopping, None)) == FindOwner(RUN)


def test_a_cancel_that_began_is_not_repeated_once_the_run_turns_out_to_be_anothers() -> None:
    stopping = adopted(Phase.CANCELLING, Reason.CANCEL_REQUESTED, cancel=True)
    rested(stopping, seeing(stopping, THEIRS))


def test_a_run_of_another_namespace_goes_on_and_the_object_says_why() -> None:
    obj = adopted(cancel=True)
    obj, _ = rested(obj, seeing(obj, THEIRS))
    assert obj.status.phase is Phase.RUNNING
    assert "a DbtRun of another namespace has started it" in obj.status.message


def test_a_deleted_object_is_let_go_and_the_run_goes_on() -> None:
    obj = adopted(deleted=20, deletion_policy=DeletionPolicy.CANCEL)
    step = decided(RemoveFinalizer, obj, seeing(obj, THEIRS))
    assert step.event is not None
    assert (step.event.type, step.event.reason) == ("Warning", "NotCancelled")


def test_the_owner_of_a_run_that_was_started_here_is_not_asked_for() -> None:
    obj = run(live(), cancel=True)
    assert decided(Write, obj, seeing(obj, None)).status.phase is Phase.CANCELLING


def test_files_of_a_run_of_another_namespace_are_not_copied() -> None:
    obj = adopted(artifacts=("manifest.json",))
    assert next_step(obj, seeing(obj, None, RunState.SUCCESS)) == FindOwner(RUN)
    assert isinstance(next_step(obj, seeing(obj, OURS, RunState.SUCCESS)), KeepArtifacts)
    (artifact,) = decided(Write, obj, seeing(obj, THEIRS, RunState.SUCCESS)).status.artifacts
    assert artifact.problem == "A DbtRun of another namespace has started the run."


@pytest.mark.parametrize(
    ("cause", "uid"),
    [
        (f"{marker('5f1d7a84-0d43', 2)} nightly", "5f1d7a84-0d43"),
        ("nightly dbtrun:5f1d7a84-0d43/2", None),
        ("dbtrun:5f1d7a84-0d43/2x", None),
        ("", None),
    ],
)
def test_a_marker_names_its_owner_at_the_front_of_the_cause_alone(cause: str, uid: str | None) -> None:
    assert owner_of(cause) == uid
