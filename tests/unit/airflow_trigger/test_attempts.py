"""Which object belongs to a try."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_trigger.attempts import (
    CONSUMED,
    TASK_INSTANCE,
    TRY,
    Attach,
    Await,
    Create,
    TaskKey,
    Try,
    Use,
    choose,
    label_value,
    try_of,
)
from airflow_trigger.taskruns import TaskIntent, TaskMeta, TaskRun, TaskTruth
from tests.unit.airflow_trigger.tasks import Task

KEY = TaskKey("nightly", "scheduled__2026-01-01T00:00:00+00:00", "build")
SECOND = Try(KEY, 2, max_tries=3)
IDS = st.text(min_size=1, max_size=300)
KEYS = st.builds(TaskKey, IDS, IDS, IDS, st.integers(-1, 10_000))
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def run(
    phase: str = "Running",
    reason: str = "RunStarted",
    *,
    number: int = 1,
    run_id: int | None = 5,
    consumed: str | None = None,
    cancel: bool = False,
    deleting: bool = False,
) -> TaskRun:
    return TaskRun(
        metadata=TaskMeta(
            name=f"n-{number}",
            uid="u",
            resource_version="1",
            labels={TRY: str(number)},
            annotations={} if consumed is None else {CONSUMED: consumed},
            deletion_timestamp="2026-01-01T00:00:00Z" if deleting else None,
        ),
        spec=TaskIntent(cancel=cancel),
        status=TaskTruth(phase=phase, reason=reason, run_id=run_id),
    )


FAILED = ("Failed", "RunFailed")
SUCCEEDED = ("Succeeded", "RunSucceeded")


def test_the_first_try_creates_the_first_object() -> None:
    assert choose([], Try(KEY, 1, 0)) == Create(1)


def test_an_object_is_numbered_by_its_try() -> None:
    assert choose([], Try(KEY, 4, 3)) == Create(4)


def test_a_live_run_is_taken_over() -> None:
    live = run()
    assert choose([live], SECOND) == Attach(live)


@pytest.mark.parametrize("end", [SUCCEEDED, FAILED, ("Cancelled", "CancelledInDbtCloud"), ("TimedOut", "x")])
def test_an_end_that_nobody_was_told_is_used(end: tuple[str, str]) -> None:
    ended = run(*end)
    assert choose([ended], SECOND) == Use(ended)


def test_a_failure_that_airflow_was_told_is_followed_by_a_new_run() -> None:
    assert choose([run(*FAILED, consumed="1/3")], SECOND) == Create(2)


def test_a_crash_just_after_a_success_does_not_run_it_again() -> None:
    done = run(*SUCCEEDED, consumed="1/3")
    assert choose([done], SECOND) == Use(done)


def test_a_cleared_task_runs_again_after_a_success() -> None:
    assert choose([run(*SUCCEEDED, consumed="1/3")], Try(KEY, 2, max_tries=4)) == Create(2)


def test_a_run_that_is_being_cancelled_is_never_adopted_and_nothing_starts_beside_it() -> None:
    cancelling = run("Cancelling", "CancelRequested", cancel=True)
    assert choose([cancelling], SECOND) == Await(cancelling)


@pytest.mark.parametrize("how", [{"cancel": True}, {"deleting": True}])
def test_an_unwanted_run_that_is_over_is_followed_by_a_new_one(how: dict[str, bool]) -> None:
    assert choose([run("Cancelled", "CancelRequested", **how)], SECOND) == Create(2)  # type: ignore[arg-type]


def test_the_newest_object_decides() -> None:
    live = run(number=10)
    assert choose([run(*FAILED, number=9, consumed="9/9"), live, run(*FAILED, number=2)], SECOND) == Attach(live)


def test_numbers_grow_even_when_airflow_counts_from_one_again() -> None:
    assert choose([run(*FAILED, number=7, consumed="7/9")], Try(KEY, 1, 3)) == Create(8)


def test_what_could_not_be_started_is_asked_for_anew() -> None:
    assert choose([run("Error", "InvalidConnection", run_id=None)], SECOND) == Create(2)


def test_an_undecided_start_is_never_repeated_unseen() -> None:
    undecided = run("Error", "SubmissionUndecided", run_id=None)
    assert choose([undecided], SECOND) == Use(undecided)


@pytest.mark.parametrize("consumed", [None, "1/3"])
def test_a_run_that_was_lost_sight_of_is_followed_not_repeated(consumed: str | None) -> None:
    assert choose([run("Error", "LostContact", consumed=consumed)], SECOND) == Create(2, follows=5)


def test_a_failed_run_is_resumed_when_asked_for() -> None:
    failed = run(*FAILED, consumed="1/3")
    assert choose([failed], SECOND, from_failure=True) == Create(2, resumes=5)


def test_a_cancelled_run_is_not_resumed() -> None:
    cancelled = run("Cancelled", "CancelledInDbtCloud", consumed="1/3")
    assert choose([cancelled], SECOND, from_failure=True) == Create(2)


def test_a_run_that_nobody_waited_for_is_attached_to_by_a_retry_and_not_after_a_clear() -> None:
    forgotten = run(consumed="1/3")
    assert choose([forgotten], SECOND) == Attach(forgotten)
    assert choose([forgotten], Try(KEY, 2, max_tries=4)) == Create(2)


@given(KEYS, st.integers(1, 100_000))
def test_every_name_and_label_is_valid(key: TaskKey, number: int) -> None:
    assert DNS_LABEL.fullmatch(key.object_name(number))
    assert all(LABEL_VALUE.fullmatch(value) for value in key.labels(number).values())


@given(KEYS, KEYS)
def test_different_task_instances_have_different_objects(one: TaskKey, other: TaskKey) -> None:
    assert (one == other) == (one.object_name(1) == other.object_name(1))
    assert (one == other) == (one.selector == other.selector)


@given(IDS, IDS)
def test_label_values_keep_ids_apart(one: str, other: str) -> None:
    assert (one == other) == (label_value(one) == label_value(other))


def test_names_can_be_read() -> None:
    assert re.fullmatch(
        r"sales-daily-transform-run-dbt-3-[0-9a-f]{16}-2",
        TaskKey("Sales.daily", "r", "transform.run_dbt", 3).object_name(2),
    )


def test_labels_say_who_made_it_and_annotations_say_it_exactly() -> None:
    labels = KEY.labels(2)
    assert labels["airflow.dbtrun.dev/dag-id"] == "nightly"
    assert labels["airflow.dbtrun.dev/run-id"].startswith("scheduled__2026-01-01T00-00-00-00-00-")
    assert "airflow.dbtrun.dev/map-index" not in labels
    assert KEY.annotations()["airflow.dbtrun.dev/run-id"] == "scheduled__2026-01-01T00:00:00+00:00"
    assert labels[TASK_INSTANCE] == KEY.digest


@pytest.mark.parametrize("map_index", [None, -1])
def test_a_task_that_is_not_mapped_is_the_same_in_every_airflow(map_index: int | None) -> None:
    assert try_of(Task(map_index=map_index)).key == KEY  # type: ignore[arg-type]
