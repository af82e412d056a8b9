"""The operator that reads a file of a run, such as run_results.json, from where the watcher keeps it."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from airflow_trigger.failures import DbtRunException, DbtRunLostContact, DbtRunRefused, InvalidArgument
from airflow_trigger.shared.access import ClusterOperator
from airflow_trigger.shared.arguments import number, text, warn_without_effect
from airflow_trigger.shared.blocking import blocking
from airflow_trigger.shared.naming import object_name
from airflow_trigger.shared.objects import Run, RunSpec, RunStatus
from dbtrun.api.views import View
from dbtrun.kube.answers import decode
from dbtrun.kube.connect import connect
from dbtrun.kube.errors import KubeError, NotFound
from dbtrun.kube.lists import Requests
from dbtrun.kube.paths import api_path
from dbtrun.kube.retry import patiently
from dbtrun.kube.runs import DbtRuns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from airflow.providers.common.compat.sdk import Context

    from dbtrun.kube.config import ClusterConfig

PAGE: Final = 500
READ_SECONDS: Final = 60.0
"""How long an API server that does not answer is asked again."""


class DbtRunArtifactOperator(ClusterOperator):
    """Writes a file of a finished run to the worker's disk, byte for byte, and returns the file's name.

    `spec.artifacts` of the DbtRun must name the file. `ClusterOperator` has the arguments that find the cluster.

    :param name: the DbtRun to read. Give either this or run_id.
    :param run_id: the dbt Cloud run. The namespace must have a DbtRun of it.
    :param path: path of the file, as in `spec.artifacts`.
    :param output_file_name: where to write it. Default: `<run_id>_<path>` with `-` for `/`.
    :param dbt_cloud_conn_id: has no effect.
    :param account_id: has no effect.
    :param step: has no effect.
    :param hook_params: has no effect.
    """

    template_fields: Sequence[str] = ("name", "run_id", "path", "output_file_name", "namespace")
    ui_color = "#ff694a"

    def __init__(
        self,
        *,
        path: str,
        name: str | None = None,
        run_id: int | str | None = None,
        output_file_name: str | None = None,
        dbt_cloud_conn_id: str | None = None,
        account_id: int | None = None,
        step: int | None = None,
        hook_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.name = name
        self.run_id = run_id
        self.output_file_name = output_file_name
        self.dbt_cloud_conn_id = dbt_cloud_conn_id
        self.account_id = account_id
        self.step = step
        self.hook_params = hook_params or {}
        warn_without_effect(
            dbt_cloud_conn_id=dbt_cloud_conn_id, account_id=account_id, step=step, hook_params=hook_params
        )

    def connect(self, config: ClusterConfig) -> AbstractAsyncContextManager[Requests]:
        """Connects to the API server. Tests replace this method."""
        return connect(config)

    def execute(self, context: Context) -> str:
        """Reads and writes the file.

        Raises:
            InvalidArgument: an argument cannot be used.
            DbtRunRefused: the file is not kept; the message says why.
            DbtRunException: the run is not over.
            DbtRunLostContact: the DbtRun or its ConfigMap cannot be read.
        """
        home = self._home
        name, run_id = object_name("name", self.name), number("run_id", self.run_id)
        path, output = text("path", self.path), text("output_file_name", self.output_file_name)
        if (name is None) == (run_id is None):
            raise InvalidArgument("Give name (of a DbtRun) or run_id (of a dbt Cloud run), and not both.")
        if path is None:
            raise InvalidArgument("path must be text: a file below target/, as in spec.artifacts")
        try:
            run, _, content = blocking(
                patiently(lambda: fetch(self.connect(home.config), home.namespace, name, run_id, path), READ_SECONDS)
            )
        except NotFound as error:
            raise DbtRunLostContact(
                f"The file cannot be read; it is deleted together with its DbtRun: {error}"
            ) from None
        except KubeError as error:
            raise DbtRunLostContact(f"The file cannot be read. {error}") from None
        target = Path(output or f"{run.run_id}_{path}".replace("/", "-"))
        self.log.info("Writing %s of DbtRun %s to %s.", path, run.metadata.name, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return str(target)


class KeepingSpec(RunSpec, frozen=True, kw_only=True):
    """The spec, with the files to keep."""

    artifacts: tuple[str, ...] = ()


class KeptFile(View, frozen=True, kw_only=True):
    """One of `status.artifacts`."""

    path: str
    config_map: str | None = None
    key: str | None = None
    problem: str = ""


class KeepingStatus(RunStatus, frozen=True, kw_only=True):
    """The status, with the run and the places of its files."""

    host: str | None = None
    artifacts: tuple[KeptFile, ...] = ()


class KeepingRun(Run, frozen=True, kw_only=True):
    """A DbtRun, with what concerns its files."""

    spec: KeepingSpec
    status: KeepingStatus = KeepingStatus()

    def file(self, path: str) -> KeptFile | None:
        """What the object says of a file; None: it was not asked for."""
        return next((file for file in self.status.artifacts if file.path == path), None)


def keeper(runs: Iterable[KeepingRun], run_id: int | None, *paths: str) -> KeepingRun:
    """The DbtRun of a dbt Cloud run; of several, one that keeps the first of these files, or else the next.

    Raises:
        DbtRunRefused: there is none.
    """

    def rank(run: KeepingRun) -> tuple[bool, ...]:
        # Several DbtRuns follow one run when one started it and others name it in `runId`; each keeps what it asks for
        # itself.
        files = map(run.file, paths)
        return *(file is not None and file.config_map is not None for file in files), run.final

    found = max((run for run in runs if run.run_id == run_id), key=rank, default=None)
    if found is None:
        raise DbtRunRefused(f"There is no DbtRun of dbt Cloud run {run_id} in the namespace.")
    return found


def kept_file(run: KeepingRun, path: str) -> KeptFile:
    """Where the file is.

    Raises:
        DbtRunRefused: it is not kept.
        DbtRunException: it is not kept yet.
    """
    file, name = run.file(path), run.metadata.name
    if not run.final:
        raise DbtRunException(f"DbtRun {name} is {run.status.phase or 'Pending'}; its files are kept when it ends.")
    # Asked for, but the status names no problem: a run that never began, or an object that was being deleted.
    if file is None and path in run.spec.artifacts:
        raise DbtRunRefused(f"{path} of DbtRun {name} was not kept: it ended as {run.status.phase}.")
    if file is None:
        raise DbtRunRefused(f"DbtRun {name} does not keep {path}: name it in spec.artifacts before the run ends.")
    if file.config_map is None or file.key is None:
        raise DbtRunRefused(f"{path} of DbtRun {name} was not kept. {file.problem}")
    return file


# ── requests ──


async def fetch(
    connection: AbstractAsyncContextManager[Requests], namespace: str, name: str | None, run_id: int | None, *paths: str
) -> tuple[KeepingRun, str, bytes]:
    """A file of the DbtRun with this name or dbt Cloud run, as: the DbtRun, the file's path, its content.

    Of several paths, only the first that the DbtRun was asked to keep is read: if that file could not be kept, the next
    ones are no answer.
    """
    async with connection as requests:
        files = Files(requests, namespace)
        run = await files.run(name) if name is not None else keeper(await files.runs(), run_id, *paths)
        kept = kept_file(run, next((path for path in paths if path in run.spec.artifacts), paths[0]))
        return run, kept.path, await files.content(str(kept.config_map), str(kept.key))


class Files:
    """The DbtRuns of a namespace, and the ConfigMaps of their files."""

    def __init__(self, requests: Requests, namespace: str) -> None:
        self._requests = requests
        self._namespace = namespace
        self._runs = DbtRuns(requests, namespace, read, page=PAGE)

    async def run(self, name: str) -> KeepingRun:
        """One of the DbtRuns."""
        return await self._runs.get(name)

    async def runs(self) -> Sequence[KeepingRun]:
        """All of them: selecting custom resources by a field needs Kubernetes 1.31."""
        return await self._runs.list()

    async def content(self, config_map: str, key: str) -> bytes:
        """A file as dbt Cloud had it.

        Raises:
            NotFound: somebody took it out of its ConfigMap.
        """
        path = api_path("api/v1", self._namespace, "configmaps", config_map)
        stored = decode(await self._requests.request("GET", path), _ConfigMap)
        if key in stored.data:
            return stored.data[key].encode()
        if key in stored.binary_data:
            return b64decode(stored.binary_data[key])
        raise NotFound(f"ConfigMap {config_map} has no key {key}")


class _ConfigMap(msgspec.Struct, rename="camel"):
    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}


read: Final = msgspec.json.Decoder(KeepingRun).decode
