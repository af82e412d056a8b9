"""The sensor for the next run of a job, no matter who started it: for Airflow 2.11, which has no asset watchers.

With a DAG whose schedule is `@continuous`, each DAG run takes one run. The sensor continues after its last success,
so a run that ends between two DAG runs is the next one's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import BaseSensorOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_trigger.failures import DbtRunLostContact, DbtRunSensorTimeout, InvalidArgument
from airflow_trigger.reacting import payloads
from airflow_trigger.reacting.position import Position
from airflow_trigger.reacting.selection import NOW, Plan, plan_of
from airflow_trigger.reacting.ticker import Ticker
from airflow_trigger.shared.access import ClusterOperator
from dbtrun.api import Phase

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

POSITION: Final = "dbtrun_position"
"""The XCom with the position at which the sensor's next success begins."""
DEFER_MARGIN: Final = 60.0

log = logging.getLogger(__name__)


class DbtRunEventSensor(ClusterOperator, BaseSensorOperator):
    """Waits in the triggerer for the next matching DbtRun that ends; returns the payload of its asset event.

    The first time, it waits for a run that ends after the DAG run began; later, for one after the run that it returned
    last. `ClusterOperator` has the arguments that find the cluster.

    :param job_id: only runs of this dbt Cloud job.
    :param environment_id: only runs in this dbt Cloud environment.
    :param labels: only DbtRuns that have these labels.
    :param phases: how the run ended; default: `["Succeeded"]`.
    :param since: time in ISO 8601 after which the run must end, instead of the position that the sensor has stored.
    """

    template_fields: Sequence[str] = ("job_id", "environment_id", "labels", "since", "namespace")
    ui_color = "#ff694a"

    def __init__(
        self,
        *,
        job_id: int | str | None = None,
        environment_id: int | str | None = None,
        labels: Mapping[str, str] | None = None,
        phases: Sequence[str] = (Phase.SUCCEEDED.value,),
        since: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.environment_id = environment_id
        self.labels = labels
        self.phases = phases
        self.since = since

    def execute(self, context: Context) -> None:
        """Defers.

        Raises:
            InvalidArgument: an argument cannot be used.
        """
        trigger = DbtRunNextTrigger(
            position=self._begin(context).stored(),
            job_id=self.job_id,
            environment_id=self.environment_id,
            labels=dict(self.labels or {}),
            phases=list(self.phases),
            end_time=datetime.now(tz=UTC).timestamp() + self.timeout,
            **self._home.as_arguments(),
        )
        trigger.plan()
        longest = timedelta(seconds=self.timeout + DEFER_MARGIN)
        self.defer(trigger=trigger, method_name="execute_complete", timeout=longest)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Resumes when the trigger fired.

        Raises:
            DbtRunSensorTimeout: no run ended in time.
            DbtRunLostContact: the trigger could not wait; the sentence says why.
        """
        told = event or {}
        if told.get("status") == "timeout":
            raise DbtRunSensorTimeout(f"No run that matches ended within {self.timeout:.0f} s.")
        if told.get("status") != "success":
            raise DbtRunLostContact(f"Cannot wait for the next run: {told.get('message', 'the event is empty')}")
        run: dict[str, Any] = told["run"]
        self.log.info("DbtRun %s/%s is %s. %s", run["namespace"], run["name"], run["phase"], run["message"])
        context["ti"].xcom_push(key=POSITION, value=told["position"])
        return run

    def _begin(self, context: Context) -> Position:
        if self.since is not None:
            try:
                moment = datetime.fromisoformat(self.since)
            except (TypeError, ValueError):
                raise InvalidArgument(f"since must be a time in ISO 8601, not {self.since!r}") from None
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return Position(moment, moment)
        # Each DAG run has XComs of its own, so those of earlier ones are asked for, too.
        last = context["ti"].xcom_pull(task_ids=self.task_id, key=POSITION, include_prior_dates=True)
        if last is not None:
            return Position.read(last)
        began = context["dag_run"].start_date or datetime.now(tz=UTC)
        return Position(began, began)


class DbtRunNextTrigger(BaseTrigger):
    """Waits for the next matching DbtRun that ends after a position, and fires one event.

    :param position: where to begin, as `Position.stored` returns it.
    :param namespace: where the DbtRuns are.
    :param job_id: only runs of this dbt Cloud job.
    :param environment_id: only runs in this dbt Cloud environment.
    :param labels: only DbtRuns that have these labels.
    :param phases: how the run ended.
    :param end_time: time, in seconds since the epoch, after which the event is `timeout`.
    :param in_cluster: use the pod's ServiceAccount only.
    :param config_file: a kubeconfig.
    :param cluster_context: the kubeconfig's context.
    """

    def __init__(
        self,
        position: Mapping[str, Any],
        namespace: str,
        job_id: int | str | None = None,
        environment_id: int | str | None = None,
        labels: Mapping[str, str] | None = None,
        phases: Sequence[str] = (Phase.SUCCEEDED.value,),
        end_time: float | None = None,
        in_cluster: bool | None = None,
        config_file: str | None = None,
        cluster_context: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.position = position
        self.namespace = namespace
        self.job_id = job_id
        self.environment_id = environment_id
        self.labels = labels
        self.phases = phases
        self.end_time = end_time
        self.in_cluster = in_cluster
        self.config_file = config_file
        self.cluster_context = cluster_context

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments from which Airflow creates this trigger again."""
        fields = (
            "position", "namespace", "job_id", "environment_id", "labels", "phases", "end_time", "in_cluster",
            "config_file", "cluster_context",
        )  # fmt: skip
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in fields}

    def plan(self) -> Plan:
        """What the arguments ask for.

        Raises:
            InvalidArgument: one of them cannot be used.
        """
        return plan_of(vars(self) | {"asset": "", "since": NOW, "max_replay": 1})

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields exactly one event."""
        left = None if self.end_time is None else self.end_time - datetime.now(tz=UTC).timestamp()
        try:
            async with asyncio.timeout(left):
                told = await self._next(self.plan(), Position.read(self.position))
        except TimeoutError:
            told = {"status": "timeout"}
        except ValueError as error:
            told = {"status": "error", "message": str(error)}
        yield TriggerEvent(told)  # type: ignore[no-untyped-call]

    async def _next(self, plan: Plan, position: Position) -> dict[str, Any]:
        async with aclosing(Ticker(plan.config, plan.namespace).ticks()) as ticks:
            async for tick in ticks:
                fresh = position.fresh(run for run in tick.finished() or () if plan.selection.matches(run))
                if fresh:
                    first = fresh[0]
                    # Those that end in the same second are left to the next success, so the floor stays below them.
                    after = position.after([first], datetime.now(tz=UTC))
                    return {
                        "status": "success",
                        "run": payloads.ended(plan.namespace, first),
                        "position": after.stored(),
                    }
        raise AssertionError("the ticks have no end")
