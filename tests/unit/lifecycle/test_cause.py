"""Where a run ended and why, in a sentence."""

from __future__ import annotations

import pytest

from dbtrun.api import FailedNode, FailedStep, Results
from tests.unit.lifecycle.builders import facts, step
from watcher.lifecycle.cause import MAX_CAUSE, cause_of, failed_step, headline, told_step
from watcher.lifecycle.facts import RunState

CLONE = """Cloning into '/tmp/jobs/1/target'...
remote: Repository not found.
fatal: repository 'https://x/y.git/' not found
"""
DEPS = """20:41:07  Running with dbt=1.8.7
20:41:08  Encountered an error:
Runtime Error
  Package dbt-labs/dbt_utilz was not found in the package index
"""
PARSE = """20:41:07  Running with dbt=1.8.7
20:41:09  Encountered an error:
Compilation Error
  Model 'model.shop.orders' (models/orders.sql) depends on a node named 'ordrs' which was not found
"""
DATABASE = """20:41:07  1 of 2 START sql table model analytics.orders ... [RUN]
20:41:09  1 of 2 ERROR creating sql table model analytics.orders ... [ERROR in 0.51s]
20:41:09  Finished running 1 table model in 0 hours 0 minutes and 2.11 seconds (2.11s).
20:41:09  Completed with 1 error and 0 warnings:
20:41:09    Database Error in model orders (models/orders.sql)
  relation "raw.orders" does not exist
  LINE 7: from raw.orders
20:41:09  Done. PASS=0 WARN=0 ERROR=1 SKIP=1 TOTAL=2
"""


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (CLONE, "fatal: repository 'https://x/y.git/' not found"),
        (DEPS, "Runtime Error Package dbt-labs/dbt_utilz was not found in the package index"),
        (
            PARSE,
            "Compilation Error Model 'model.shop.orders' (models/orders.sql) depends on a node named 'ordrs' which "
            "was not found",
        ),
        ("20:41:07.123 [error] [MainThread]: Database Error\nmore", "Database Error"),
        ("[error] dbt1005: no such file\n  --> models/a.sql:3", "[error] dbt1005: no such file --> models/a.sql:3"),
        ("Traceback\n  File x\nValueError: bad profile", "ValueError: bad profile"),
        ("Running with dbt=1.8.7\nCould not reach the proxy\nDone.", "Could not reach the proxy"),
        ("Running with dbt=1.8.7\nDone. PASS=1", ""),
        ("", ""),
    ],
)
def test_the_line_that_names_the_error_is_found(log: str, told: str) -> None:
    assert headline(log) == told


def test_an_error_among_the_lines_of_progress_is_found() -> None:
    assert headline(DATABASE).startswith("Database Error in model orders (models/orders.sql) relation")


def test_a_headline_is_short() -> None:
    assert len(headline("Runtime Error\n  " + "x" * 5_000)) == MAX_CAUSE


def test_a_run_ends_at_its_last_step_in_error() -> None:
    """A job goes on after a step that only looks at the freshness of sources."""
    steps = (step(4, 20), step(5, 10), step(6, 20), step(7, 30))
    assert failed_step(steps) == steps[2]


def test_a_run_that_was_cut_off_ends_at_the_step_that_was_running() -> None:
    steps = (step(1, 10), step(2, 30), step(3, 30, started_at=None))
    assert failed_step(steps) == steps[1]


def test_a_run_without_steps_ends_at_none() -> None:
    assert failed_step(()) is None
    assert told_step(None) is None
    assert told_step(facts(RunState.ERROR, steps=None)) is None


NODE = FailedNode(unique_id="model.shop.orders", status="error", message="Database Error\n  no such table")
STEP = FailedStep(index=4, name="Invoke dbt with `dbt build`", log_tail=PARSE)


def test_a_failed_node_is_the_cause() -> None:
    results = Results(counts={"error": 2, "fail": 1}, failures=(NODE,))
    assert cause_of(results, STEP, "") == "model.shop.orders (and 2 more): Database Error no such table"


def test_a_failed_step_is_the_cause_where_no_node_failed() -> None:
    assert cause_of(Results(counts={}), STEP, "").startswith("step 4, Invoke dbt with `dbt build`: Compilation Error")


def test_a_step_without_a_log_has_dbt_clouds_message() -> None:
    silent = FailedStep(index=4, name="dbt build")
    assert cause_of(None, silent, "Out of\nmemory.") == "step 4, dbt build: Out of memory."
    assert cause_of(None, silent, "") == "step 4, dbt build: its log is empty"


def test_without_steps_the_message_is_the_cause() -> None:
    assert cause_of(None, None, "Clone failed.") == "Clone failed."
    assert cause_of(None, None, "") == ""
