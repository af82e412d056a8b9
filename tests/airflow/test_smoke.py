"""The trigger alone, in a real triggerer."""

from __future__ import annotations

import pytest

from tests.airflow.rig import Rig
from tests.stack import dbt_run

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_deferred_task_ends_as_its_run_succeeds(rig: Rig) -> None:
    await rig.stack.apply(dbt_run("smoke-success", "endless"))
    run = await rig.airflow.trigger("smoke", {"name": "smoke-success"})
    await rig.airflow.until_state("smoke", run, "wait", "deferred")
    await rig.airflow.until_settled("smoke", run)
    status = await rig.stack.reaches("smoke-success", "Running")
    await rig.stack.ask("POST", f"/runs/{status['runId']}/finish", {"status": 10})
    await rig.airflow.until_state("smoke", run, "wait", "success")
    assert await rig.airflow.desk.xcom("smoke", run, "wait") == status["runId"]


async def test_a_deferred_task_fails_as_its_run_fails_and_its_log_says_why(rig: Rig) -> None:
    await rig.stack.apply(dbt_run("smoke-failure", "failure"))
    run = await rig.airflow.trigger("smoke", {"name": "smoke-failure"})
    await rig.airflow.until_state("smoke", run, "wait", "failed")
    assert "has failed (1 failed node)" in rig.airflow.log("smoke", run, "wait")
