"""The operator that lists runs. It reads the DbtRuns, and asks dbt Cloud nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, Final

from airflow_trigger.failures import DbtRunLostContact, InvalidArgument
from airflow_trigger.shared.access import Access, ClusterOperator
from airflow_trigger.shared.arguments import mapping, number, shown, text, warn_without_effect
from airflow_trigger.shared.blocking import blocking
from airflow_trigger.shared.objects import PREFIX
from airflow_trigger.task.identity import is_label, label_value
from airflow_trigger.task.run import TaskRun
from airflow_trigger.task.runs import Patiently, TaskRuns, connected
from dbtrun.api import Phase
from dbtrun.kube.errors import KubeError
from dbtrun.text import natural

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from airflow.providers.common.compat.sdk import Context

    from dbtrun.kube.config import ClusterConfig

LIST_SECONDS: Final = 120.0
_KEY = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9.]{0,251}[A-Za-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
CODES: Final[dict[int, set[str]]] = {
    1: {Phase.QUEUED},
    # Starting: the watcher reports whatever is not queued as Running.
    2: {Phase.RUNNING},
    3: {Phase.RUNNING, Phase.CANCELLING},
    10: {Phase.SUCCEEDED},
    20: {Phase.FAILED},
    30: {Phase.CANCELLED, Phase.TIMED_OUT},
}
"""The phases that dbt Cloud's status codes stand for."""


class DbtRunListOperator(ClusterOperator):
    """Lists the DbtRuns of a namespace, newest first, as dictionaries of JSON primitives.

    `ClusterOperator` has the arguments that find the cluster.

    :param job_id: only runs of this dbt Cloud job.
    :param by_dag: only DbtRuns that tasks of this DAG created.
    :param by_task: only DbtRuns that this task created.
    :param labels: only DbtRuns with these labels.
    :param status_filter: only DbtRuns in these phases (`"Failed"`) or with these status codes of dbt Cloud (20).
    :param latest_only: return the newest one, or None, instead of a list.
    :param dbt_cloud_conn_id: has no effect.
    :param account_id: has no effect.
    :param order_by: has no effect.
    :param include_related: has no effect.
    :param hook_params: has no effect.
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
        dbt_cloud_conn_id: str | None = None,
        account_id: int | None = None,
        order_by: str | None = None,
        include_related: list[str] | None = None,
        hook_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.by_dag = by_dag
        self.by_task = by_task
        self.labels = labels
        self.status_filter = status_filter
        self.latest_only = latest_only
        self.dbt_cloud_conn_id = dbt_cloud_conn_id
        self.account_id = account_id
        self.order_by = order_by
        self.include_related = include_related
        self.hook_params = hook_params or {}
        warn_without_effect(
            dbt_cloud_conn_id=dbt_cloud_conn_id,
            account_id=account_id,
            order_by=order_by,
            include_related=include_related,
            hook_params=hook_params,
        )

    def connect(self, config: ClusterConfig, namespace: str) -> AbstractAsyncContextManager[TaskRuns]:
        """Connects to the API server. Tests replace this method."""
        return connected(config, namespace)

    def execute(self, context: Context) -> list[dict[str, Any]] | dict[str, Any] | None:
        """The runs, or the newest.

        Raises:
            DbtRunLostContact: they could not be listed.
        """
        home = self._home
        job_id, wanted = number("job_id", self.job_id), phases(self.status_filter)
        selected = selector(self.by_dag, self.by_task, self.labels)
        try:
            found = blocking(self._listed(home, selected))
        except KubeError as error:
            raise DbtRunLostContact(f"DbtRuns could not be listed. {error}") from None
        chosen = [row(run) for run in newest_first(found, job_id, wanted)]
        self.log.info("Found %s DbtRuns.", len(chosen))
        return next(iter(chosen), None) if self.latest_only else chosen

    async def _listed(self, home: Access, selected: str) -> Sequence[TaskRun]:
        async with self.connect(home.config, home.namespace) as runs:
            return await Patiently(runs, LIST_SECONDS).list(selected)


def selector(by_dag: object, by_task: object, labels: object) -> str:
    """The label selector.

    Raises:
        InvalidArgument: an argument is no text, or not what a label can be.
    """
    wanted = {f"{PREFIX}/dag-id": text("by_dag", by_dag), f"{PREFIX}/task-id": text("by_task", by_task)}
    ids = {key: label_value(value) for key, value in wanted.items() if value is not None}
    found = {key: text(f"labels[{key!r}]", value) or "" for key, value in mapping("labels", labels).items()}
    odd = next((key for key, value in found.items() if not (_KEY.fullmatch(key) and is_label(value))), None)
    if odd is not None:
        raise InvalidArgument(f"labels[{odd!r}] is not a label of Kubernetes: {shown(found[odd])}")
    return ",".join(f"{key}={value}" for key, value in (ids | found).items())


def phases(status_filter: object) -> set[str] | None:
    """The phases that are asked for; None: all, also those of a newer watcher.

    Raises:
        InvalidArgument: there is no such phase or code.
    """
    if status_filter is None or status_filter == "":
        return None
    if isinstance(status_filter, Sequence | Set) and not isinstance(status_filter, str | bytes):
        return {phase for one in status_filter for phase in _phases_of(one)}
    return _phases_of(status_filter)


def _phases_of(one: object) -> set[str]:
    code = natural(one, digits=8) if isinstance(one, str) else one
    if isinstance(code, int) and not isinstance(code, bool):
        if code not in CODES:
            raise InvalidArgument(f"status_filter: dbt Cloud has no status {code}; it has {', '.join(map(str, CODES))}")
        return CODES[code]
    if not isinstance(one, str) or one not in {phase.value for phase in Phase}:
        raise InvalidArgument(f"status_filter: there is no phase {shown(one)}; there are {', '.join(Phase)}")
    return {one}


def newest_first(runs: Iterable[TaskRun], job_id: int | None, wanted: set[str] | None) -> Iterator[TaskRun]:
    """Those of the job in the phases."""
    # Here, not as a field selector: those on custom resources need Kubernetes 1.31.
    for run in sorted(runs, key=lambda run: (run.metadata.creation_timestamp, run.number), reverse=True):
        of_job = job_id is None or run.status.job_id == job_id
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
        "url": status.link,
        "created_at": run.metadata.creation_timestamp,
        "queued_at": _text(status.queued_at),
        "started_at": _text(status.started_at),
        "finished_at": _text(status.finished_at),
        "results": dict(status.results.counts),
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
