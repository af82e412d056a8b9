"""The sensor that waits for a run which something else started, in dbt Cloud or as a DbtRun."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.configuration import conf
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_trigger.failures import DbtRunLostContact, DbtRunRefused, DbtRunSensorTimeout
from airflow_trigger.shared.access import ClusterOperator
from airflow_trigger.shared.arguments import number, warn_without_effect
from airflow_trigger.shared.blocking import blocking
from airflow_trigger.shared.naming import DEFAULT_CONN_ID, connection_name, object_name
from airflow_trigger.task.outcome import checked, failure, report
from airflow_trigger.task.run import TaskRun
from airflow_trigger.task.runs import Patiently, TaskRuns, connected
from airflow_trigger.task.steps import StepNews, ask
from airflow_trigger.trigger import DbtRunTrigger
from airflow_trigger.waiting import event as events
from airflow_trigger.waiting.event import WAIT_TIMEOUT, Subject
from airflow_trigger.waiting.follow import taken_by
from dbtrun.api import Phase
from dbtrun.kube.errors import AlreadyExists, KubeError, NotFound, Rejected, Unreachable
from dbtrun.kube.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from airflow.providers.common.compat.sdk import Context

    from airflow_trigger.waiting.waits import Wait
    from dbtrun.kube.config import ClusterConfig

LOOK_SECONDS: Final = 20.0
DEFER_MARGIN: Final = 60.0


class DbtRunSensor(ClusterOperator, BaseSensorOperator):
    """Waits for the end of a run. It never cancels anything.

    `ClusterOperator` has the arguments that find the cluster.

    :param dbt_cloud_conn_id: see DbtRunOperator.
    :param run_id: the dbt Cloud run. The sensor creates a DbtRun that follows it.
    :param name: the DbtRun to wait for, instead of run_id.
    :param account_id: checked against the connection's account.
    :param deferrable: wait in the triggerer; `mode` then has no effect.
    :param hook_params: has no effect.
    :param connection: exact name of the connection Secret, instead of dbt_cloud_conn_id.
    :param log_steps: log the steps of the run. A sensor that does not defer does this at each poke.

    `poke_interval`, `timeout`, `soft_fail` and `mode` are Airflow's. The watcher reads the run every
    `poke_interval`, limited to 5…3600 s; it notices ends sooner.
    """

    template_fields: Sequence[str] = ("dbt_cloud_conn_id", "run_id", "account_id", "name", "connection", "namespace")
    ui_color = "#ff694a"

    def __init__(
        self,
        *,
        dbt_cloud_conn_id: str = DEFAULT_CONN_ID,
        run_id: int | str | None = None,
        account_id: int | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        hook_params: dict[str, Any] | None = None,
        name: str | None = None,
        connection: str | None = None,
        log_steps: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dbt_cloud_conn_id = dbt_cloud_conn_id
        self.run_id = run_id
        self.account_id = account_id
        self.deferrable = deferrable
        self.hook_params = hook_params or {}
        self.name = name
        self.connection = connection
        self.log_steps = log_steps
        self._news = StepNews()
        warn_without_effect(hook_params=hook_params)

    def connect(self, config: ClusterConfig, namespace: str) -> AbstractAsyncContextManager[TaskRuns]:
        """Connects to the API server. Tests replace this method."""
        return connected(config, namespace)

    def execute(self, context: Context) -> Any:
        """Waits on the worker, or in the triggerer.

        Raises:
            AirflowSkipException: the first look failed, and `soft_fail` or `never_fail` is set.
        """
        if not self.deferrable:
            return super().execute(context)
        try:
            seen = self.poke(context)
        except AirflowException as error:
            # Airflow heeds these in BaseSensorOperator.execute, which is not called for this look.
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipped, as soft_fail or never_fail is set: {error}") from error
            raise
        if not seen.is_done:
            trigger = self._trigger()
            longest = timedelta(seconds=self.timeout + DEFER_MARGIN)
            # Observed: Airflow 3.3 does not enforce execution_timeout while a task is deferred, but the deferral's own
            # time-out.
            if self.execution_timeout is not None:
                rest = context["ti"].start_date + self.execution_timeout - datetime.now(tz=UTC)
                longest = max(timedelta(seconds=1), min(longest, rest))
            self.defer(trigger=trigger, method_name="execute_complete", timeout=longest)
        return seen.xcom_value

    def poke(self, context: Context) -> PokeReturnValue:
        """Checks once; returns the run's id if the run succeeded.

        Raises:
            DbtRunException: it ended otherwise, or it cannot be looked at.
        """
        wait = self._trigger().plan()
        run = self._look(wait)
        if run is not None and not wait.is_followed_by(run.spec):
            raise DbtRunRefused(events.not_accepted(Subject(wait.namespace, wait.name), taken_by(run))["message"])
        if run is None or not run.final:
            phase = "not known" if run is None else run.status.phase or Phase.PENDING
            why = run.status.message if run is not None else ""
            self.log.info("The phase of DbtRun %s is %s. %s", wait.name, phase, why)
            if run is not None and self.log_steps:
                for line in self._news.of(run):
                    self.log.info("%s", line)
            return PokeReturnValue(is_done=False)
        for level, line in report(run):
            self.log.log(level, "%s", line)
        error = failure(events.ended(Subject(wait.namespace, run.name), run), run)
        if error is not None:
            raise error
        return PokeReturnValue(is_done=True, xcom_value=run.run_id)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> int | None:
        """Resumes when the trigger fired.

        Raises:
            DbtRunSensorTimeout: the run did not end in time.
        """
        told = checked(event)
        if told.get("reason") == WAIT_TIMEOUT:
            raise DbtRunSensorTimeout(told["message"])
        error = failure(told)
        if error is not None:
            self.log.error("%s", told["message"])
            raise error
        self.log.info("%s", told["message"])
        return told.get("run_id")

    def _trigger(self) -> DbtRunTrigger:
        """With arguments that can be used.

        Raises:
            InvalidArgument: one of them cannot.
        """
        own = object_name("connection", self.connection)
        # Here and not in the trigger, which has other names for them.
        connection_name("dbt_cloud_conn_id", self.dbt_cloud_conn_id)
        trigger = DbtRunTrigger(
            conn_id=own or self.dbt_cloud_conn_id,
            run_id=number("run_id", self.run_id),
            end_time=time.time() + self.timeout,
            poll_interval=self.poke_interval,
            account_id=number("account_id", self.account_id),
            name=object_name("name", self.name),
            **self._home.as_arguments(),
            log_steps=self.log_steps,
        )
        trigger.plan()
        return trigger

    def _look(self, wait: Wait) -> TaskRun | None:
        """The object; None while it cannot be asked for or created, which is no reason to give up waiting."""
        try:
            return blocking(self._seen(wait))
        except Unreachable as error:
            self.log.warning("DbtRun %s cannot be read or created now: %s", wait.name, error)
            return None
        except NotFound:
            raise DbtRunLostContact(f"DbtRun {wait.namespace}/{wait.name} does not exist.") from None
        except Rejected as error:
            raise DbtRunRefused(f"Kubernetes does not accept the DbtRun: {error}") from None
        except KubeError as error:
            raise DbtRunLostContact(f"The DbtRun could not be created or read. {error}") from None

    async def _seen(self, wait: Wait) -> TaskRun:
        """The object; one that follows a run is created if it is not there."""
        async with self.connect(wait.config, wait.namespace) as connection:
            runs = Patiently(connection, LOOK_SECONDS)
            try:
                run = await runs.get(wait.name)
            except NotFound:
                if not wait.adopts:
                    raise
                try:
                    run = await runs.create(wait.manifest())
                # Another task that waits for the same run has created it meanwhile: the name is the same.
                except AlreadyExists:
                    run = await runs.get(wait.name)
            if wait.log_steps and not self.deferrable:
                await ask(Reader(connection.patch), run)
            return run
