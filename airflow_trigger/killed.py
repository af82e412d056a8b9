"""Whether a trigger was stopped because somebody ended its task, or only to run it elsewhere.

Airflow does not say. A triggerer that was frozen and comes back finds its triggers with another one and stops them in
the same way as if their tasks had been marked failed. The task's state in Airflow tells the two apart.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

DEFERRED: Final = "deferred"


async def still_deferred(task: Mapping[str, Any]) -> bool:
    """Whether the task instance waits for a trigger. True also when nobody can tell: a doubt cancels nothing."""
    try:
        # Not asyncio.to_thread: Airflow's own calls find the way back to this loop only from asgiref's threads.
        return await sync_to_async(_state)(task) == DEFERRED
    except Exception:
        log.warning("The task's state cannot be read, so its run is not cancelled.", exc_info=True)
        return True


def _state(task: Mapping[str, Any]) -> str | None:
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:
        return _state_in_database(task)
    states = RuntimeTaskInstance.get_task_states(
        dag_id=task["dag_id"], run_ids=[task["run_id"]], task_ids=[task["task_id"]], map_index=task["map_index"]
    )
    return next(iter(states.get(task["run_id"], {}).values()), None)


def _state_in_database(task: Mapping[str, Any]) -> str | None:
    """Airflow 2, where a triggerer has the database."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    ids = {key: task[key] for key in ("dag_id", "run_id", "task_id", "map_index")}
    with create_session() as session:
        state: str | None = session.query(TaskInstance.state).filter_by(**ids).scalar()
        return state
