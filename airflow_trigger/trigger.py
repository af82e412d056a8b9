"""The trigger that waits for a DbtRun without polling anything.

It looks up no Airflow connection and holds no dbt Cloud token: the watcher has that. Airflow stops a trigger when a
person ended its task, but also to move it to another triggerer: only the first cancels the run (see killed.py).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_trigger import event
from airflow_trigger.cluster import (
    REQUEST_SECONDS,
    ClusterConfig,
    ClusterError,
    NotFound,
    Rejected,
    clusters,
    own_namespace,
)
from airflow_trigger.dbtruns import DbtRuns
from airflow_trigger.event import Payload, Subject
from airflow_trigger.follow import CREATE, WAIT, Follower, Todo
from airflow_trigger.hub import DEFAULT_PACE, Pace, subscribe
from airflow_trigger.killed import still_deferred
from airflow_trigger.manifest import number
from airflow_trigger.naming import DEFAULT_CONN_ID, adopted_name, connection_name
from airflow_trigger.objects import Gone, Seen
from airflow_trigger.taskruns import HttpTaskRuns, Patiently, TaskRuns, cancel
from watcher.api import API_VERSION, KIND, ConnectionRef, Spec, to_wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_trigger.objects import Run, State

MIN_POLL_SECONDS: Final = 5
MAX_POLL_SECONDS: Final = 3_600
ADOPTED_TTL_SECONDS: Final = 86_400
"""An adopted run's object outlives the longest time that Airflow may take to resume a task, then cleans itself up."""
DENIED_GRACE_SECONDS: Final = 60.0
CANCEL_SECONDS: Final = 60.0
"""How long an API server that does not answer is asked to cancel."""

log = logging.getLogger(__name__)
_endings: Final[set[asyncio.Task[bool]]] = set()
"""A loop alone would let them be collected."""


class DbtRunTrigger(BaseTrigger):
    """Waits for a dbt Cloud run and fires one event when it is over, or when the wait is.

    With `name` it waits for that DbtRun. With a `run_id` alone it adopts the run: it creates a DbtRun that follows it,
    or joins the one that another trigger made.

    :param conn_id: `dbt_cloud_default` is the watcher's default connection; any other id names the connection Secret in
        the namespace, in lower case and with `-` for `_`.
    :param run_id: the dbt Cloud run.
    :param end_time: the instant, in seconds since the epoch, after which the event is `timeout`; None: none. The run is
        not cancelled.
    :param poll_interval: seconds between the watcher's looks at an adopted run, brought into 5…3600.
    :param account_id: the dbt Cloud account, checked against the connection's.
    :param name: the DbtRun to wait for.
    :param namespace: where it is; default: the pod's own, else `default`.
    :param in_cluster: use the pod's ServiceAccount only.
    :param config_file: a kubeconfig, read where the trigger runs; without it the pod's ServiceAccount is used.
    :param cluster_context: the kubeconfig's context; default: its current one.
    :param start_time: when the wait began, in seconds since the epoch; default: now.
    :param cancel_for: the task instance (`dag_id`, `run_id`, `task_id`, `map_index`, `try_number`) whose end by hand
        cancels the run; None: nothing does.
    :param denied_grace: seconds for which Kubernetes may refuse access before the event is `error`.

    Raises:
        ValueError: an argument cannot be used; the sentence names it.
    """

    pace: ClassVar[Pace] = DEFAULT_PACE
    """How patient the shared watch is."""

    def __init__(
        self,
        conn_id: str = DEFAULT_CONN_ID,
        run_id: int | None = None,
        end_time: float | None = None,
        poll_interval: float = 60.0,
        account_id: int | None = None,
        *,
        name: str | None = None,
        namespace: str | None = None,
        in_cluster: bool | None = None,
        config_file: str | None = None,
        cluster_context: str | None = None,
        start_time: float | None = None,
        denied_grace: float = DENIED_GRACE_SECONDS,
        cancel_for: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.run_id = number("run_id", run_id)
        if self.run_id is None and name is None:
            raise ValueError("DbtRunTrigger needs run_id, or the name of a DbtRun")
        self.end_time = end_time
        self.poll_interval = poll_interval
        self.account_id = number("account_id", account_id)
        self.name = name
        self.namespace = namespace or own_namespace()
        self.in_cluster = in_cluster
        self.config_file = config_file
        self.cluster_context = cluster_context
        self.start_time = time.time() if start_time is None else start_time
        self.denied_grace = denied_grace
        self.cancel_for = cancel_for
        self._fired = False
        self._connection = connection_name(conn_id) if name is None else None
        self._cluster = ClusterConfig(in_cluster, config_file, cluster_context)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and JSON primitives that make the same trigger elsewhere."""
        fields = (
            "conn_id", "run_id", "end_time", "poll_interval", "account_id", "name", "namespace", "in_cluster",
            "config_file", "cluster_context", "start_time", "denied_grace",
        )  # fmt: skip
        stored = {field: getattr(self, field) for field in fields}
        if self.cancel_for is not None:
            stored["cancel_for"] = self.cancel_for
        return f"{type(self).__module__}.{type(self).__qualname__}", stored

    @property
    def object_name(self) -> str:
        """The DbtRun that is waited for."""
        if self.name is not None:
            return self.name
        assert self.run_id is not None  # noqa: S101 - the constructor saw to it
        return adopted_name(self.run_id, self._connection)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields exactly one event."""
        outcome = await self._outcome()
        self._fired = True
        yield TriggerEvent(dict(outcome))  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Airflow 3.3 and later stopped the trigger without an event: if the task was ended by hand, so is the run.

        Airflow waits 30 s, and a triggerer's first question about a task may take longer: it goes on beyond.
        """
        # An empty context: what is said after Airflow gave up would go to a log that is closed.
        ending = asyncio.get_running_loop().create_task(self._end(), context=contextvars.Context())
        _endings.add(ending)
        ending.add_done_callback(_endings.discard)
        if await asyncio.shield(ending):
            self.log.info("The task was ended by hand: DbtRun %s is being cancelled.", self.object_name)

    async def cleanup(self) -> None:
        """Before Airflow 3.3 this is all that is called, also when the triggerer stops."""
        if not hasattr(BaseTrigger, "on_kill"):
            await self.on_kill()

    async def _is_waited_for(self, task: dict[str, Any]) -> bool:
        """Whether the run may still be wanted: the task is deferred, or only the wait is over, or nobody knows."""
        if self._fired:
            return True
        if self.end_time is not None and self.end_time <= time.time():
            return True
        return await self.still_deferred(task)

    async def _end(self) -> bool:
        """Cancels the run if nobody wants it any more; whether it did."""
        if self.cancel_for is None or await self._is_waited_for(self.cancel_for):
            return False
        try:
            async with self.task_runs() as connection:
                runs = Patiently(connection, CANCEL_SECONDS)
                return await cancel(runs, await runs.get(self.object_name), self.cancel_for["try_number"])
        except NotFound:
            return False
        except ClusterError as error:
            log.warning("DbtRun %s could not be cancelled, it ends by its active deadline: %s", self.object_name, error)
            return False

    still_deferred = staticmethod(still_deferred)
    """Asks Airflow. This and the next are seams where tests put their own."""

    @asynccontextmanager
    async def task_runs(self) -> AsyncIterator[TaskRuns]:
        """The namespace's DbtRuns, over the connection that all triggers share."""
        async with clusters.lease(self._cluster) as cluster:
            yield HttpTaskRuns(cluster, self.namespace)

    async def is_still_running(self) -> bool:
        """Whether the DbtRun is there and not over, by one look at it.

        Raises:
            ClusterError: it cannot be told.
        """
        try:
            return not (await self._look()).final
        except NotFound:
            return False

    async def _outcome(self) -> Payload:
        subject = Subject(self.namespace, self.object_name, self.run_id)
        follower = Follower(subject, self.run_id if self.name is None else None, self.denied_grace)
        deadline = asyncio.timeout(None if self.end_time is None else self.end_time - time.time())
        try:
            async with deadline:
                return await self._follow(follower)
        except Rejected as error:
            return event.not_accepted(subject, str(error))
        except TimeoutError:
            return await self._last_look(follower)

    async def _follow(self, follower: Follower) -> Payload:
        clock = asyncio.get_running_loop().time
        async with subscribe(self._cluster, self.namespace, self.object_name, self.pace) as states:
            async for state in states:
                verdict = follower.judge(state, clock())
                if verdict is CREATE:
                    await states.create(self.manifest())
                elif not isinstance(verdict, Todo):
                    return verdict
        raise AssertionError("a subscription has no end")

    async def _last_look(self, follower: Follower) -> Payload:
        """The watch may lag: a run that ended just before the end time did end."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                verdict = follower.judge(await self._state(), 0.0)
        except (ClusterError, TimeoutError):
            verdict = WAIT
        if not isinstance(verdict, Todo):
            return verdict
        return event.waited_too_long(follower.subject, follower.last, (self.end_time or 0.0) - self.start_time)

    async def _state(self) -> State:
        try:
            return Seen(await self._look())
        except NotFound:
            return Gone()

    async def _look(self) -> Run:
        async with clusters.lease(self._cluster) as cluster:
            return await DbtRuns(cluster, self.namespace).get(self.object_name)

    def manifest(self) -> dict[str, Any]:
        """The DbtRun that follows a run which exists already."""
        spec = Spec(
            connection_ref=None if self._connection is None else ConnectionRef(name=self._connection),
            run_id=self.run_id,
            account_id=self.account_id,
            poll_interval_seconds=min(max(round(self.poll_interval), MIN_POLL_SECONDS), MAX_POLL_SECONDS),
            ttl_seconds_after_finished=ADOPTED_TTL_SECONDS,
        )
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.object_name, "labels": {"app.kubernetes.io/managed-by": "airflow"}},
            "spec": to_wire(spec),
        }
