"""The operator that starts a dbt Cloud job as a DbtRun and waits for its end.

It remembers nothing between its lives: a worker may be killed at any instruction, and a deferred task resumes in a new
process. The object records what was done, and the next process finds it there (see task.attempts).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from airflow.configuration import conf
from airflow.providers.common.compat.sdk import AirflowException

from airflow_trigger.failures import DbtRunCancelled, DbtRunLostContact, DbtRunRefused, DbtRunTimedOut, InvalidArgument
from airflow_trigger.link import DbtRunLink
from airflow_trigger.shared.access import ClusterOperator
from airflow_trigger.shared.arguments import seconds, warn_without_effect
from airflow_trigger.shared.blocking import blocking
from airflow_trigger.shared.naming import DEFAULT_CONN_ID
from airflow_trigger.task.attempts import Attach, Await, Create, Use
from airflow_trigger.task.identity import Try, try_of
from airflow_trigger.task.killed import ends_the_run, why_killed
from airflow_trigger.task.manifest import DAY, Wish, active_deadline, manifest
from airflow_trigger.task.outcome import checked, failure, report
from airflow_trigger.task.run import TaskRun, own
from airflow_trigger.task.runs import Patiently, TaskRuns, belonging, cancel, connected, consume, submitted
from airflow_trigger.task.tracing import traceparent
from airflow_trigger.trigger import DbtRunTrigger, PauseTrigger
from airflow_trigger.waiting import event as events
from airflow_trigger.waiting.event import NO_ACCESS, WAIT_TIMEOUT, Subject
from airflow_trigger.waiting.follow import News
from dbtrun.api import Phase
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.errors import KubeError, NotFound, QuotaExceeded, Rejected

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from airflow.providers.common.compat.sdk import Context

T = TypeVar("T")

WEEK: Final = 7 * DAY
KEPT_UNREAD: Final = WEEK
"""Seconds for which the object of an end that no task has read yet is kept: Airflow may be away over a weekend."""
SUBMISSION_SECONDS: Final = 30.0
"""How long a worker waits for the run's id, so that a deferred task shows its link."""
API_SECONDS: Final = 300.0
"""How long a worker asks an API server that does not answer."""
READ_SECONDS: Final = 60.0
"""The same if the event of the trigger already has the outcome."""
KILL_SECONDS: Final = 15.0
START_SECONDS: Final = API_SECONDS
"""How long a worker that may not defer waits for the id of a run whose end it does not wait for."""
QUOTA_PAUSE_SECONDS: Final = 30.0
"""Between two tries to create an object for which a ResourceQuota has no room."""
DEFER_MARGIN: Final = 60.0
"""Airflow ends a deferral this much after the trigger should have: only when no triggerer runs."""
FRAMEWORK_FAILURE: Final = "__fail__"


class DbtRunOperator(ClusterOperator):
    """Runs a dbt Cloud job through a DbtRun in Kubernetes. Airflow needs no dbt Cloud token.

    `ClusterOperator` has the arguments that find the cluster.

    :param dbt_cloud_conn_id: `dbt_cloud_default` is the watcher's default connection; any other id names the connection
        Secret, in lower case and with `-` for `_`. No Airflow connection is looked up.
    :param job_id: id of the job. Alternatively, give project_name, environment_name and job_name.
    :param project_name: name of the project, if job_id is not given.
    :param environment_name: name of the environment.
    :param job_name: name of the job.
    :param account_id: checked against the connection's account.
    :param trigger_reason: text that dbt Cloud shows as the cause, at most 200 characters.
    :param steps_override: dbt commands to run instead of the job's.
    :param schema_override: schema to build in.
    :param wait_for_termination: if False, return the run id as soon as the run has one.
    :param timeout: seconds or timedelta to wait for the end. After that the task fails, and the run continues.
    :param check_interval: seconds or timedelta between two reads of a live run by the watcher, limited to 5…3600 s. The
        watcher notices ends sooner.
    :param additional_run_config: further fields of dbt Cloud's API, which override the arguments above.
    :param reuse_existing_run: attach to a live run of the job, if there is one.
    :param retry_from_failure: a new try resumes the failed run of the previous try.
    :param deferrable: wait in the triggerer, not in a worker.
    :param hook_params: has no effect.
    :param openlineage_inject_parent_job_info: has no effect.
    :param durable: has no effect: every try looks for the run of the previous try.
    :param connection: exact name of the connection Secret, instead of dbt_cloud_conn_id.
    :param retry: further attempts inside this try: a number, or a mapping with the fields of `spec.retry`.
    :param queue_deadline: seconds or timedelta from submission to start; passing it cancels the run.
    :param active_deadline: seconds or timedelta from start to end; passing it cancels the run. Default:
        execution_timeout if it cancels the run, else the longer of timeout and a day.
    :param deletion_policy: what happens to a live run when its DbtRun is deleted: `Cancel` (default) or `Orphan`.
    :param artifacts: files of the run to keep for DbtRunArtifactOperator, such as `run_results.json`.
    :param ttl: seconds or timedelta for which the DbtRun is kept after Airflow has read its result; None: for ever.
    :param log_steps: log each step of the run as it begins and ends, deferred or not. By default, the steps are logged
        only if the run fails.
    :param cancel_on_kill: whether ending the task by hand, or by execution_timeout, cancels the run.
    """

    template_fields: Sequence[str] = (
        "dbt_cloud_conn_id",
        "job_id",
        "project_name",
        "environment_name",
        "job_name",
        "account_id",
        "trigger_reason",
        "steps_override",
        "schema_override",
        "additional_run_config",
        "artifacts",
        "connection",
        "namespace",
    )
    operator_extra_links = (DbtRunLink(),)
    ui_color = "#ff694a"

    def __init__(
        self,
        *,
        dbt_cloud_conn_id: str = DEFAULT_CONN_ID,
        job_id: int | None = None,
        project_name: str | None = None,
        environment_name: str | None = None,
        job_name: str | None = None,
        account_id: int | None = None,
        trigger_reason: str | None = None,
        steps_override: list[str] | None = None,
        schema_override: str | None = None,
        wait_for_termination: bool = True,
        timeout: float | timedelta = WEEK,
        check_interval: float | timedelta = 60,
        additional_run_config: dict[str, Any] | None = None,
        reuse_existing_run: bool = False,
        retry_from_failure: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        hook_params: dict[str, Any] | None = None,
        openlineage_inject_parent_job_info: bool = False,
        durable: bool = True,
        connection: str | None = None,
        retry: int | Mapping[str, Any] | None = None,
        queue_deadline: float | timedelta | None = None,
        active_deadline: float | timedelta | None = None,
        deletion_policy: str | None = None,
        artifacts: Sequence[str] = (),
        ttl: float | timedelta | None = DAY,
        log_steps: bool = False,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dbt_cloud_conn_id = dbt_cloud_conn_id
        self.job_id = job_id
        self.project_name = project_name
        self.environment_name = environment_name
        self.job_name = job_name
        self.account_id = account_id
        self.trigger_reason = trigger_reason
        self.steps_override = steps_override
        self.schema_override = schema_override
        self.wait_for_termination = wait_for_termination
        self.timeout = timeout
        self.check_interval = check_interval
        self.additional_run_config = additional_run_config or {}
        self.reuse_existing_run = reuse_existing_run
        self.retry_from_failure = retry_from_failure
        self.deferrable = deferrable
        self.hook_params = hook_params or {}
        self.openlineage_inject_parent_job_info = openlineage_inject_parent_job_info
        self.durable = durable
        self.connection = connection
        self.retry = retry
        self.queue_deadline = queue_deadline
        self.active_deadline = active_deadline
        self.deletion_policy = deletion_policy
        self.artifacts = artifacts
        self.ttl = ttl
        self.log_steps = log_steps
        self.cancel_on_kill = cancel_on_kill
        self.run_id: int | None = None
        self._try: Try | None = None
        self._killed = False
        self._undisturbed = False
        self._postponed = False
        warn_without_effect(
            hook_params=hook_params,
            openlineage_inject_parent_job_info=openlineage_inject_parent_job_info,
            durable=not durable,
        )

    # ── what Airflow calls ──

    def pre_execute(self, context: Any) -> None:
        """Records which task instance this is, so that `on_kill` knows it from the beginning."""
        super().pre_execute(context)
        self._enter(context)

    def execute(self, context: Context) -> int | None:
        """Finds or creates the DbtRun of this try, and waits for it."""
        self._enter(context)
        while True:
            try:
                belongs = self._run(self._asked(self._begin, API_SECONDS))
            except QuotaExceeded as error:
                self._pause(context, error)
                continue
            if isinstance(belongs, Await):
                self.log.info(
                    "DbtRun %s is being cancelled: waiting for its end before a new one is created.", belongs.run.name
                )
                return self._wait(context, belongs.run, "execute_after_cancel")
            return self._begun(context, belongs.run)

    def execute_after_pause(self, context: Context, event: Mapping[str, Any] | None = None) -> int | None:
        """Resumes when it is time to retry after a ResourceQuota refused the DbtRun."""
        return self.execute(context)

    def execute_after_start(self, context: Context, event: Mapping[str, Any] | None = None) -> int | None:
        """Resumes when a run with `wait_for_termination=False` has started, or has not started in time."""
        self._enter(context)
        told = checked(event)
        run = self._look(told)
        if run is not None and (run.final or run.run_id is not None):
            return self._begun(context, run)
        error = failure(told)
        if error is not None:
            raise error
        return told.get("run_id")

    def execute_after_cancel(self, context: Context, event: Mapping[str, Any] | None = None) -> int | None:
        """Resumes when the cancelled run of an earlier try has ended.

        Raises:
            DbtRunLostContact: the end of that run was not seen.
        """
        if checked(event).get("reason") in (WAIT_TIMEOUT, NO_ACCESS):
            raise DbtRunLostContact(f"Could not wait for the end of the previous run. {checked(event)['message']}")
        return self.execute(context)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> int | None:
        """Resumes when the trigger fired. If the object and the event differ, the object counts."""
        self._enter(context)
        told = checked(event)
        run = self._look(told)
        if run is not None and run.final:
            return self._finish(context, run)
        self._push(context, told.get("run_id"), told.get("job_run_url"), told.get("name"), told)
        error = failure(told)
        if error is not None:
            raise error
        self.log.info(told["message"])
        return told.get("run_id")

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resumes when Airflow has ended the deferral: its timeout passed, or the trigger failed.

        Raises:
            DbtRunTimedOut: the run did not end within `timeout`, or passed execution_timeout.
        """
        if next_method != FRAMEWORK_FAILURE:
            return super().resume_execution(next_method, next_kwargs, context)
        self._enter(context)
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowException as stopped:
            # A run that did end is not a time-out; one that is cut off by execution_timeout is cancelled.
            run = self._last_seen()
            unread = run is not None and not (run.consumed or run.unwanted) and self._attempt.mark.in_life_of(run.mark)
            if run is not None and run.final and unread:
                return self._finish(context, run)
            # Airflow 2.11 raises the same TaskDeferralError for a time-out and for a trigger that broke: the words
            # differ.
            if "timeout" not in str(stopped).lower():
                raise
            who = Subject(self._home.namespace, run.name).of(run).within if run else "the run of this task"
            rest = self._rest(context)
            # `_longest_deferral` cuts a deferral to what execution_timeout leaves, to a second at least.
            if rest is None or rest > 1.0:
                raise DbtRunTimedOut(events.too_long(who, run, self._timeout)) from stopped
            fate = "continues"
            if self.cancel_on_kill:
                fate = "is cancelled" if self._end_all() else "could not be cancelled and ends by its active deadline"
            limit = f"execution_timeout ({self.execution_timeout})"
            raise DbtRunTimedOut(f"Timeout: {who} passed {limit}; it {fate}.") from stopped

    def on_kill(self) -> None:
        """Called when the task's process is stopped. It may run in a signal handler that interrupts `execute`.

        If only the process ends and another try follows, that try attaches to the run. Until then this try continues:
        Airflow 3 lets a process work until its pod's grace period is over.
        """
        if self._undisturbed:
            self._postponed = True
            return
        if self.cancel_on_kill and self._try is not None:
            with self._postponing_kills():
                cause = self.why_killed(self._try.as_dict())
            if not ends_the_run(cause, is_last=self._try.is_last):
                self.log.info("The run continues, and the next try attaches to it: %s.", cause.value)
                return
            self.log.info("The run is cancelled: %s.", cause.value)
        self._killed = True
        if self.cancel_on_kill:
            self._end_all()

    why_killed = staticmethod(why_killed)
    """Asks Airflow. The seam where tests put their own."""

    # ── how it goes on ──

    @contextmanager
    def _postponing_kills(self) -> Iterator[None]:
        """Around what talks to Airflow, which can be asked one thing at a time: a kill is looked at afterwards."""
        self._undisturbed = True
        try:
            yield
        finally:
            self._undisturbed = False
            if self._postponed:
                self._postponed = False
                self.on_kill()

    def _end_all(self) -> bool:
        """Whether every run of this task is over or being cancelled."""
        if self._try is None:
            return True
        try:
            blocking(self._asked(self._cancel_all, KILL_SECONDS), KILL_SECONDS)
        except (KubeError, TimeoutError) as error:
            self.log.warning("The run could not be cancelled; its active deadline ends it: %s", error)
            return False
        return True

    def _enter(self, context: Context) -> None:
        _ = self._home
        # Last: `on_kill` may come at any time, even inside a signal. For a try that it knows it needs the cluster, and
        # must not ask Airflow for a connection then.
        self._try = try_of(context, self.retries)

    def _begun(self, context: Context, run: TaskRun) -> int | None:
        try:
            self._push(context, run.run_id, run.status.link, run.name)
        except Exception:  # whatever a release of Airflow raises, as when the DAG run was just deleted
            # This try fails now. The next one takes its run over; after the last nobody waits for it.
            if self.cancel_on_kill and self._attempt.is_last:
                self._end_all()
            raise
        if run.final:
            return self._finish(context, run)
        if self._killed:
            raise DbtRunCancelled(f"The task was ended while DbtRun {run.name} was being started.")
        if self.wait_for_termination:
            self.log.info("Waiting for DbtRun %s, %s.", run.name, run.status.link or "which is not started yet")
            return self._wait(context, run, "execute_complete")
        if run.run_id is not None:
            self._consume(run)
            return run.run_id
        if self.deferrable and self._timeout > 0:
            trigger = self._trigger(run, until_started=True)
            self.defer(trigger=trigger, method_name="execute_after_start", timeout=self._longest_deferral(context))
        told = run.status.message or "no watcher has seen it"
        raise DbtRunTimedOut(
            f"Timeout: DbtRun {self._home.namespace}/{run.name} has started no dbt Cloud run after "
            f"{round(self._start_patience)} seconds (last seen: {run.status.phase or Phase.PENDING}: {told}); it was "
            "not cancelled, and the next try attaches to it."
        )

    @property
    def _start_patience(self) -> float:
        """Seconds for which a worker waits until the run has an id."""
        if self.wait_for_termination:
            return SUBMISSION_SECONDS
        return min(SUBMISSION_SECONDS if self.deferrable else START_SECONDS, self._timeout)

    def _pause(self, context: Context, error: QuotaExceeded) -> None:
        """Waits until there may be room: in the triggerer if it may, else here."""
        waited = (datetime.now(tz=UTC) - context["ti"].start_date).total_seconds()
        rest = self._timeout - waited
        if rest <= 0:
            raise DbtRunTimedOut(f"Timeout: no DbtRun could be created for {round(waited)} seconds: {error}")
        self.log.warning("The DbtRun cannot be created yet: %s", error)
        pause = min(QUOTA_PAUSE_SECONDS, max(rest, 1.0))
        if self.deferrable:
            self.defer(trigger=PauseTrigger(time.time() + pause), method_name="execute_after_pause")
        blocking(asyncio.sleep(pause))

    def _wait(self, context: Context, run: TaskRun, method: str) -> int | None:
        trigger = self._trigger(run)
        if self.deferrable:
            self.defer(trigger=trigger, method_name=method, timeout=self._longest_deferral(context))
        outcome: int | None = getattr(self, method)(context, self._run(self.awaited(trigger)))
        return outcome

    def _finish(self, context: Context, run: TaskRun) -> int | None:
        """The last act is to mark the outcome consumed: whatever breaks before, the next try finds it."""
        told = events.ended(Subject(self._home.namespace, run.name), run)
        error = failure(told, run)
        self._push(context, run.run_id, run.status.link, run.name, told)
        for level, line in report(run):
            self.log.log(level, "%s", line)
        self._consume(run)
        if error is not None:
            raise error
        return run.run_id

    def _last_seen(self) -> TaskRun | None:
        """The newest object; None if there is none, or if that is not known: a time-out stays a time-out."""
        try:
            found = blocking(self._asked(lambda runs: runs.list(self._attempt.key.selector)))
        except KubeError as error:
            self.log.warning("The DbtRun cannot be read: %s", error)
            return None
        return next(reversed(own(found, self._attempt.key)), None)

    # ── parts ──

    def connect(self, config: ClusterConfig, namespace: str) -> AbstractAsyncContextManager[TaskRuns]:
        """Connects to the API server. Tests replace this method."""
        return connected(config, namespace)

    @property
    def _attempt(self) -> Try:
        assert self._try is not None, "pre_execute settled it"  # noqa: S101
        return self._try

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return blocking(work)
        except Rejected as error:
            raise DbtRunRefused(f"Kubernetes does not accept the DbtRun: {error}") from None
        except QuotaExceeded:
            raise
        except KubeError as error:
            raise DbtRunLostContact(f"The DbtRun could not be created or read. {error}") from None

    async def _asked(self, ask: Callable[[TaskRuns], Awaitable[T]], seconds: float = READ_SECONDS) -> T:
        """The answer to what is asked of the DbtRuns; an API server that is away is asked again for `seconds`."""
        async with self.connect(self._home.config, self._home.namespace) as runs:
            return await ask(Patiently(runs, seconds))

    async def _begin(self, runs: TaskRuns) -> Attach | Use | Await:
        found = await belonging(
            runs,
            self._attempt,
            self._manifest,
            from_failure=self._resumes,
            leaves=not self.cancel_on_kill,
        )
        if isinstance(found, Await):
            return found
        # Killed while the request was on its way: nobody else knows the object yet.
        if self._killed and self.cancel_on_kill:
            await cancel(runs, found.run, self._attempt.mark)
            return found
        return replace(
            found, run=await submitted(runs, found.run, self._start_patience, partial(self._tell_news, News()))
        )

    def _tell_news(self, news: News, run: TaskRun) -> None:
        """Logs how an object stands whose run has not started, and each change."""
        told = news.of(run)
        if told is not None:
            self.log.info("DbtRun %s is %s", run.name, told)

    @property
    def _resumes(self) -> bool:
        return self.retry_from_failure and self._attempt.number != 1

    def _manifest(self, create: Create) -> dict[str, Any]:
        if self._killed:
            raise DbtRunCancelled("The task was ended before anything was started.")
        return manifest(self._wish(), self._attempt, create, traceparent())

    def _wish(self) -> Wish:
        key = self._attempt.key
        default = f"Triggered via Apache Airflow by task {key.task_id!r} in the {key.dag_id} DAG."
        ttl = seconds("ttl", self.ttl)
        return Wish(
            conn_id=self.dbt_cloud_conn_id,
            connection=self.connection,
            job_id=self.job_id,
            project_name=self.project_name,
            environment_name=self.environment_name,
            job_name=self.job_name,
            account_id=self.account_id,
            cause=default if self.trigger_reason in (None, "") else self.trigger_reason,
            steps=self.steps_override,
            schema=self.schema_override,
            run_config=self.additional_run_config,
            reuse=self.reuse_existing_run,
            retry=self.retry,
            queue_deadline=seconds("queue_deadline", self.queue_deadline),
            active_deadline=active_deadline(
                seconds("active_deadline", self.active_deadline),
                self.execution_timeout if self.cancel_on_kill else None,
                self._timeout,
            ),
            check_interval=self._check_interval,
            deletion_policy=self.deletion_policy,
            artifacts=self.artifacts,
            # Until the outcome is read, the object must outlast an Airflow that is away. `_consume` then sets what was
            # asked for.
            ttl=None if ttl is None else max(ttl, KEPT_UNREAD),
        )

    @property
    def _timeout(self) -> float:
        return _required("timeout", self.timeout)

    @property
    def _check_interval(self) -> float:
        return _required("check_interval", self.check_interval)

    def _trigger(self, run: TaskRun, *, until_started: bool = False) -> DbtRunTrigger:
        return DbtRunTrigger(
            run_id=run.run_id,
            end_time=time.time() + self._timeout,
            poll_interval=self._check_interval,
            account_id=None,
            name=run.name,
            **self._home.as_arguments(),
            cancel_for=self._attempt.as_dict() if self.cancel_on_kill and not run.unwanted else None,
            until_started=until_started,
            log_steps=self.log_steps,
        )

    @staticmethod
    async def awaited(trigger: DbtRunTrigger) -> dict[str, Any]:
        """Waits for the trigger's event in this process."""
        return dict(await trigger.outcome())

    def _longest_deferral(self, context: Context) -> timedelta:
        # Observed: Airflow 3.3 does not enforce execution_timeout while a task is deferred, but this one it does.
        rest = self._rest(context)
        longest = self._timeout + DEFER_MARGIN
        return timedelta(seconds=longest if rest is None else max(1.0, min(longest, rest)))

    def _rest(self, context: Context) -> float | None:
        """Seconds that execution_timeout leaves; Airflow 3 does not count them while a task is deferred."""
        if self.execution_timeout is None:
            return None
        now = datetime.now(tz=UTC)
        return (context["ti"].start_date + self.execution_timeout - now).total_seconds()

    def _look(self, told: Mapping[str, Any]) -> TaskRun | None:
        """The object that the event is about; None if it is gone or cannot be read: then the event's word counts."""
        try:
            return blocking(self._asked(lambda runs: runs.get(str(told.get("name")))))
        except NotFound:
            return None
        except KubeError as error:
            self.log.warning("The DbtRun cannot be read; the event is used instead: %s", error)
            return None

    async def _cancel_all(self, runs: TaskRuns) -> None:
        attempt = self._attempt
        for run in own(await runs.list(attempt.key.selector), attempt.key):
            if await cancel(runs, run, attempt.mark):
                self.log.info("DbtRun %s is being cancelled.", run.name)

    def _consume(self, run: TaskRun) -> None:
        ttl = seconds("ttl", self.ttl)
        kept = None if ttl is None else round(ttl)
        try:
            blocking(self._asked(lambda runs: consume(runs, run, self._attempt, kept)))
        except NotFound:
            pass
        except KubeError as error:
            self.log.warning(
                "The outcome could not be marked as used; if the task is cleared, it is used again: %s", error
            )

    def _push(
        self,
        context: Context,
        run_id: int | None,
        url: str | None,
        name: str | None,
        event: Mapping[str, Any] | None = None,
    ) -> None:
        self.run_id = run_id
        told = None if event is None else dict(event)
        for key, value in {"job_run_url": url, "job_run_id": run_id, "dbtrun_name": name, "event": told}.items():
            if value is not None:
                with self._postponing_kills():
                    context["ti"].xcom_push(key=key, value=value)


def _required(argument: str, value: object) -> float:
    found = seconds(argument, value)
    if found is None:
        raise InvalidArgument(f"{argument} must be seconds or a timedelta, and not negative; it is {value!r}")
    return found
