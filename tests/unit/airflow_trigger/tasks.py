"""A namespace of DbtRuns with a watcher in it that does as the test says, and a task of a DAG."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow_trigger.task.run import TaskRun
from airflow_trigger.task.runs import PAGE, read
from dbtrun.api import PLURAL
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.errors import KubeError
from dbtrun.kube.runs import DbtRuns
from tests.unit.world.apiserver import ApiServer, Direct, merged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

NAMESPACE = "team"
URL = "https://cloud.getdbt.com/deploy/1/projects/2/runs/{}/"


class FakeTaskRuns(DbtRuns[TaskRun]):
    """The real ones, at an API server in memory; what is created is started by the watcher at once, unless `asleep`."""

    def __init__(self) -> None:
        self._server = ApiServer()
        super().__init__(Direct(self._server), NAMESPACE, read, page=PAGE)
        self.failing: list[KubeError] = []
        self.failing_after: list[KubeError] = []
        """Told after the request was done: its answer is lost."""
        self.asleep = False
        self.before: Callable[[str], None] = lambda verb: None
        self.calls: list[str] = []

    @asynccontextmanager
    async def connect(self, config: ClusterConfig, namespace: str) -> AsyncIterator[FakeTaskRuns]:
        assert namespace == NAMESPACE
        yield self

    async def list(self, labels: str = "", fields: str = "") -> Sequence[TaskRun]:
        self._ask("list")
        return await super().list(labels, fields)

    async def get(self, name: str) -> TaskRun:
        self._ask("get")
        return await super().get(name)

    async def create(self, body: Mapping[str, Any]) -> TaskRun:
        self._ask("create")
        await super().create(body)
        self.put(body)
        return await self._answered(body["metadata"]["name"])

    async def patch(self, name: str, body: Mapping[str, Any], **how: Any) -> TaskRun:
        self._ask("patch")
        await super().patch(name, body, **how)
        return await self._answered(name)

    # ── the watcher's doing ──

    def put(self, body: Mapping[str, Any]) -> None:
        """An object as it was created."""
        name = body["metadata"]["name"]
        given = {"labels": {}, "annotations": {}, "uid": f"u-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
        metadata = {"namespace": NAMESPACE, **given, **body["metadata"]}
        self._server.store(PLURAL, name, {**body, "metadata": metadata, "status": {}}, namespace=NAMESPACE)
        if not self.asleep:
            self.starts(name)

    def starts(self, name: str) -> None:
        run_id = self.objects[name]["spec"].get("runId") or 70_000 + len(self.objects)
        self.says(name, phase="Running", reason="RunStarted", runId=run_id, url=URL.format(run_id))

    def says(self, name: str, **status: object) -> None:
        """A write of the status."""
        self._merge(name, {"status": status})

    def ends(self, name: str, phase: str = "Succeeded", reason: str = "RunSucceeded", **status: object) -> None:
        self.says(name, phase=phase, reason=reason, **status)

    def delete(self, name: str) -> None:
        del self._server.objects[PLURAL, NAMESPACE, name]

    @property
    def objects(self) -> dict[str, dict[str, Any]]:
        """The objects by name."""
        return {name: body for (_, _, name), body in self._server.objects.items()}

    @property
    def names(self) -> Sequence[str]:
        return sorted(self.objects)

    @property
    def only(self) -> str:
        (name,) = self.objects
        return name

    def spec(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.objects[name]["spec"]
        return found

    @property
    def cancelled(self) -> Sequence[str]:
        """The objects with a wish to end them."""
        return [name for name, body in self.objects.items() if body["spec"].get("cancel")]

    # ── inside ──

    def _ask(self, verb: str) -> None:
        self.calls.append(verb)
        self.before(verb)
        if self.failing:
            raise self.failing.pop(0)

    async def _answered(self, name: str) -> TaskRun:
        if self.failing_after:
            raise self.failing_after.pop(0)
        return await super().get(name)

    def _merge(self, name: str, change: Mapping[str, Any]) -> None:
        self._server.store(PLURAL, name, merged(self.objects[name], change), namespace=NAMESPACE)


@dataclass
class Task:
    """A task instance as Airflow gives it to an operator."""

    dag_id: str = "nightly"
    run_id: str = "scheduled__2026-01-01T00:00:00+00:00"
    task_id: str = "build"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 3
    start_date: datetime = field(default_factory=lambda: datetime.now(tz=UTC))
    xcoms: dict[str, Any] = field(default_factory=dict)
    began: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    """When the DAG run started."""
    clears: int = 0
    retries: int = 3
    """As the DAG has it now."""
    id: str | None = None
    """Airflow 3 has one for each try."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    @property
    def context(self) -> Any:
        dag_run = SimpleNamespace(start_date=self.began, clear_number=self.clears)
        return {"ti": self, "task_instance": self, "dag_run": dag_run}

    def next_try(self) -> Task:
        """What Airflow makes of a failed try."""
        begin = self.start_date + timedelta(minutes=1)
        return replace(self, try_number=self.try_number + 1, start_date=begin, xcoms={}, id=self._next_id())

    def cleared(self, retries: int | None = None, *, when_over: bool = False) -> Task:
        """What Airflow makes of a task that a person clears. `when_over`: its DAG run is over."""
        following = self.next_try()
        following.retries = self.retries if retries is None else retries
        following.max_tries = self.try_number + following.retries
        following.clears += 1
        if when_over:
            following.began += timedelta(hours=1)
        return following

    def created_again(self) -> Task:
        """The same task of a DAG run that was deleted and created again under its id."""
        begin = self.start_date + timedelta(hours=1)
        return replace(
            self,
            try_number=1,
            max_tries=self.retries,
            clears=0,
            start_date=begin,
            began=self.began + timedelta(hours=1),
            xcoms={},
            id=self._next_id(),
        )

    def _next_id(self) -> str | None:
        return self.id and f"{self.id}+"
