"""kill -9 of a task's process at the worst instants: dbt Cloud sees one run, Airflow its true end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.airflow.rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="session")


def kills(rig: Rig, dag_id: str) -> Counter[str]:
    """How many processes of the DAG were killed, by the try."""
    folder = Path(rig.airflow.env["DBTRUN_TEST_FOLDER"])
    return Counter(path.name.rpartition("-")[2] for path in folder.glob(f"kill-{dag_id}-*"))


async def test_fifty_kills_start_no_second_run_and_every_task_ends_as_dbt_did(rig: Rig) -> None:
    run = await rig.airflow.trigger("killed_often")
    await rig.airflow.until_all("killed_often", run, "deferred", 25, tries=2)
    ends = [10] * 20 + [20] * 5
    await rig.finish("killed_often", run, *ends)
    await rig.airflow.until_run("killed_often", run, seconds=280)
    assert kills(rig, "killed_often") == {"1": 25, "2": 25}
    assert await rig.dbt_statuses("killed_often", run) == ends
    states = {task["map_index"]: task["state"] for task in rig.airflow.tasks("killed_often", run)}
    assert states == dict.fromkeys(range(20), "success") | dict.fromkeys(range(20, 25), "failed")
