"""An object that a DbtRunMirror has created: it shows a run of somebody else, with few writes, and starts nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

from msgspec.structs import replace

from dbtrun.api import MIRROR_LABEL, Attempt, DbtRun, DeletionPolicy, Phase, Reason, Status
from tests.unit.lifecycle import builders as b
from watcher.lifecycle.decide import decide
from watcher.lifecycle.decisions import AddFinalizer, Cancel, Connect, Decision, FetchDetails, Wait, Write
from watcher.lifecycle.facts import Observation, RunFacts, RunState
from watcher.lifecycle.known import Known, remember

FINISHED = b.START


def mirrored(status: Status | None = None, *, deleted: float | None = None, **spec: Any) -> DbtRun:
    followed: dict[str, Any] = {"run_id": b.RUN, "deletion_policy": DeletionPolicy.ORPHAN}
    run = b.run(status, held=False, deleted=deleted, **(followed | spec))
    return replace(run, metadata=replace(run.metadata, labels={MIRROR_LABEL: "all"}))


def seen(state: RunState = RunState.SUCCESS, **changes: Any) -> Known:
    facts = RunFacts(run_id=b.RUN, account_id=b.ACCOUNT, job_id=b.JOB, state=state, finished_at=FINISHED, **changes)
    observation = Observation(run=facts, at=b.at(0))
    return Known(about=b.RUN, observation=observation, answered=True, account_id=b.ACCOUNT, host="cloud.getdbt.com")


def decided(run: DbtRun, known: Known) -> Decision:
    return decide(run, remember(run, known, b.at(1)), b.at(1), b.POLICY)


def test_the_connection_comes_first() -> None:
    known = Known(about=b.RUN, observation=seen().observation, answered=True)
    assert isinstance(decided(mirrored(), known), Connect)


def test_a_run_that_is_over_is_shown_with_one_write_and_no_event() -> None:
    step = decided(mirrored(), seen())
    assert isinstance(step, Write)
    assert step.event is None
    status = step.status
    assert (status.phase, status.reason, status.run_id) == (Phase.SUCCEEDED, Reason.RUN_SUCCEEDED, b.RUN)
    assert status.finished_at == FINISHED
    assert [(each.adopted, each.phase) for each in status.attempts] == [(True, Phase.SUCCEEDED)]


def test_after_that_write_nothing_is_left_to_do() -> None:
    step = decided(mirrored(), seen())
    assert isinstance(step, Write)
    assert isinstance(decided(mirrored(step.status), seen()), Wait)


def test_why_a_run_failed_is_read_before_its_one_write() -> None:
    known = seen(RunState.ERROR, started_at=FINISHED)
    assert decided(mirrored(), known) == FetchDetails(b.RUN, over=True)


def test_a_run_of_a_project_that_is_not_the_namespaces_is_not_shown() -> None:
    known = seen(project_id=7)
    step = decided(mirrored(), dataclasses.replace(known, projects=frozenset({8})))
    assert isinstance(step, Write)
    assert (step.status.phase, step.status.reason) == (Phase.ERROR, Reason.PROJECT_NOT_ALLOWED)


def test_while_the_connection_is_for_another_account_the_end_is_not_shown_and_then_it_is() -> None:
    run = mirrored(account_id=b.ACCOUNT)
    elsewhere = dataclasses.replace(seen(), account_id=b.ACCOUNT + 1)
    step = decided(run, elsewhere)
    assert isinstance(step, Write)
    assert (step.status.phase, step.status.reason) == (Phase.PENDING, Reason.INVALID_CONNECTION)
    assert isinstance(decided(replace(run, status=step.status), elsewhere), Wait)
    back = decided(replace(run, status=step.status), seen())
    assert isinstance(back, Write)
    assert back.status.phase is Phase.SUCCEEDED


def test_a_live_run_is_followed_without_a_finalizer() -> None:
    step = decided(mirrored(), seen(RunState.RUNNING))
    assert isinstance(step, Write)
    assert step.status.phase is Phase.RUNNING
    assert not isinstance(decided(mirrored(step.status), seen(RunState.RUNNING)), AddFinalizer)


def test_deleting_it_waits_for_nothing() -> None:
    assert isinstance(decided(mirrored(deleted=0), seen(RunState.RUNNING)), Wait)


def test_one_that_is_to_cancel_its_run_when_deleted_is_held() -> None:
    run = mirrored(deletion_policy=DeletionPolicy.CANCEL)
    assert isinstance(decided(run, seen(RunState.RUNNING)), AddFinalizer)


def test_the_label_alone_makes_no_object_one_that_starts_nothing() -> None:
    run = b.run(held=False)
    labelled = replace(run, metadata=replace(run.metadata, labels={MIRROR_LABEL: "all"}))
    assert not labelled.mirrored
    assert labelled.owes_cancel


def test_its_run_is_cancelled_only_when_somebody_asks_for_it() -> None:
    attempt = Attempt(number=1, phase=Phase.RUNNING, adopted=True, run_id=b.RUN)
    status = Status(phase=Phase.RUNNING, reason=Reason.RUN_STARTED, run_id=b.RUN, job_id=b.JOB, attempts=(attempt,))
    assert not isinstance(decided(mirrored(status), seen(RunState.RUNNING)), Cancel)
