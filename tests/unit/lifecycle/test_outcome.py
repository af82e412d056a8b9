"""What the end of a dbt Cloud run means."""

from __future__ import annotations

import pytest

from dbtrun.api import FailedNode, Phase, Reason, Results, RetryWhen
from dbtrun.api.status import MAX_MESSAGE
from tests.unit.lifecycle.builders import RUN, facts
from watcher.lifecycle.facts import RunState
from watcher.lifecycle.outcome import STOP_REASONS, outcome_of

TIMED_OUT = "This run timed out after 60 seconds of inactivity."


def test_a_success_is_a_success() -> None:
    assert outcome_of(facts(RunState.SUCCESS), None) == (
        Phase.SUCCEEDED,
        Reason.RUN_SUCCEEDED,
        f"dbt Cloud run {RUN} succeeded.",
    )


@pytest.mark.parametrize("asked_for", sorted(STOP_REASONS))
def test_a_run_that_ended_before_it_could_be_cancelled_keeps_its_result(asked_for: Reason) -> None:
    assert outcome_of(facts(RunState.SUCCESS), asked_for).phase is Phase.SUCCEEDED
    assert outcome_of(facts(RunState.ERROR), asked_for).phase is Phase.FAILED


def test_a_failure_has_dbt_clouds_words() -> None:
    outcome = outcome_of(facts(RunState.ERROR, message="Step 2 failed."), None)
    assert outcome == (Phase.FAILED, Reason.RUN_FAILED, f"dbt Cloud run {RUN} failed: Step 2 failed.")


def test_a_failure_without_words_is_a_sentence() -> None:
    assert outcome_of(facts(RunState.ERROR), None).message == f"dbt Cloud run {RUN} failed."


def test_a_failure_names_the_first_failed_node() -> None:
    node = FailedNode(unique_id="model.shop.orders", status="error", message="relation does not exist")
    outcome = outcome_of(facts(RunState.ERROR, message="x"), None, Results(counts={"error": 1}, failures=(node,)))
    assert outcome.message.endswith("failed: model.shop.orders: relation does not exist")


def test_a_failure_counts_the_other_failed_nodes() -> None:
    node = FailedNode(unique_id="test.a", status="fail")
    counts = {"error": 2, "fail": 3, "runtime error": 1, "skipped": 9, "success": 5}
    outcome = outcome_of(facts(RunState.ERROR), None, Results(counts=counts, failures=(node,)))
    assert outcome.message.endswith("failed: test.a (and 5 more): fail")


def test_a_failure_without_failed_nodes_has_dbt_clouds_words() -> None:
    outcome = outcome_of(facts(RunState.ERROR, message="Clone failed."), None, Results(counts={}))
    assert outcome.message.endswith("failed: Clone failed.")


@pytest.mark.parametrize("asked_for", [None, *sorted(STOP_REASONS)])
def test_dbt_clouds_own_time_out_is_a_time_out_whoever_cancelled(asked_for: Reason | None) -> None:
    outcome = outcome_of(facts(RunState.CANCELLED, message=TIMED_OUT), asked_for)
    assert outcome == (Phase.TIMED_OUT, Reason.TIMED_OUT_IN_DBT_CLOUD, TIMED_OUT)


@pytest.mark.parametrize("deadline", [Reason.QUEUE_DEADLINE_EXCEEDED, Reason.ACTIVE_DEADLINE_EXCEEDED])
def test_a_run_that_we_cancelled_for_a_deadline_timed_out(deadline: Reason) -> None:
    outcome = outcome_of(facts(RunState.CANCELLED), deadline)
    assert (outcome.phase, outcome.reason) == (Phase.TIMED_OUT, deadline)


@pytest.mark.parametrize(
    ("wish", "words"),
    [(Reason.CANCEL_REQUESTED, "spec.cancel is true"), (Reason.DELETED, "the object was deleted")],
)
def test_a_run_that_was_cancelled_here_says_why(wish: Reason, words: str) -> None:
    outcome = outcome_of(facts(RunState.CANCELLED, message="Cancelled by user."), wish)
    assert outcome == (Phase.CANCELLED, wish, f"dbt Cloud run {RUN} was cancelled: {words}.")


def test_a_run_that_nobody_here_cancelled_was_cancelled_in_dbt_cloud() -> None:
    outcome = outcome_of(facts(RunState.CANCELLED, message="Cancelled by ann@shop.example."), None)
    assert (outcome.phase, outcome.reason) == (Phase.CANCELLED, Reason.CANCELLED_IN_DBT_CLOUD)
    assert outcome.message.endswith("was cancelled in dbt Cloud: Cancelled by ann@shop.example.")


@pytest.mark.parametrize(
    ("state", "message", "asked_for", "retryable"),
    [
        (RunState.SUCCESS, "", None, None),
        (RunState.ERROR, "", None, RetryWhen.FAILED),
        (RunState.CANCELLED, "", None, RetryWhen.CANCELLED),
        (RunState.CANCELLED, TIMED_OUT, None, RetryWhen.TIMED_OUT),
        (RunState.CANCELLED, "", Reason.CANCEL_REQUESTED, None),
        (RunState.CANCELLED, "", Reason.DELETED, None),
        (RunState.CANCELLED, "", Reason.ACTIVE_DEADLINE_EXCEEDED, None),
        (RunState.CANCELLED, "", Reason.QUEUE_DEADLINE_EXCEEDED, None),
    ],
)
def test_only_ends_that_nobody_here_asked_for_can_be_retried(
    state: RunState, message: str, asked_for: Reason | None, retryable: RetryWhen | None
) -> None:
    assert outcome_of(facts(state, message=message), asked_for).retryable is retryable


@pytest.mark.parametrize("state", [RunState.ERROR, RunState.CANCELLED])
def test_dbt_clouds_words_are_plain_and_short(state: RunState) -> None:
    message = outcome_of(facts(state, message="\x1b[31m" + "x" * 9_000), None).message
    assert len(message) == MAX_MESSAGE
    assert "\x1b" not in message
