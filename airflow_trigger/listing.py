"""The operator that lists runs: what others ask dbt Cloud for stands on the DbtRuns here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_trigger.access import Access, resolve
from airflow_trigger.attempts import PREFIX, label_value
from airflow_trigger.blocking import blocking
from airflow_trigger.cluster import ClusterError
from airflow_trigger.failures import DbtRunLostContact, InvalidArgument
from airflow_trigger.taskruns import Patiently, TaskRun, TaskRuns, connected
from watcher.api import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context

    from airflow_trigger.cluster import ClusterConfig

LIST_SECONDS: Final = 120.0
CODES: Final[dict[int, set[str]]] = {
    1: {Phase.QUEUED},
    2: {Phase.RUNNING},
    3: {Phase.RUNNING, Phase.CANCELLING},
    10: {Phase.SUCCEEDED},
    20: {Phase.FAILED},
    30: {Phase.CANCELLED, Phase.TIMED_OUT},
}
"""The phases that dbt Cloud's status codes stand for."""


class DbtRunListOperator(BaseOperator):
    """Lists the DbtRuns of a namespace, newest first, as dictionaries of JSON primitives.

    :param job_id: only of this dbt Cloud job.
    :param by_dag: only those that tasks of this DAG made.
    :param by_task: only those that this task made.
    :param labels: only those that carry these labels.
    :param status_filter: only in these phases (`"Failed"`) or with these status codes of dbt Cloud (20).
    :param latest_only: return the newest one, or None, instead of a list.
    :param namespace: as of DbtRunOperator, as the next four.
    :param kubernetes_conn_id: an Airflow connection of type `kubernetes`.
    :param in_cluster: use the pod's ServiceAccount.
    :param config_file: a kubeconfig.
    :param cluster_context: its context.
    """

    template_fields: Sequence[str] = ("job_id", "by_dag", "by_task", "labels", "namespace")
    ui_color = "#ff694a"

    def __init__(
        self,
        *,
        job_id: int | None = None,
        by_dag: str | None = None,
        by_task: str | None = None,
        labels: Mapping[str, str] | None = None,
        status_filter: int | str | Sequence[int | str] | None = None,
        latest_only: bool = False,
        namespace: str | None = None,
        kubernetes_conn_id: str | None = None,
        in_cluster: bool | None = None,
        config_file: str | None = None,
        cluster_context: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.by_dag = by_dag
        self.by_task = by_task
        self.labels = labels
        self.status_filter = status_filter
        self.latest_only = latest_only
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.in_cluster = in_cluster
        self.config_file = config_file
        self.cluster_context = cluster_context

    def connect(self, config: ClusterConfig, namespace: str) -> AbstractAsyncContextManager[TaskRuns]:
        """The way to the API server: the seam where tests put their own."""
        return connected(config, namespace)

    def execute(self, context: Context) -> list[dict[str, Any]] | dict[str, Any] | None:
        """The runs, or the newest."""
        try:
            home = resolve(
                self.kubernetes_conn_id,
                namespace=self.namespace,
                in_cluster=self.in_cluster,
                config_file=self.config_file,
                cluster_context=self.cluster_context,
            )
            found = blocking(self._listed(home))
            chosen = [row(run) for run in newest_first(found, self.job_id, phases(self.status_filter))]
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        except ClusterError as error:
            raise DbtRunLostContact(f"DbtRuns could not be listed. {error}") from None
        self.log.info("Found %s DbtRuns.", len(chosen))
        return next(iter(chosen), None) if self.latest_only else chosen

    async def _listed(self, home: Access) -> list[TaskRun]:
        async with self.connect(home.config, home.namespace) as runs:
            return await Patiently(runs, LIST_SECONDS).list(selector(self.by_dag, self.by_task, self.labels))


def selector(by_dag: str | None, by_task: str | None, labels: Mapping[str, str] | None) -> str:
    """The label selector."""
    wanted = {f"{PREFIX}/dag-id": by_dag, f"{PREFIX}/task-id": by_task}
    ids = {key: label_value(value) for key, value in wanted.items() if value is not None}
    return ",".join(f"{key}={value}" for key, value in (ids | dict(labels or {})).items())


def phases(status_filter: int | str | Iterable[int | str] | None) -> set[str] | None:
    """The phases that are asked for; None: all, also those of a newer watcher.

    Raises:
        ValueError: there is no such phase or code.
    """
    if status_filter is None:
        return None
    asked = [status_filter] if isinstance(status_filter, int | str) else status_filter
    return {phase for one in asked for phase in _phases_of(one)}


def _phases_of(one: int | str) -> set[str]:
    if isinstance(one, int):
        if one not in CODES:
            raise ValueError(f"status_filter: dbt Cloud has no status {one}; it has {', '.join(map(str, CODES))}")
        return CODES[one]
    if one not in {phase.value for phase in Phase}:
        raise ValueError(f"status_filter: there is no phase {one!r}; there are {', '.join(Phase)}")
    return {one}


def newest_first(runs: Iterable[TaskRun], job_id: object, wanted: set[str] | None) -> Iterator[TaskRun]:
    """Those of the job in the phases."""
    # Here, not as a field selector: those on custom resources need Kubernetes 1.31.
    for run in sorted(runs, key=lambda run: (run.metadata.creation_timestamp, run.number), reverse=True):
        of_job = job_id is None or str(run.status.job_id) == str(job_id)
        if of_job and (wanted is None or (run.status.phase or Phase.PENDING) in wanted):
            yield run


def row(run: TaskRun) -> dict[str, Any]:
    """One DbtRun for an XCom."""
    status = run.status
    return {
        "name": run.name,
        "namespace": run.metadata.namespace,
        "phase": status.phase or Phase.PENDING.value,
        "reason": status.reason,
        "message": status.message,
        "run_id": run.run_id,
        "job_id": status.job_id,
        "account_id": status.account_id,
        "url": status.url,
        "created_at": run.metadata.creation_timestamp,
        "queued_at": _text(status.queued_at),
        "started_at": _text(status.started_at),
        "finished_at": _text(status.finished_at),
        "results": dict(status.results.counts),
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
