"""The question itself: which rules are asked, what is refused, what is polled."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import Attempt, DbtRun, Phase, Reason, Status
from tests.unit.lifecycle.builders import (
    ACCOUNT,
    POLICY,
    RUN,
    claimed,
    facts,
    following,
    interested,
    known,
    live,
    mono,
    next_step,
    over,
    run,
    seen,
    written,
)
from watcher.lifecycle.decide import Interest, may_wait
from watcher.lifecycle.facts import RunState
from watcher.lifecycle.known import DENIED_INTERVAL, Known
from watcher.lifecycle.tampering import tampered

# ── what the watcher never writes ──


@pytest.mark.parametrize(
    "status",
    [
        Status(),
        Status(phase=Phase.PENDING, attempts=(Attempt(number=1, phase=Phase.PENDING),)),
        claimed(),
        claimed(2, marker="", retry_of=RUN),
        live(Phase.QUEUED),
        live(),
        live(Phase.CANCELLING, Reason.DELETED),
    ],
)
def test_what_the_watcher_writes_is_believed(status: Status) -> None:
    assert tampered(run(status)) is None


@pytest.mark.parametrize(
    "status",
    [
        Status(phase=Phase.PENDING, attempts=(Attempt(number=1, phase=Phase.RUNNING),)),
        Status(phase=Phase.SUBMITTING),
        claimed(phase=Phase.PENDING),
        claimed(claim_time=None),
        claimed(marker=""),
        replace(claimed(), job_id=None),
        Status(phase=Phase.RUNNING),
        live(run_id=None),
        replace(live(), run_id=None),
        replace(live(), run_id=RUN + 1),
        replace(live(), attempts=(Attempt(number=1, phase=Phase.PENDING, run_id=RUN),)),
        live(Phase.CANCELLING, Reason.RUN_STARTED),
    ],
)
def test_a_forged_status_ends_the_object(status: Status) -> None:
    end = written(run(status), known())
    assert (end.phase, end.reason) == (Phase.ERROR, Reason.STATUS_TAMPERED)
    assert f"says {status.phase} without" in end.message
    assert "Create a new object" in end.message


# ── what is polled ──


def test_a_live_run_is_polled_as_often_as_the_object_wants() -> None:
    assert interested(run(live(), poll_interval_seconds=300), known()) == Interest(RUN, 300)


def test_a_run_to_be_adopted_is_polled_once_the_connection_is_known() -> None:
    assert interested(run(run_id=RUN), known()) == Interest(RUN, 30)
    assert interested(run(run_id=RUN), Known()) is None


def test_a_run_that_was_denied_is_polled_more_often() -> None:
    obj = run(live(), poll_interval_seconds=3_600)
    denied = following(obj, seen(None), missing_since=mono(20))
    assert interested(obj, denied) == Interest(RUN, DENIED_INTERVAL)


@pytest.mark.parametrize("obj", [run(), run(claimed()), run(over())])
def test_nothing_is_polled_without_a_live_run(obj: Any) -> None:
    assert interested(obj, known(account_id=ACCOUNT)) is None


# ── what may wait for other runs' starts ──


def waits(obj: DbtRun, state: RunState = RunState.RUNNING) -> bool:
    """Whether what is to be done may wait, once dbt Cloud says this of the run."""
    return may_wait(obj, next_step(obj, following(obj, seen(facts(state)))), POLICY)


def test_that_a_run_has_begun_may_wait() -> None:
    assert waits(run(live(Phase.QUEUED)))
    assert waits(run(live(Phase.QUEUED), active_deadline_seconds=600))


def test_that_a_run_has_begun_does_not_wait_where_a_deadline_counts_from_it() -> None:
    assert not waits(run(live(Phase.QUEUED), queue_deadline_seconds=600))
    assert not waits(run(live(Phase.QUEUED), active_deadline_seconds=int(POLICY.news_grace)))


@pytest.mark.parametrize(
    ("obj", "state"),
    [
        (run(live(Phase.QUEUED)), RunState.SUCCESS),
        (run(live(Phase.QUEUED)), RunState.CANCELLED),
        (run(live(Phase.QUEUED), deleted=15), RunState.RUNNING),
        (run(live(Phase.QUEUED), cancel=True), RunState.RUNNING),
        (run(live(Phase.RUNNING)), RunState.RUNNING),
        (run(live(Phase.RUNNING)), RunState.SUCCESS),
    ],
)
def test_nothing_else_waits(obj: DbtRun, state: RunState) -> None:
    assert not waits(obj, state)
