"""A copy is not a forgery: it keeps what it says of an end, follows what is live, and starts nothing by itself."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import (
    RESTORED_LABEL,
    START_COPY_ANNOTATION,
    UID_ANNOTATION,
    Attempt,
    DbtRun,
    DeletionPolicy,
    Phase,
    Reason,
    Retry,
    Status,
)
from tests.unit.lifecycle.builders import (
    JOB,
    MARK,
    RUN,
    UID,
    claim,
    claimed,
    decided,
    facts,
    following,
    known,
    live,
    looked,
    next_step,
    over,
    run,
    seen,
    wall,
    written,
)
from watcher.lifecycle.decisions import AddFinalizer, Cancel, ClaimStart, LookForRuns, RemoveFinalizer, Wait, Write
from watcher.lifecycle.facts import RunState
from watcher.lifecycle.marker import marker

COPY = "00000000-0000-4000-8000-000000000000"
BY_ANNOTATION = {"annotations": {UID_ANNOTATION: UID}}
BY_LABEL = {"annotations": {}, "labels": {RESTORED_LABEL: "r"}}
BARE: dict[str, Any] = {"annotations": {}}


def copy(obj: DbtRun, marks: dict[str, Any] = BY_ANNOTATION) -> DbtRun:
    """The object under another uid."""
    return replace(obj, metadata=replace(obj.metadata, uid=COPY, **marks))


def meant(obj: DbtRun) -> DbtRun:
    """Somebody has said that the copy is to start."""
    marks = obj.metadata.annotations | {START_COPY_ANNOTATION: COPY}
    return replace(obj, metadata=replace(obj.metadata, annotations=marks))


@pytest.mark.parametrize("marks", [BY_ANNOTATION, BY_LABEL])
def test_a_copy_without_a_status_starts_nothing_and_says_how_to(marks: dict[str, Any]) -> None:
    obj = copy(run(), marks)
    write = decided(Write, obj, known())
    assert (write.status.phase, write.status.reason) == (Phase.PENDING, Reason.COPIED)
    assert f"kubectl -n data annotate dbtrun nightly dbtrun.dev/start-copy={COPY}" in write.status.message
    assert write.event is not None
    assert write.event.reason == "Copied"
    held_back = replace(obj, status=write.status)
    assert isinstance(next_step(held_back, known()), Wait)
    edited = replace(held_back, metadata=replace(held_back.metadata, generation=2))
    assert decided(Write, edited, known()).event is None, "told once"


def test_what_kubectl_applies_is_no_copy() -> None:
    assert not run(held=False).copied
    assert not run().copied
    assert run(held=False).unmarked == {UID_ANNOTATION: UID}
    assert run().unmarked == {}
    assert copy(run()).unmarked == {}


def test_an_object_of_an_earlier_release_is_marked_before_its_first_start() -> None:
    obj = run()
    unmarked = replace(obj, metadata=replace(obj.metadata, annotations={}))
    assert next_step(unmarked, known()) == AddFinalizer()


def test_a_copy_starts_when_somebody_says_so() -> None:
    claimed_start = decided(ClaimStart, meant(copy(run())), known()).status
    assert claimed_start.attempt is not None
    assert claimed_start.attempt.marker == marker(COPY, 1)


def test_what_was_said_of_another_copy_does_not_count() -> None:
    obj = meant(copy(run()))
    again = replace(obj, metadata=replace(obj.metadata, uid=UID.replace("5", "6")))
    assert written(again, known()).reason is Reason.COPIED


@pytest.mark.parametrize("marks", [BY_ANNOTATION, BY_LABEL, BARE])
@pytest.mark.parametrize("status", [over(), over(Phase.FAILED, Reason.RUN_FAILED), over(sweep_after=wall(0))])
def test_an_end_stays_and_nothing_is_swept(status: Status, marks: dict[str, Any]) -> None:
    obj = copy(run(status), marks)
    decision = next_step(obj, known())
    if isinstance(decision, Write):
        assert decision.status.attempt is not None
        assert decision.status.attempt.sweep_after is None
        obj, decision = replace(obj, status=decision.status), next_step(replace(obj, status=decision.status), known())
    assert decision == RemoveFinalizer()
    assert obj.status.phase is status.phase


@pytest.mark.parametrize("marks", [BY_ANNOTATION, BY_LABEL, BARE])
def test_a_live_run_is_followed_to_its_end(marks: dict[str, Any]) -> None:
    obj = copy(run(live(), retry=Retry(limit=3)), marks)
    assert written(obj, following(obj, seen(facts()))).phase is Phase.RUNNING
    status = written(obj, following(obj, seen(facts(RunState.ERROR, started_at=None))))
    assert (status.phase, status.reason, status.run_id) == (Phase.FAILED, Reason.RUN_FAILED, RUN)
    assert "not retried, because this object is a copy" in status.message


def test_deleting_a_copy_leaves_the_run_to_the_original_unless_it_is_said() -> None:
    assert next_step(copy(run(live(), deleted=10)), known()) == RemoveFinalizer()
    said = copy(run(live(Phase.CANCELLING, Reason.DELETED), deleted=10, deletion_policy=DeletionPolicy.CANCEL))
    assert next_step(said, following(said, seen(facts()))) == Cancel(RUN)
    assert not meant(copy(run(live()))).cancels_on_deletion, "the run is still the other's"


def test_a_claim_in_a_copy_is_looked_up_by_its_own_marker_and_never_sent() -> None:
    obj = copy(run(claimed()))
    search = decided(LookForRuns, obj, known(claim=claim(obj, own=False)))
    assert (search.job_id, search.attempt.marker) == (JOB, MARK)
    found = known(claim=claim(obj, own=False, lookup=looked(10, facts(cause=MARK))))
    status = written(obj, found)
    assert (status.phase, status.run_id) == (Phase.RUNNING, RUN)
    assert status.attempt is not None
    assert status.attempt.adopted
    none = known(claim=claim(obj, own=False, lookup=looked(121)))
    released = decided(Write, obj, none, 130).status
    assert released.phase is Phase.PENDING
    assert written(replace(obj, status=released), known(), 131).reason is Reason.COPIED


def test_a_retry_of_a_copy_that_is_meant_has_a_marker_of_its_own() -> None:
    first = over(Phase.FAILED, Reason.RUN_FAILED).attempts
    status = Status(
        phase=Phase.PENDING, attempts=(*first, Attempt(number=2, phase=Phase.PENDING, marker=marker(UID, 2)))
    )
    attempt = decided(ClaimStart, meant(copy(run(status))), known()).status.attempt
    assert attempt is not None
    assert (attempt.number, attempt.marker) == (2, marker(COPY, 2))


def test_a_copy_that_nobody_wants_ends_at_once() -> None:
    assert written(copy(run(cancel=True)), known()).phase is Phase.CANCELLED


def test_an_adopting_copy_adopts_again() -> None:
    obj = copy(run(run_id=RUN))
    assert written(obj, following(obj, seen(facts()))).phase is Phase.RUNNING


def test_a_marker_of_another_object_in_one_that_is_no_copy_is_a_forgery() -> None:
    assert written(run(claimed(marker=marker(COPY, 1))), known()).reason is Reason.STATUS_TAMPERED
    assert written(copy(run(claimed(marker=marker(UID, 2)))), known()).reason is Reason.STATUS_TAMPERED
