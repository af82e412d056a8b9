"""What is told of a run in a task's log: why it failed or cannot be started, and its steps as they come."""

from __future__ import annotations

import pytest
import pytest_asyncio

from dbtrun.api import WATCHED_ANNOTATION
from tests.airflow.rig import Rig
from tests.causes import CAUSES, jobs
from tests.stack import until

FIRST = 501
FAILED_NODES = {
    "model": ["model.shop.orders"],
    "test": ["test.shop.not_null_orders_id"],
    "freshness": ["source.shop.raw.orders"],
}
UNUSABLE = {
    "job": ("InvalidConnection", "There is no Secret 'no-such-connection'"),
    "refused": ("Unauthorized", "401"),
    "opaque": ("InvalidConnection", "is of type Opaque"),
}
"""Of each task of the DAG: the reason and the words for its connection."""

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mistyped(rig: Rig) -> str:
    """A DAG run of tasks whose connections cannot be used: they wait for half a minute before they are deferred."""
    stack = rig.stack
    await stack.apply(stack.secret("refused", stack.keys("dbtc_" + "0" * 40)))
    await stack.apply(stack.secret("opaque", stack.keys(), kind="Opaque"))
    return await rig.airflow.trigger("mistyped")


async def test_the_log_the_callback_and_the_xcom_tell_the_cause(rig: Rig, mistyped: str) -> None:
    for job in jobs(FIRST):
        await rig.stack.ask("PUT", f"/jobs/{job['id']}", job)
    run = await rig.airflow.trigger("causes")
    for name, cause in CAUSES.items():
        await rig.airflow.until_state("causes", run, name, "failed")
        log = rig.airflow.log("causes", run, name).replace('\\"', '"')  # Airflow 3 writes JSON
        assert cause.words in log, name
        event = await rig.airflow.desk.xcom("causes", run, name, "event")
        assert event["status"] == ("error" if cause.phase == "Failed" else "timeout"), name
        assert cause.words in event["message"], name
        alert = await rig.airflow.desk.xcom("causes", run, name, "alert")
        assert (alert["run_id"], alert["failed"]) == (event["run_id"], FAILED_NODES.get(name, [])), name
        assert alert["log_lines"] > 0, name


async def test_a_connection_that_cannot_be_used_is_in_the_log_while_the_task_waits(rig: Rig, mistyped: str) -> None:
    for task, (reason, words) in UNUSABLE.items():

        async def says(task: str = task, reason: str = reason, words: str = words) -> bool:
            log = rig.airflow.log("mistyped", mistyped, task)
            return f"({reason})" in log and words in log

        await until(says, 240, f"the log of {task} says {words}", pause=0.2)
        await rig.airflow.until_state("mistyped", mistyped, task, "deferred")
        await rig.airflow.desk.mark("mistyped", mistyped, task, "failed")


async def test_the_steps_are_in_the_log_of_a_deferred_task_that_asks_for_them(rig: Rig) -> None:
    run = await rig.waiting("reading")

    async def told() -> bool:
        return "Step 1: " in rig.airflow.log("reading", run, "job")

    await until(told, 120, "the log has the first step")
    (watched,) = (await rig.stack.json("get", "dr", "-l", "airflow.dbtrun.dev/dag-id=reading"))["items"]
    assert WATCHED_ANNOTATION in watched["metadata"]["annotations"]
    await rig.airflow.desk.mark("reading", run, "job", "failed")
