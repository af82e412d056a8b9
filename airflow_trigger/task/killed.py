"""Whether a task was ended by somebody, or only the process in which it runs or waits.

Airflow does not say. A worker gets the same SIGTERM when its task was marked as failed and when its pod is evicted. A
triggerer that was frozen and comes back finds its triggers with another one and stops them in the same way as if their
tasks had been marked failed. The task's state in Airflow tells the two apart.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from concurrent.futures import Future
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import AirflowTaskTimeout
from asgiref.sync import sync_to_async

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

DEFERRED: Final = "deferred"
ASK_SECONDS: Final = 3.0
"""How long a worker waits for the task's state. Airflow 3 sends SIGKILL 5 s after its own SIGTERM, and the cancel needs
some of them."""
COMMS: Final = "airflow.sdk.execution_time.comms"
"""Where a task of Airflow 3 waits for an answer of its supervisor."""


class Cause(Enum):
    """Why a worker ends the process of a task."""

    ENDED = "the task was ended: marked, cleared, or ended with its DAG run"
    LIMIT = "execution_timeout passed"
    LOST = "only the process ends: for Airflow the try still runs"
    GIVEN_UP = "Airflow has given up this try, and the next one follows"
    UNKNOWN = "Airflow does not say"


CAUSES: Final[dict[str | None, Cause]] = {
    "running": Cause.LOST,
    "up_for_retry": Cause.GIVEN_UP,
    "scheduled": Cause.GIVEN_UP,
    "queued": Cause.GIVEN_UP,
    "deferred": Cause.GIVEN_UP,
    "up_for_reschedule": Cause.GIVEN_UP,
    "awaiting_input": Cause.GIVEN_UP,
    None: Cause.ENDED,
    "restarting": Cause.ENDED,
    "removed": Cause.ENDED,
    "success": Cause.ENDED,
    "failed": Cause.ENDED,
    "skipped": Cause.ENDED,
    "upstream_failed": Cause.ENDED,
}
"""By the state that the task has in Airflow while its process is being ended; None also if its DAG run is gone."""


def cause_of(state: str | None) -> Cause:
    """What the task's state in Airflow says about the end of its process."""
    return CAUSES.get(state, Cause.UNKNOWN)


def ends_the_run(cause: Cause, *, is_last: bool) -> bool:
    """Whether nobody waits for the run any more. `is_last`: no try follows by itself."""
    match cause:
        case Cause.LOST | Cause.UNKNOWN:
            # Who ends a task by hand reaches its worker through an answer of Airflow. So if Airflow does not answer,
            # it is away, and the worker has given the task up.
            return is_last
        case Cause.GIVEN_UP:
            return False
        case Cause.ENDED | Cause.LIMIT:
            return True


def why_killed(task: Mapping[str, Any], seconds: float = ASK_SECONDS) -> Cause:
    """Why the process of this task is being ended; for `on_kill`, which may run inside a signal.

    It asks in another thread and waits no longer than `seconds`: what the signal has interrupted may hold the lock that
    the question needs.
    """
    if isinstance(sys.exception(), AirflowTaskTimeout):
        return Cause.LIMIT
    # This thread waits for an answer of Airflow's: another thread's question would deadlock, or get that answer.
    if any(frame.f_globals.get("__name__") == COMMS for frame, _ in traceback.walk_stack(None)):
        log.warning(
            "The signal came while the task waited for an answer of Airflow, so Airflow cannot be asked for the reason."
        )
        return Cause.UNKNOWN
    try:
        return cause_of(_within(seconds, lambda: _state(task)))
    except (EOFError, ConnectionError):
        # The supervisor outlives its task, except when both are killed from outside. Who ends a task by hand does it
        # through the supervisor.
        return Cause.LOST
    except Exception:
        log.warning("Airflow does not say why the task is ended.", exc_info=True)
        return Cause.UNKNOWN


def _within(seconds: float, ask: Callable[[], str | None]) -> str | None:
    answer: Future[str | None] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - the thread that waits gets it
            answer.set_exception(error)

    threading.Thread(target=run, name="dbtrun-why", daemon=True).start()
    return answer.result(seconds)


class Standing(Enum):
    """What became of a task whose trigger is being stopped."""

    WAITS = "it is deferred, or Airflow does not say, so the run is not cancelled"
    GOES_ON = "it was resumed, or another try follows"
    ENDED = "it was marked, or ended with its DAG run"


async def standing_of(task: Mapping[str, Any]) -> Standing:
    """What Airflow says of the task instance now."""
    try:
        # Not asyncio.to_thread: Airflow's own calls find the way back to this loop only from asgiref's threads.
        state = await sync_to_async(_state)(task)
    except Exception:
        log.warning("The task's state cannot be read, so its run is not cancelled.", exc_info=True)
        return Standing.WAITS
    if state == DEFERRED:
        # After a clear, the next try may be deferred by now (observed in 3.3). Nothing is cancelled for this one then:
        # the next try finds the object and decides.
        return Standing.WAITS
    return Standing.ENDED if cause_of(state) is Cause.ENDED else Standing.GOES_ON


def _state(task: Mapping[str, Any]) -> str | None:
    try:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    except ImportError:
        # Airflow 2, where a triggerer has the database.
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session

        ids = {key: task[key] for key in ("dag_id", "run_id", "task_id", "map_index")}
        with create_session() as session:
            state: str | None = session.query(TaskInstance.state).filter_by(**ids).scalar()
            return state
    states = RuntimeTaskInstance.get_task_states(
        dag_id=task["dag_id"], run_ids=[task["run_id"]], task_ids=[task["task_id"]], map_index=task["map_index"]
    )
    return next(iter(states.get(task["run_id"], {}).values()), None)
