"""Which object belongs to a try."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from airflow_trigger.task.attempts import Attach, Await, Choice, Create, Replace, Use, choose
from airflow_trigger.task.identity import (
    CONSUMED,
    TASK_INSTANCE,
    TRY,
    WAITING_TRY,
    Mark,
    TaskKey,
    Try,
    label_value,
    try_of,
)
from airflow_trigger.task.run import TaskMeta, TaskRun, TaskSpec, TaskStatus
from dbtrun.api.views import Reference
from tests.unit.airflow_trigger.tasks import Task

KEY = TaskKey("nightly", "scheduled__2026-01-01T00:00:00+00:00", "build")
SECOND = Try(KEY, 2, max_tries=3)
IDS = st.text(min_size=1, max_size=300)
WANTED = TaskSpec(job={"id": 7})
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
    name: str | None = None,
    waiting: str | None = None,
    follows: int | None = None,
    **spec: Any,
) -> TaskRun:
    marks = {CONSUMED: consumed, WAITING_TRY: waiting}
    return TaskRun(
        metadata=TaskMeta(
            name=KEY.object_name(number) if name is None else name,
            uid="u",
            resource_version="1",
            labels={TRY: str(number)},
            annotations={key: value for key, value in marks.items() if value is not None},
            deletion_timestamp="2026-01-01T00:00:00Z" if deleting else None,
        ),
        spec=replace(WANTED, cancel=cancel, run_id=follows, **spec),
        status=TaskStatus(phase=phase, reason=reason, run_id=run_id),
    )


def chosen(runs: Sequence[TaskRun], attempt: Try, **how: Any) -> Choice:
    """What a try that would create WANTED does."""
    return choose(runs, attempt, WANTED, **how)


FAILED = ("Failed", "RunFailed")
SUCCEEDED = ("Succeeded", "RunSucceeded")


def test_the_first_try_creates_the_first_object() -> None:
    assert chosen([], Try(KEY, 1, 0)) == Create(1)


def test_an_object_is_numbered_by_its_try() -> None:
    assert chosen([], Try(KEY, 4, 3)) == Create(4)


def test_a_live_run_is_taken_over() -> None:
    live = run()
    assert chosen([live], SECOND) == Attach(live)


@pytest.mark.parametrize("end", [SUCCEEDED, FAILED, ("Cancelled", "CancelledInDbtCloud"), ("TimedOut", "x")])
def test_an_end_that_nobody_was_told_is_used(end: tuple[str, str]) -> None:
    ended = run(*end)
    assert chosen([ended], SECOND) == Use(ended)


def test_a_failure_that_airflow_was_told_is_followed_by_a_new_run() -> None:
    assert chosen([run(*FAILED, consumed="1/3")], SECOND) == Create(2)


def test_a_crash_just_after_a_success_does_not_run_it_again() -> None:
    done = run(*SUCCEEDED, consumed="1/3")
    assert chosen([done], SECOND) == Use(done)


def test_a_cleared_task_runs_again_after_a_success() -> None:
    assert chosen([run(*SUCCEEDED, consumed="1/3")], Try(KEY, 2, max_tries=4)) == Create(2)


def test_a_run_that_is_being_cancelled_is_never_adopted_and_nothing_starts_beside_it() -> None:
    cancelling = run("Cancelling", "CancelRequested", cancel=True)
    assert chosen([cancelling], SECOND) == Await(cancelling)


@pytest.mark.parametrize("how", [{"cancel": True}, {"deleting": True}])
def test_an_unwanted_run_that_is_over_is_followed_by_a_new_one(how: dict[str, bool]) -> None:
    assert chosen([run("Cancelled", "CancelRequested", **how)], SECOND) == Create(2)  # type: ignore[arg-type]


def test_the_newest_object_decides() -> None:
    live = run(number=10)
    assert chosen([run(*FAILED, number=9, consumed="9/9"), live, run(*FAILED, number=2)], SECOND) == Attach(live)


def test_numbers_grow_even_when_airflow_counts_from_one_again() -> None:
    assert chosen([run(*FAILED, number=7, consumed="7/9")], Try(KEY, 1, 3)) == Create(8)


def test_what_could_not_be_started_is_asked_for_anew() -> None:
    assert chosen([run("Error", "InvalidConnection", run_id=None)], SECOND) == Create(2)


def test_an_undecided_start_is_never_repeated_unseen() -> None:
    undecided = run("Error", "SubmissionUndecided", run_id=None)
    assert chosen([undecided], SECOND) == Use(undecided)


@pytest.mark.parametrize("consumed", [None, "1/3"])
def test_a_run_that_was_lost_sight_of_is_followed_not_repeated(consumed: str | None) -> None:
    assert chosen([run("Error", "LostContact", consumed=consumed)], SECOND) == Create(2, follows=5)


def test_a_failed_run_is_resumed_when_asked_for() -> None:
    failed = run(*FAILED, consumed="1/3")
    assert chosen([failed], SECOND, from_failure=True) == Create(2, resumes=5)


def test_a_cancelled_run_is_not_resumed() -> None:
    cancelled = run("Cancelled", "CancelledInDbtCloud", consumed="1/3")
    assert chosen([cancelled], SECOND, from_failure=True) == Create(2)


def test_a_run_that_nobody_waited_for_is_attached_to_by_a_retry_and_not_after_a_clear() -> None:
    forgotten = run(consumed="1/3")
    assert chosen([forgotten], SECOND) == Attach(forgotten)
    assert chosen([forgotten], Try(KEY, 2, max_tries=4)) == Create(2)


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
    assert try_of(Task(map_index=map_index).context).key == KEY  # type: ignore[arg-type]


# ── one life of a task and the next ──

MARKS = st.builds(
    Mark,
    st.integers(0, 99),
    *[st.none() | st.integers(0, 99)] * 3,
    st.none() | st.datetimes().map(lambda when: when.isoformat()),
    st.none() | st.uuids().map(str),
)


@given(MARKS)
def test_a_mark_survives_an_annotation(mark: Mark) -> None:
    assert Mark.parse(str(mark)) == mark


@pytest.mark.parametrize("written", ["2/3", "2", "", None, "x/y/z", "2/3/////////", "9" * 400])
def test_a_mark_that_another_release_or_a_person_wrote_can_be_read(written: str | None) -> None:
    assert Mark.parse(written).number in (0, 2)


def mark(task: Task) -> Mark:
    return try_of(task.context, task.retries).mark


AIRFLOW_2 = Task(try_number=1, max_tries=2, retries=2)
AIRFLOW_3 = Task(try_number=1, max_tries=2, retries=2, id="a")
BOTH = pytest.mark.parametrize("first", [AIRFLOW_2, AIRFLOW_3], ids=["2", "3"])


@BOTH
@pytest.mark.parametrize("when_over", [True, False])
@pytest.mark.parametrize("retries", [0, 1, 2, 3])
def test_a_clear_is_another_life_whatever_became_of_retries(first: Task, retries: int, when_over: bool) -> None:
    assert not mark(first.cleared(retries, when_over=when_over)).in_life_of(mark(first))


@BOTH
def test_a_retry_is_the_same_life(first: Task) -> None:
    assert mark(first.next_try()).follows(mark(first))
    assert not mark(first).follows(mark(first.next_try()))


@BOTH
def test_a_retry_is_the_same_life_though_another_task_of_the_dag_run_was_cleared(first: Task) -> None:
    retried = first.next_try()
    retried.clears += 1
    assert mark(retried).in_life_of(mark(first))


@BOTH
def test_a_retry_is_the_same_life_though_retries_was_changed_in_the_dag(first: Task) -> None:
    retried = first.next_try()
    retried.retries = 7
    assert mark(retried).in_life_of(mark(first))


@BOTH
@pytest.mark.parametrize("tries", [0, 1, 2])
def test_a_dag_run_that_is_created_again_is_another_life(first: Task, tries: int) -> None:
    again = first.created_again()
    for _ in range(tries):
        again = again.next_try()
    assert not mark(again).in_life_of(mark(first))


def test_a_dag_run_that_is_tested_again_with_the_dates_of_the_first_is_another_life() -> None:
    again = AIRFLOW_2.created_again()
    again.began = AIRFLOW_2.began
    assert not mark(again).in_life_of(mark(AIRFLOW_2))


def test_a_try_that_resumes_is_itself_though_its_dag_run_was_queued_again() -> None:
    again = Task(**vars(AIRFLOW_3))
    again.began += timedelta(hours=1)
    assert mark(again).follows(mark(AIRFLOW_3))


def test_what_is_not_known_is_not_compared() -> None:
    assert mark(AIRFLOW_3.next_try()).follows(Mark.parse("1"))
    assert mark(AIRFLOW_3.next_try()).follows(Mark.parse("1/2"))
    assert not mark(AIRFLOW_3.next_try()).follows(Mark.parse("1/3"))


CLEARED = Try(KEY, 2, max_tries=4)


@pytest.mark.parametrize("end", [SUCCEEDED, FAILED, ("Error", "LostContact")])
def test_an_end_of_a_life_before_that_nobody_was_told_is_not_used(end: tuple[str, str]) -> None:
    assert chosen([run(*end, waiting="1/3")], CLEARED) == Create(2)


def test_what_goes_on_for_a_life_before_is_ended_first_unless_it_shall_be_left() -> None:
    live = run(waiting="1/3")
    assert chosen([live], CLEARED) == Replace(live)
    assert chosen([live], CLEARED, leaves=True) == Create(2)


# ── an object is the task's only if it is what the task would create ──


@pytest.mark.parametrize(
    "spec",
    [
        {"job": None, "follows": 5},
        {"job": {"id": 8}},
        {"connection_ref": Reference(name="other")},
        {"account_id": 2},
        {"overrides": {"steps": ["dbt compile"]}},
        {"retry_of": 5},
    ],
    ids=["another-run", "another-job", "another-connection", "another-account", "other-steps", "resumes-another"],
)
def test_an_object_that_runs_something_else_is_not_the_tasks(spec: dict[str, Any]) -> None:
    assert chosen([run(*SUCCEEDED, **spec)], SECOND) == Create(2)
    assert chosen([run(*SUCCEEDED, **spec)], Try(KEY, 1, 3)) == Create(2)
    live = run(**spec)
    assert chosen([live], SECOND) == Replace(live)


@pytest.mark.parametrize("name", ["run-5", KEY.object_name(2), TaskKey("other", "r", "t").object_name(1)])
def test_an_object_of_another_name_is_not_looked_at(name: str) -> None:
    assert chosen([run(*SUCCEEDED, name=name)], Try(KEY, 1, 3)) == Create(1)
    assert chosen([run(name=name)], SECOND) == Create(2)


@pytest.mark.parametrize("label", ["", "one", "-1", "1.0"])
def test_an_object_whose_label_is_no_number_is_not_looked_at(label: str) -> None:
    odd = run(*SUCCEEDED)
    odd.metadata.labels[TRY] = label
    assert chosen([odd], Try(KEY, 1, 3)) == Create(1)


def test_an_object_that_follows_the_run_that_was_lost_is_the_tasks() -> None:
    lost = run("Error", "LostContact", consumed="1/3")
    follows = run(*SUCCEEDED, number=2, job=None, follows=5)
    third = Try(KEY, 3, 3)
    assert chosen([lost, follows], third) == Use(follows)
    assert chosen([follows], third) == Create(3)


def test_a_name_that_is_taken_unseen_is_passed_over() -> None:
    assert chosen([], Try(KEY, 1, 3), above=4) == Create(5)
