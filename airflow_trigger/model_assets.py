"""The operator that emits an asset event for each model that a run built. It needs Airflow 3.

It reads the run's results where the watcher keeps them, so Airflow asks dbt Cloud for nothing. The events are stored
together with the task's success: a task that is killed has emitted none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

try:
    from airflow.sdk import Asset, AssetAlias
except ImportError:
    raise ImportError("DbtRunAssetsOperator needs Airflow 3.") from None

from airflow.providers.common.compat.sdk import AirflowSkipException

from airflow_trigger.artifacts import READ_SECONDS, KeepingRun, fetch
from airflow_trigger.failures import DbtRunLostContact, DbtRunRefused, InvalidArgument
from airflow_trigger.reacting.models import Built, built
from airflow_trigger.reacting.position import key_of
from airflow_trigger.shared.access import ClusterOperator
from airflow_trigger.shared.arguments import boolean, number, text, texts
from airflow_trigger.shared.blocking import blocking
from airflow_trigger.shared.naming import object_name
from dbtrun.api import Phase
from dbtrun.api.status import ALL_RESULTS, RUN_RESULTS
from dbtrun.kube.connect import connect
from dbtrun.kube.errors import KubeError
from dbtrun.kube.retry import patiently

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from airflow.providers.common.compat.sdk import Context

    from dbtrun.kube.config import ClusterConfig
    from dbtrun.kube.lists import Requests

RESULTS: Final = (ALL_RESULTS, RUN_RESULTS)
"""The files that say what was built, the better one first."""
MAX_ASSETS: Final = 1_500
"""Of one task: Airflow stores them in one transaction."""


class DbtRunAssetsOperator(ClusterOperator):
    """Emits one asset event for each model, seed and snapshot that a finished run built, and returns the assets' names.

    The DbtRun must keep `dbtrun/results.json`: name this file in `artifacts` of the task, or in `spec.artifacts` of the
    DbtRun. If the DbtRun keeps `run_results.json` instead, only the nodes of the last dbt step have an event. You do
    not need to declare the assets: the task has one AssetAlias, to which Airflow adds them. `ClusterOperator` has the
    arguments that find the cluster.

    :param name: the DbtRun to read. Give either this or run_id.
    :param run_id: the dbt Cloud run. The namespace must have a DbtRun of it.
    :param alias: the name of the AssetAlias; default: `dbt-models`.
    :param namespace_uri: the warehouse's address, such as `postgres://host:5432` or `snowflake://account`. With it,
        assets have the names that Cosmos and OpenLineage give them; without it `x-dbt://host/account/unique_id`.
    :param models: only these, by name or unique id.
    :param include_reused: include nodes that dbt did not build because nothing had changed.
    :param include_failed_runs: emit events also for a run that did not succeed, instead of skipping the task.
    """

    template_fields: Sequence[str] = ("name", "run_id", "namespace_uri", "models", "namespace")
    ui_color = "#ff694a"

    def __init__(
        self,
        *,
        name: str | None = None,
        run_id: int | str | None = None,
        alias: str = "dbt-models",
        namespace_uri: str | None = None,
        models: Sequence[str] | None = None,
        include_reused: bool = False,
        include_failed_runs: bool = False,
        **kwargs: Any,
    ) -> None:
        self.alias = AssetAlias(alias)
        super().__init__(outlets=[self.alias, *kwargs.pop("outlets", ())], **kwargs)
        self.name = name
        self.run_id = run_id
        self.namespace_uri = namespace_uri
        self.models = models
        self.include_reused = include_reused
        self.include_failed_runs = include_failed_runs

    def connect(self, config: ClusterConfig) -> AbstractAsyncContextManager[Requests]:
        """Connects to the API server. Tests replace this method."""
        return connect(config)

    def execute(self, context: Context) -> list[str]:
        """Adds the events.

        Raises:
            DbtRunRefused: the results are not kept, or cannot be read as results.
            DbtRunException: the run is not over.
            DbtRunLostContact: the DbtRun or its ConfigMap cannot be read.
            AirflowSkipException: the run did not succeed.
        """
        run, nodes = self._read_nodes()
        where = text("namespace_uri", self.namespace_uri), run.status.host or "dbt-cloud", run.status.account_id
        uris = {node.unique_id: node.uri(*where) for node in nodes}
        events = context["outlet_events"][self.alias]
        for node in nodes:
            extra: dict[str, Any] = {
                "key": f"{key_of(run)}/{node.unique_id}",
                "unique_id": node.unique_id,
                "status": node.status,
                "rows_affected": node.rows,
                "run_id": run.run_id,
                "job_run_url": run.status.link,
                "dbtrun": run.metadata.name,
            }
            uri = uris[node.unique_id]
            # The name is the address: names are unique in Airflow, and models of two projects can have the same.
            events.add(Asset(name=uri, uri=uri), extra=extra)
        self.log.info("DbtRun %s: %s asset events.", run.metadata.name, len(nodes))
        return list(uris.values())

    def _read_nodes(self) -> tuple[KeepingRun, list[Built]]:
        name, run_id = object_name("name", self.name), number("run_id", self.run_id)
        if (name is None) == (run_id is None):
            raise InvalidArgument("Give name (of a DbtRun) or run_id (of a dbt Cloud run), and not both.")
        models, home = texts("models", self.models, "models"), self._home
        try:
            run, path, content = blocking(
                patiently(
                    lambda: fetch(self.connect(home.config), home.namespace, name, run_id, *RESULTS), READ_SECONDS
                )
            )
        except KubeError as error:
            raise DbtRunLostContact(f"The run's results cannot be read. {error}") from None
        if run.status.phase != Phase.SUCCEEDED and not boolean("include_failed_runs", self.include_failed_runs):
            raise AirflowSkipException(
                f"DbtRun {run.metadata.name} is {run.status.phase}: include_failed_runs is not set."
            )
        if path == RUN_RESULTS:
            self.log.info("%s has the results of the last step only: keep %s for those of all.", path, ALL_RESULTS)
        try:
            nodes = built(content, models, include_reused=bool(boolean("include_reused", self.include_reused)))
        except ValueError as error:
            raise DbtRunRefused(f"{path} of DbtRun {run.metadata.name} cannot be read: {error}") from None
        if len(nodes) > MAX_ASSETS:
            raise DbtRunRefused(
                f"The run built {len(nodes)} models, and a task emits {MAX_ASSETS} at most: name some in models."
            )
        return run, nodes
