"""The DbtRuns of a task as a worker reads and changes them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from airflow_trigger.task.attempts import Attach, Await, Create, Replace, Use, choose
from airflow_trigger.task.identity import CONSUMED, WAITING_TRY, Mark, Try
from airflow_trigger.task.run import TaskRun, TaskSpec
from dbtrun.api import Reason
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.connect import connect
from dbtrun.kube.errors import AlreadyExists, Conflict, Unreachable
from dbtrun.kube.retry import patiently
from dbtrun.kube.runs import DbtRuns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from dbtrun.kube.cluster import Cluster

PAGE: Final = 500
FIRST_LOOK: Final = 0.2
LONGEST_LOOK: Final = 2.0
LOOKS: Final = 20
QUIET_SECONDS: Final = 1.5
"""A healthy start takes less: until then, that an object has no run yet is not worth a line in the log."""


class TaskRuns(Protocol):
    """What a task needs of a namespace's DbtRuns: the seam where tests put their own.

    Every method raises KubeError of the kind that says what can be done.
    """

    async def list(self, labels: str = "", fields: str = "") -> Sequence[TaskRun]: ...

    async def get(self, name: str) -> TaskRun: ...

    async def create(self, body: Mapping[str, Any]) -> TaskRun: ...

    async def patch(self, name: str, body: Mapping[str, Any]) -> TaskRun: ...


def task_runs(cluster: Cluster, namespace: str) -> DbtRuns[TaskRun]:
    """TaskRuns of a real API server."""
    return DbtRuns(cluster, namespace, read, page=PAGE)


read: Final = msgspec.json.Decoder(TaskRun).decode


@asynccontextmanager
async def connected(config: ClusterConfig, namespace: str) -> AsyncIterator[TaskRuns]:
    """The DbtRuns of a namespace over a connection of their own."""
    async with connect(config) as cluster:
        yield task_runs(cluster, namespace)


class Patiently:
    """TaskRuns that wait for an API server which does not answer, for up to `seconds` a request.

    Asking again is safe: names are settled before, so a second create meets the first, and patches say what shall be.
    """

    def __init__(self, runs: TaskRuns, seconds: float) -> None:
        self._runs = runs
        self._seconds = seconds

    async def list(self, labels: str = "", fields: str = "") -> Sequence[TaskRun]:
        """As TaskRuns."""
        return await patiently(lambda: self._runs.list(labels, fields), self._seconds)

    async def get(self, name: str) -> TaskRun:
        """As TaskRuns."""
        return await patiently(lambda: self._runs.get(name), self._seconds)

    async def create(self, body: Mapping[str, Any]) -> TaskRun:
        """As TaskRuns."""
        return await patiently(lambda: self._runs.create(body), self._seconds)

    async def patch(self, name: str, body: Mapping[str, Any]) -> TaskRun:
        """As TaskRuns."""
        return await patiently(lambda: self._runs.patch(name, body), self._seconds)


async def take_over(runs: TaskRuns, run: TaskRun, attempt: Try) -> TaskRun | None:
    """Writes on the object that this try waits for it; None if it changed meanwhile.

    The version makes it either before or after a cancel on behalf of an older try, never both.
    """
    if run.waiting == attempt.mark:
        return run
    metadata = {"resourceVersion": run.metadata.resource_version, "annotations": {WAITING_TRY: str(attempt.mark)}}
    try:
        return await runs.patch(run.name, {"metadata": metadata})
    except Conflict:
        return None


async def cancel(runs: TaskRuns, run: TaskRun, mark: Mark) -> bool:
    """Cancels it on behalf of the try that `mark` names; False if it is over, or no longer that try's."""
    while not (run.final or run.unwanted or run.consumed) and mark.follows(run.waiting):
        # By version: between the look and the cancel, a later try may have taken the object on.
        if await end(runs, run):
            return True
        run = await runs.get(run.name)
    return False


async def end(runs: TaskRuns, run: TaskRun) -> bool:
    """Asks for its end; False if it changed meanwhile."""
    try:
        await runs.patch(
            run.name, {"metadata": {"resourceVersion": run.metadata.resource_version}, "spec": {"cancel": True}}
        )
    except Conflict:
        return False
    return True


async def consume(runs: TaskRuns, run: TaskRun, attempt: Try, ttl_seconds: int | None) -> None:
    """Records on the object that Airflow gets its outcome now; from here on it is kept for `ttl_seconds` only.

    One that lost sight of its run is kept as it is: it is the proof that the object which follows that run is the
    task's.
    """
    body: dict[str, Any] = {"metadata": {"annotations": {CONSUMED: str(attempt.mark)}}}
    if run.status.reason != Reason.LOST_CONTACT:
        body["spec"] = {"ttlSecondsAfterFinished": ttl_seconds}
    await runs.patch(run.name, body)


async def belonging(
    runs: TaskRuns,
    attempt: Try,
    body: Callable[[Create], Mapping[str, Any]],
    *,
    from_failure: bool = False,
    leaves: bool = False,
) -> Attach | Use | Await:
    """The object of a try: found, taken over, or created. `leaves`: see `choose`.

    Raises:
        KubeError: the kind says what can be done.
    """
    wanted = spec_of(body(Create(attempt.number)))
    above = 0
    last: Create | None = None
    for _ in range(LOOKS):
        # Again after each conflict: the objects of a task also change by its other tries, the watcher and people.
        found = await runs.list(attempt.key.selector)
        choice = choose(found, attempt, wanted, from_failure=from_failure, leaves=leaves, above=above)
        if isinstance(choice, Create):
            if choice == last:
                # Somebody else's object has the name.
                above = choice.number
                last = None
                continue
            last = choice
            with suppress(AlreadyExists):
                return Attach(await runs.create(body(choice)))
        elif isinstance(choice, Attach):
            taken = await take_over(runs, choice.run, attempt)
            if taken is not None:
                return Attach(taken)
        elif isinstance(choice, Replace):
            await end(runs, choice.run)
        else:
            return choice
    raise Unreachable(f"the DbtRuns of {attempt.key.task_id} changed {LOOKS} times while they were looked at")


def spec_of(body: Mapping[str, Any]) -> TaskSpec:
    """The part of an object's `spec` that says what it runs, as it would be read."""
    return msgspec.json.decode(msgspec.json.encode(body["spec"]), type=TaskSpec)


async def submitted(
    runs: TaskRuns, run: TaskRun, seconds: float, waits: Callable[[TaskRun], object] = lambda _run: None
) -> TaskRun:
    """The object once its dbt Cloud run is known or it is over, or as it is after `seconds`.

    Args:
        waits: told at each look of an object that has no run after QUIET_SECONDS.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    ends, pause = began + seconds, FIRST_LOOK
    while run.run_id is None and not run.final and clock() + pause <= ends:
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_LOOK)
        run = await runs.get(run.name)
        if run.run_id is None and clock() - began >= QUIET_SECONDS:
            waits(run)
    return run
