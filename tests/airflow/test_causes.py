"""Eight ways for a run to fail: the task's log, the callback and the XCom say why."""

from __future__ import annotations

import pytest

from tests.airflow.rig import Rig
from tests.causes import CAUSES, jobs
from tests.stack import until

FIRST = 501
FAILED_NODES = {
    "model": ["model.shop.orders"],
    "test": ["test.shop.not_null_orders_id"],
    "freshness": ["source.shop.raw.orders"],
}

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_log_the_callback_and_the_xcom_tell_the_cause(rig: Rig) -> None:
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


async def test_a_mistyped_connection_is_in_the_log_while_the_task_waits(rig: Rig) -> None:
    run = await rig.airflow.trigger("mistyped")
    await rig.airflow.until_state("mistyped", run, "job", "deferred")

    async def told() -> bool:
        log = rig.airflow.log("mistyped", run, "job")
        return "(InvalidConnection)" in log and "There is no Secret 'no-such-connection'" in log

    await until(told, 60, "the log names the missing Secret")
    await rig.airflow.desk.mark("mistyped", run, "job", "failed")
