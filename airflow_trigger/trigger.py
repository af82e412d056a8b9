"""The trigger that waits for a DbtRun without polling anything.

It looks up no Airflow connection and holds no dbt Cloud token: the watcher has that. Airflow stops a trigger when a
person ended its task, but also to move it to another triggerer: only the first cancels the run (see task.killed).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_trigger.shared.naming import DEFAULT_CONN_ID
from airflow_trigger.shared.objects import Denied, Gone, Seen
from airflow_trigger.task.identity import Mark
from airflow_trigger.task.killed import Standing, standing_of
from airflow_trigger.task.runs import Patiently, TaskRuns, cancel, task_runs
from airflow_trigger.task.steps import tell_steps
from airflow_trigger.waiting import event
from airflow_trigger.waiting.event import Payload, Subject
from airflow_trigger.waiting.follow import WAIT, Follower, Todo, held
from airflow_trigger.waiting.hub import DEFAULT_PACE, Pace, subscribe
from airflow_trigger.waiting.runs import HubRuns
from airflow_trigger.waiting.waits import DEFAULT_POLL_SECONDS, DENIED_GRACE_SECONDS, Wait, wait_of
from dbtrun.kube.config import own_namespace
from dbtrun.kube.connect import REQUEST_SECONDS, clusters
from dbtrun.kube.errors import Denial, KubeError, NotFound, QuotaExceeded, Rejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from airflow_trigger.shared.objects import Run, State

CANCEL_SECONDS: Final = 60.0
"""How long an API server that does not answer is asked to cancel."""
START_LOOK_SECONDS: Final = 5.0
"""Between looks at an object whose run is to start. Starts are not watched: they would wake every waiter."""
LOOKS: Final = (2.0, 7.0)
"""Seconds after a wait begins at which an object that has no run yet is read again, for the task's log."""

log = logging.getLogger(__name__)
_endings: Final[set[asyncio.Task[bool]]] = set()
"""A loop alone would let them be collected."""


class DbtRunTrigger(BaseTrigger):
    """Waits for a dbt Cloud run, and fires one event when the run ends or the time is up.

    With `name`, it waits for that DbtRun. With only a `run_id`, it creates a DbtRun that follows this run, or uses the
    one that another trigger has created.

    The constructor accepts any value. If it cannot use one, the trigger fires an event with the status `error` and the
    reason `InvalidArgument`. Every argument may be a template of an operator with `start_from_trigger`.

    :param conn_id: `dbt_cloud_default` is the watcher's default connection; any other id names the connection Secret in
        the namespace, in lower case and with `-` for `_`.
    :param run_id: the dbt Cloud run.
    :param end_time: time, in seconds since the epoch, after which the event is `timeout`; None: no limit. The run is
        not cancelled.
    :param poll_interval: seconds between two reads of the run by the watcher, limited to 5…3600.
    :param account_id: the dbt Cloud account, checked against the connection's.
    :param name: the DbtRun to wait for.
    :param namespace: namespace of the DbtRun; default: the pod's own, else `default`.
    :param in_cluster: use the pod's ServiceAccount only.
    :param config_file: a kubeconfig, read where the trigger runs; without it the pod's ServiceAccount is used.
    :param cluster_context: the kubeconfig's context; default: its current one.
    :param start_time: when the wait began, in seconds since the epoch; default: now.
    :param cancel_for: task instance (`dag_id`, `run_id`, `task_id`, `map_index`, `try_number`). If a person ends it,
        the trigger cancels the run; None: the trigger never cancels the run.
    :param denied_grace: seconds for which Kubernetes may refuse access before the event is `error`.
    :param until_started: fire as soon as the dbt Cloud run is known, with status `success`.
    :param log_steps: log each step of the run as it begins and ends. Without the right to patch DbtRuns, this happens
        only every few minutes.
    """

    pace: ClassVar[Pace] = DEFAULT_PACE
    """How patient the shared watch is."""

    def __init__(
        self,
        conn_id: str = DEFAULT_CONN_ID,
        run_id: int | str | None = None,
        end_time: float | None = None,
        poll_interval: float = DEFAULT_POLL_SECONDS,
        account_id: int | str | None = None,
        *,
        name: str | None = None,
        namespace: str | None = None,
        in_cluster: bool | None = None,
        config_file: str | None = None,
        cluster_context: str | None = None,
        start_time: float | None = None,
        denied_grace: float = DENIED_GRACE_SECONDS,
        cancel_for: dict[str, Any] | None = None,
        until_started: bool = False,
        log_steps: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.run_id = run_id
        self.end_time = end_time
        self.poll_interval = poll_interval
        self.account_id = account_id
        self.name = name
        self.namespace = own_namespace() if namespace is None else namespace
        self.in_cluster = in_cluster
        self.config_file = config_file
        self.cluster_context = cluster_context
        self.start_time = time.time() if start_time is None else start_time
        self.denied_grace = denied_grace
        self.cancel_for = cancel_for
        self.until_started = until_started
        self.log_steps = log_steps
        self._was_stored = start_time is not None
        self._fired = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments from which Airflow creates this trigger again."""
        fields = (
            "conn_id", "run_id", "end_time", "poll_interval", "account_id", "name", "namespace", "in_cluster",
            "config_file", "cluster_context", "start_time", "denied_grace",
        )  # fmt: skip
        stored = {field: getattr(self, field) for field in fields}
        # Only when needed: the triggerer may have an older release, which refuses what it does not know.
        if self.cancel_for is not None:
            stored["cancel_for"] = self.cancel_for
        if self.until_started:
            stored["until_started"] = self.until_started
        if self.log_steps:
            stored["log_steps"] = self.log_steps
        return f"{type(self).__module__}.{type(self).__qualname__}", stored

    def plan(self) -> Wait:
        """What the arguments ask for.

        Raises:
            InvalidArgument: one of them cannot be used; the sentence names it.
        """
        return wait_of(self)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields exactly one event."""
        began = time.time()
        outcome = await self.outcome()
        pause = held(self.start_time if self._was_stored else None, began, time.time())
        if pause:
            self.log.info("The event is held for %.1f s, until Airflow knows that the task is deferred.", pause)
            await asyncio.sleep(pause)
        self._fired = True
        yield TriggerEvent(dict(outcome))  # type: ignore[no-untyped-call]

    async def outcome(self) -> Payload:
        """The payload of the event. Errors are reported as a payload too."""
        try:
            return await self._outcome(self.plan())
        except ValueError as error:
            return event.invalid(self._subject(), str(error))
        except Exception:
            log.exception("The trigger failed with an unexpected error")
            return event.broken(self._subject())

    async def on_kill(self) -> None:
        """Airflow 3.3 and later stopped the trigger without an event: if the task was ended by hand, so is the run.

        Airflow waits 30 s for this. A triggerer's first question about a task may take longer; then the work continues.
        """
        # An empty context: what is said after Airflow gave up would go to a log that is closed.
        ending = asyncio.get_running_loop().create_task(self._end(), context=contextvars.Context())
        _endings.add(ending)
        ending.add_done_callback(_endings.discard)
        if await asyncio.shield(ending):
            self.log.info("The task was ended by hand: DbtRun %s is being cancelled.", self.plan().name)

    async def cleanup(self) -> None:
        """Before Airflow 3.3 this is all that is called, also when the triggerer stops."""
        if not hasattr(BaseTrigger, "on_kill"):
            await self.on_kill()

    async def is_still_running(self, hook: object = None) -> bool:
        """Whether the run may still be live, according to its DbtRun.

        True also if there is no DbtRun, because the run may still be live. `hook` is not used.

        Raises:
            InvalidArgument: an argument cannot be used.
            KubeError: Kubernetes does not answer, or refuses.
        """
        try:
            return not (await self._look(self.plan())).final
        except NotFound:
            return True

    # ── stopping ──

    async def _end(self) -> bool:
        """Cancels the run if nobody wants it any more; whether it did."""
        try:
            wait = self.plan()
            if wait.cancel_for is None or self._fired:
                return False
            if wait.end_time is not None and wait.end_time <= time.time():  # the end of the wait ends no run
                return False
            standing = await self.standing_of(wait.cancel_for)
            if standing is Standing.WAITS:
                return False
            async with self.task_runs(wait) as connection:
                runs = Patiently(connection, CANCEL_SECONDS)
                run = await runs.get(wait.name)
                # Another triggerer may have reported the start while this one was frozen: task and run continue.
                # The task is asked about first: before its run is known, no trigger reports a start.
                if standing is Standing.GOES_ON and wait.until_started and run.run_id is not None:
                    return False
                # A task that an older release stored has no mark, only the number of its try.
                mark = Mark.parse(str(wait.cancel_for.get("mark") or wait.cancel_for["try_number"]))
                return await cancel(runs, run, mark)
        except NotFound:
            return False
        except (KubeError, ValueError) as error:
            log.warning("DbtRun %s could not be cancelled; its active deadline ends it: %s", self.name, error)
            return False

    standing_of = staticmethod(standing_of)
    """Asks Airflow. This and the next are seams where tests put their own."""

    @asynccontextmanager
    async def task_runs(self, wait: Wait) -> AsyncIterator[TaskRuns]:
        """The namespace's DbtRuns, over the connection that all triggers share."""
        async with clusters.lease(wait.config) as cluster:
            yield task_runs(cluster, wait.namespace)

    # ── waiting ──

    async def _outcome(self, wait: Wait) -> Payload:
        subject = Subject(wait.namespace, wait.name, wait.run_id)
        follower = Follower(subject, wait.denied_grace, wait)
        deadline = asyncio.timeout(None if wait.end_time is None else wait.end_time - time.time())
        try:
            async with deadline:
                if wait.until_started:
                    return await self._started(follower)
                return await (self._follow_telling(follower) if wait.log_steps else self._follow(follower))
        except Rejected as error:
            return event.not_accepted(subject, str(error))
        except TimeoutError:
            pass  # the time is up
        # The watch may lag: a run that ended just before the end time did end.
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                verdict = follower.judge(await self._state(wait), 0.0)
        except (KubeError, TimeoutError):
            verdict = WAIT
        if not isinstance(verdict, Todo):
            return verdict
        lasted = (wait.end_time or 0.0) - wait.start_time
        return event.waited_too_long(subject, follower.last, lasted, follower.trouble)

    async def _follow_telling(self, follower: Follower) -> Payload:
        telling = asyncio.create_task(self._tell_steps(follower.wait))
        try:
            return await self._follow(follower)
        finally:
            telling.cancel()

    async def _tell_steps(self, wait: Wait) -> None:
        for pause in self.pace.retries():
            with suppress(KubeError):  # the wait for the end reports why the connection cannot be used
                async with self.task_runs(wait) as runs:
                    await tell_steps(runs, wait.name, partial(self.log.info, "%s"))
            await asyncio.sleep(pause)

    async def _follow(self, follower: Follower) -> Payload:
        loop, wait = asyncio.get_running_loop(), follower.wait
        async with subscribe(wait.config, wait.namespace, wait.name, self.pace) as states:

            def look_again() -> None:
                if not follower.begun:
                    states.doubt()

            # The shared watch shows only objects that have ended, and many live runs are read less often.
            for seconds in LOOKS:
                loop.call_later(seconds, look_again)
            async for state in states:
                verdict = follower.judge(state, loop.time())
                self._log_news(follower)
                if not isinstance(verdict, Todo):
                    return verdict
                if verdict is WAIT:
                    continue
                trouble = await states.create(wait.manifest())
                # In the task's log, once: a ResourceQuota may be used up for long.
                if isinstance(trouble, QuotaExceeded) and not follower.trouble:
                    self.log.warning("Waiting until DbtRun %s can be created: %s", wait.name, trouble)
                follower.trouble = "" if trouble is None else str(trouble)
        raise AssertionError("a subscription has no end")

    def _log_news(self, follower: Follower) -> None:
        """In the task's log, deferred or not: each change of phase, reason and message."""
        news = follower.news()
        if news is not None:
            self.log.info("DbtRun %s is %s", follower.wait.name, news)

    async def _started(self, follower: Follower) -> Payload:
        clock = asyncio.get_running_loop().time
        while True:
            try:
                verdict = follower.judge(await self._state(follower.wait), clock())
            except Denial as error:
                verdict = follower.judge(Denied(str(error)), clock())
            except KubeError as error:
                follower.trouble, verdict = str(error), WAIT
            self._log_news(follower)
            if not isinstance(verdict, Todo):
                return verdict
            if follower.last is not None and follower.last.run_id is not None:
                return event.started(follower.subject, follower.last)
            await asyncio.sleep(START_LOOK_SECONDS)

    async def _state(self, wait: Wait) -> State:
        try:
            return Seen(await self._look(wait))
        except NotFound:
            return Gone()

    async def _look(self, wait: Wait) -> Run:
        async with clusters.lease(wait.config) as cluster:
            return await HubRuns(cluster, wait.namespace).get(wait.name)

    def _subject(self) -> Subject:
        """Who an event is about when the arguments cannot say."""
        name, home = (value if isinstance(value, str) else "" for value in (self.name, self.namespace))
        return Subject(home, name, self.run_id if type(self.run_id) is int else None)


class PauseTrigger(BaseTrigger):
    """Fires at a given time, so that a task that has to wait does not occupy a worker.

    :param until: the time, in seconds since the epoch.
    """

    def __init__(self, until: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """As of every trigger."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"until": self.until}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields exactly one event."""
        await asyncio.sleep(max(0.0, self.until - time.time()))
        yield TriggerEvent({"status": "success"})  # type: ignore[no-untyped-call]
