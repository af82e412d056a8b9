"""Every way to run a task again: dbt runs again exactly when Airflow's own words say that the task does.

All ways go on side by side, for each takes most of its time waiting. `AGAIN` is the table of docs/airflow.md.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.airflow.rig import Rig
from tests.airflow.tiers import chosen, thorough
from tests.stack import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(1500)]

SECONDS: Final = 900.0
"""For what goes on beside fifteen others."""
BURSTS: Final = int(os.environ.get("BURSTS", "1"))
"""How often twelve tasks are deferred at once, on runs of seconds."""
Counts = dict[str, int]
Way = Callable[[Rig], Awaitable[Counts]]
WAYS: Final[dict[str, tuple[Way, Counts]]] = {}
MARKS: Final[dict[str, tuple[pytest.MarkDecorator, ...]]] = {}


def way(*, runs: Counts, brief: bool = False) -> Callable[[Way], Way]:
    """A way to run tasks again.

    Args:
        runs: how many dbt runs each of its tasks, or DAG runs, has made in the end.
        brief: whether `make test` tries it.
    """

    def add(act: Way) -> Way:
        WAYS[act.__name__] = (act, runs)
        MARKS[act.__name__] = () if brief else (thorough,)
        return act

    return add


async def started(rig: Rig, dag_id: str, run_id: str = "again", ends: str = "success") -> None:
    """A DAG run under a run id of its own choice, once it is over. It must end so."""
    await rig.airflow.desk.trigger(dag_id, run_id, {})
    ended = await rig.airflow.until_run(dag_id, run_id, seconds=SECONDS)
    assert ended == ends, await told(rig, dag_id, run_id)


async def told(rig: Rig, dag_id: str, run_id: str) -> str:
    """What Airflow says of the tasks of a DAG run."""
    tasks = [(row["task_id"], row["state"], row["try_number"]) for row in rig.airflow.tasks(dag_id, run_id)]
    logs = [rig.airflow.log(dag_id, run_id, task_id)[-2000:] for task_id in sorted({task_id for task_id, *_ in tasks})]
    scheduler = [line for line in (await rig.airflow.scheduler_log()).splitlines() if dag_id in line]
    return "\n".join((f"{dag_id} {run_id}: {tasks}", *logs, *scheduler[-20:]))


async def counted(rig: Rig, dag_id: str, *run_ids: str, by: str = "task-id") -> Counts:
    """How many dbt runs there are by task, map index or DAG run."""
    counts: Counter[str] = Counter()
    for item, runs in await rig.dbt_runs_of(dag_id):
        notes = item["metadata"]["annotations"]
        if not run_ids or notes["airflow.dbtrun.dev/run-id"] in run_ids:
            counts[notes[f"airflow.dbtrun.dev/{by}"]] += len(runs)
    return dict(counts)


async def again(
    rig: Rig, dag_id: str, task_id: str, tries: int = 2, map_index: int = -1, run_id: str = "again"
) -> None:
    """Waits until the task succeeded in its `tries`-th try."""

    async def there() -> bool:
        rows = [
            row
            for row in rig.airflow.tasks(dag_id, run_id)
            if (row["task_id"], row["map_index"]) == (task_id, map_index)
        ]
        return any(row["state"] == "success" and row["try_number"] >= tries for row in rows)

    await until(there, SECONDS, f"{dag_id} {run_id} {task_id} again", pause=1)
    await rig.airflow.until_run(dag_id, run_id, seconds=SECONDS)


async def cleared(rig: Rig, dag_id: str) -> Counts:
    await started(rig, dag_id)
    await rig.airflow.desk.clear(dag_id, "again", "job")
    await again(rig, dag_id, "job")
    return await counted(rig, dag_id)


@way(runs={"job": 2}, brief=True)
async def a_retry_after_a_failure(rig: Rig) -> Counts:
    await started(rig, "rerun_failed", ends="failed")
    return await counted(rig, "rerun_failed")


@way(runs={"job": 2})
async def cleared_after_its_success(rig: Rig) -> Counts:
    return await cleared(rig, "rerun_cleared")


@way(runs={"job": 2}, brief=True)
async def a_deferred_task_cleared_after_its_success(rig: Rig) -> Counts:
    return await cleared(rig, "rerun_deferred")


@way(runs={"job": 2})
async def cleared_when_it_was_not_waited_for(rig: Rig) -> Counts:
    return await cleared(rig, "rerun_not_waited_for")


@way(runs={"first": 1, "job": 2, "last": 2})
async def cleared_with_downstream(rig: Rig) -> Counts:
    await started(rig, "rerun_downstream")
    await rig.airflow.desk.clear("rerun_downstream", "again", "job", downstream=True)
    await again(rig, "rerun_downstream", "last")
    return await counted(rig, "rerun_downstream")


@way(runs={"2026-01-01": 2, "2026-01-02": 3, "2026-01-03": 2})
async def cleared_with_past_and_with_future(rig: Rig) -> Counts:
    dag_id = "rerun_by_date"
    await rig.airflow.desk.unpause(dag_id)
    runs = [f"scheduled__2026-01-0{day}T00:00:00+00:00" for day in (1, 2, 3)]
    for run_id in runs:
        await over(rig, dag_id, run_id)
    await rig.airflow.desk.clear(dag_id, runs[1], "job", past=True)
    await asyncio.gather(*(again(rig, dag_id, "job", run_id=run_id) for run_id in runs[:2]))
    await rig.airflow.desk.clear(dag_id, runs[1], "job", future=True)
    await asyncio.gather(again(rig, dag_id, "job", tries=3, run_id=runs[1]), again(rig, dag_id, "job", run_id=runs[2]))
    return {run_id[11:21]: count for run_id, count in (await counted(rig, dag_id, by="run-id")).items()}


async def over(rig: Rig, dag_id: str, run_id: str) -> None:
    """Waits until a DAG run that the scheduler creates is over."""

    async def there() -> bool:
        rows = rig.airflow.rows("select state from dag_run where dag_id = %s and run_id = %s", dag_id, run_id)
        return bool(rows) and rows[0]["state"] == "success"

    await until(there, SECONDS, f"{dag_id} {run_id} over", pause=1)


@way(runs={"job": 2}, brief=True)
async def its_dag_run_cleared(rig: Rig) -> Counts:
    await started(rig, "rerun_run_cleared")
    await rig.airflow.desk.clear("rerun_run_cleared", "again")
    await again(rig, "rerun_run_cleared", "job")
    return await counted(rig, "rerun_run_cleared")


@way(runs={"job": 2}, brief=True)
async def its_dag_run_deleted_and_created_again(rig: Rig) -> Counts:
    await started(rig, "rerun_created_again")
    await rig.airflow.until_forgettable("rerun_created_again", "again", seconds=SECONDS)
    await rig.airflow.desk.delete_run("rerun_created_again", "again")
    await started(rig, "rerun_created_again")
    return await counted(rig, "rerun_created_again")


@way(runs={"2026-01-01": 2, "2026-01-02": 2})
async def its_dag_deleted_and_caught_up_again(rig: Rig) -> Counts:
    dag_id = "rerun_caught_up"
    runs = [f"scheduled__2026-01-0{day}T00:00:00+00:00" for day in (1, 2)]
    await rig.airflow.desk.unpause(dag_id)
    for run_id in runs:
        await over(rig, dag_id, run_id)
        await rig.airflow.until_forgettable(dag_id, run_id, seconds=SECONDS)
    await rig.airflow.command("dags", "delete", "-y", dag_id)
    await rig.airflow.parsed_again(dag_id)
    await rig.airflow.desk.unpause(dag_id)
    for run_id in runs:
        await over(rig, dag_id, run_id)
    return {run_id[11:21]: count for run_id, count in (await counted(rig, dag_id, by="run-id")).items()}


@way(runs={"job": 2})
async def its_dag_deleted_and_triggered_again(rig: Rig) -> Counts:
    await started(rig, "rerun_deleted")
    await rig.airflow.until_forgettable("rerun_deleted", "again", seconds=SECONDS)
    await rig.airflow.command("dags", "delete", "-y", "rerun_deleted")
    await rig.airflow.parsed_again("rerun_deleted")
    await started(rig, "rerun_deleted")
    return await counted(rig, "rerun_deleted")


@way(runs={"job": 2})
async def backfilled_with_reprocessing(rig: Rig) -> Counts:
    await rig.airflow.desk.backfill("rerun_backfilled", "2026-01-01")
    await rig.airflow.desk.backfill("rerun_backfilled", "2026-01-01")

    async def twice() -> bool:
        rows = rig.airflow.rows("select * from task_instance where dag_id = %s and task_id = 'job'", "rerun_backfilled")
        return any(row["state"] == "success" and row["try_number"] >= 2 for row in rows)

    await until(twice, SECONDS, "a second backfill", pause=1)
    return await counted(rig, "rerun_backfilled")


@way(runs={"job": 2})
async def triggered_with_reset_dag_run(rig: Rig) -> Counts:
    for number in (1, 2):
        await started(rig, "rerun_reset_parent", f"p{number}")
    return await counted(rig, "rerun_reset", "again")


@way(runs={"0": 2, "1": 2, "2": 1}, brief=True)
async def mapped_tasks_cleared_when_there_are_fewer(rig: Rig) -> Counts:
    await started(rig, "rerun_mapped")
    reshape(rig, length=2)
    await rig.airflow.desk.clear("rerun_mapped", "again")
    for index in (0, 1):
        await again(rig, "rerun_mapped", "job", map_index=index)
    counts = await counted(rig, "rerun_mapped", by="map-index")
    # Airflow 2.11 on a busy machine was observed to run the third again before it removed it: dbt then runs again, too.
    for row in rig.airflow.tasks("rerun_mapped", "again"):
        if (row["map_index"], row["state"]) == (2, "success"):
            counts["2"] -= row["try_number"] - 1
    return counts


@way(runs={"up": 2, "down": 2})
async def setup_and_teardown_cleared(rig: Rig) -> Counts:
    await started(rig, "rerun_torn_down")
    await rig.airflow.desk.clear("rerun_torn_down", "again")
    await again(rig, "rerun_torn_down", "down")
    return await counted(rig, "rerun_torn_down")


def reshape(rig: Rig, **shape: int) -> None:
    """Changes what the DAGs read of their shape."""
    path = Path(rig.airflow.env["DBTRUN_TEST_FOLDER"]) / "shape.json"
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | shape))


CHANGED: Final = {"raised": 5, "lowered": 1, "set_to_0": 0}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def retries_changed(rig: Rig) -> None:
    """Tasks whose DAG has other `retries` than when they succeeded. For all of them the DAGs are parsed once more."""
    await asyncio.gather(*(started(rig, f"rerun_{name}") for name in CHANGED))
    reshape(rig, **CHANGED)
    await rig.airflow.parsed_again("rerun_lowered")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def reruns(request: pytest.FixtureRequest, rig: Rig) -> dict[str, Counts | BaseException]:
    """What came of each way of which there is a test."""
    ways = chosen(request, "name", "exactly_when")

    async def kept() -> None:
        while True:
            rig.airflow.keep("scheduler")
            await asyncio.sleep(2)

    keeper = asyncio.create_task(kept())
    try:
        found = await asyncio.gather(*(WAYS[name][0](rig) for name in ways), return_exceptions=True)
    finally:
        keeper.cancel()
    return dict(zip(ways, found, strict=True))


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS[name]) for name in WAYS])
async def test_dbt_runs_again_exactly_when_airflow_runs_the_task_again(
    reruns: dict[str, Counts | BaseException], name: str
) -> None:
    found = reruns[name]
    if isinstance(found, BaseException):
        raise found
    assert found == WAYS[name][1]


@thorough
@pytest.mark.parametrize("name", CHANGED)
async def test_a_task_cleared_after_its_retries_were_changed_runs_again(
    rig: Rig, reruns: object, retries_changed: None, name: str
) -> None:
    await rig.airflow.desk.clear(f"rerun_{name}", "again", "job")
    await again(rig, f"rerun_{name}", "job")
    assert await counted(rig, f"rerun_{name}") == {"job": 2}


@thorough
async def test_runs_of_seconds_do_not_meet_airflows_race(rig: Rig, reruns: object) -> None:
    """Twelve deferred tasks without a retry, on runs of one to four seconds."""
    for number in range(BURSTS):
        run_id = f"burst-{number}"
        await started(rig, "burst", run_id)
        states = Counter(row["state"] for row in rig.airflow.tasks("burst", run_id))
        assert states == {"success": 12}
    assert await counted(rig, "burst") == {"job": 12 * BURSTS}


# Last, for it ends what other tests of this file look at.
@thorough
async def test_a_database_that_was_reset_knows_no_run_of_before(
    rig: Rig, reruns: object, retries_changed: None
) -> None:
    dag_id, run_id = "rerun_cleared", "kept"
    await started(rig, dag_id, run_id)
    await rig.airflow.reset()
    await started(rig, dag_id, run_id)
    assert await counted(rig, dag_id, run_id) == {"job": 2}
