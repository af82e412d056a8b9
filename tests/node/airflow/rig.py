"""An Airflow in pods with the watcher beside its triggerer, and all that they stand on."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from tests.airflow import environments
from tests.airflow.dagruns import DagRuns
from tests.airflow.desk import Rest
from tests.airflow.postgres import Postgres
from tests.airflow.records import Records
from tests.airflow.rig import scenario
from tests.node import Node, images
from tests.node.airflow.pods import API_PORT, DAGS, SCHEDULER, TRIGGERER, WORKER, Pods
from tests.node.beside import Beside, state_of
from tests.node.images import Recipe
from tests.stack import until

HERE: Final = Path(__file__).parent
NAMESPACE: Final = "airflow"
RELEASE: Final = environments.RELEASES["3.3.2"]
IMAGE: Final = f"docker.io/dbtrun/airflow:{RELEASE.version}"
NOWHERE: Final = "127.0.0.1"
PATIENCE_SECONDS: Final = 900
"""For whatever is waited for: each pod imports Airflow, and a busy machine takes minutes for what takes seconds."""


def image() -> Path:
    """The archive of Airflow's image with DbtRun's wheel in it."""
    with tempfile.TemporaryDirectory(prefix="dbtrun-airflow-") as folder:
        context = Path(folder)
        environments.build_wheel(context / "wheel")
        (context / "constraints").mkdir()
        shutil.copy(RELEASE.constraints, context / "constraints/airflow.txt")
        shutil.copy(HERE / "constraints.txt", context / "constraints/kubernetes.txt")
        return images.built(Recipe(IMAGE, (HERE / "Dockerfile").read_text(), context))


class Airflow(Records):
    """Airflow's pods, and what a person does with it."""

    settled = "deferred"

    def __init__(self, beside: Beside, pods: Pods, database: Postgres) -> None:
        self.beside, self.pods, self.database = beside, pods, database
        self._count = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def up(cls, beside: Beside) -> AsyncIterator[Airflow]:
        """Everything running and every DAG known. The node ends the pods."""
        async with Postgres.up(address=beside.node.host) as database:
            pods = Pods(beside.namespace, IMAGE, beside.values, database.url)
            airflow = cls(beside, pods, database)
            await airflow._start()
            try:
                await airflow.desk.open(PATIENCE_SECONDS)
                await airflow._parsed()
                yield airflow
            finally:
                await airflow.desk.close()

    async def trigger(self, dag_id: str) -> str:
        """Starts a DAG run and returns its id."""
        self._count += 1
        run_id = f"r{self._count}"
        await self.desk.trigger(dag_id, run_id, {})
        return run_id

    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Tasks' logs go with their pods: the scheduler's must do."""
        return self.beside.plane.kubectl_sync("-n", self.beside.namespace, "logs", "airflow-scheduler").stdout

    async def scheduler_log(self) -> str:
        return await self.beside.kubectl("logs", "airflow-scheduler")

    async def _start(self) -> None:
        await self.beside.apply(*self.pods.before(), self.pods.common(NOWHERE), self.pods.migration())
        done = ("wait", "--for=condition=Complete", "job/airflow-migration", f"--timeout={PATIENCE_SECONDS}s")
        await self.beside.kubectl(*done, timeout=PATIENCE_SECONDS + 10)
        await self.beside.apply(self.pods.part("api-server"))
        address = await until(self._address, PATIENCE_SECONDS, "the API server's address", pause=0.3)
        parts = [self.pods.part("scheduler", SCHEDULER), self.pods.part("dag-processor"), self.pods.triggerer()]
        await self.beside.apply(self.pods.common(address), *parts)
        self.desk = Rest(f"http://{address}:{API_PORT}")

    async def _address(self) -> str:
        return await self.beside.kubectl("get", "pod", "airflow-api-server", "-ojsonpath={.status.podIP}")

    async def _parsed(self) -> None:
        async def known() -> bool:
            errors = self.rows("select * from import_error")
            assert not errors, errors
            rows = self.rows("select dag_id from serialized_dag")
            return {path.stem for path in DAGS.glob("*.py")} <= {row["dag_id"] for row in rows}

        await until(known, PATIENCE_SECONDS, "every DAG read", pause=0.5)


class Rig(DagRuns):
    """Airflow, and what a test does to it."""

    airflow: Airflow

    def __init__(self, beside: Beside, airflow: Airflow) -> None:
        super().__init__(beside.plane, beside.namespace, beside, airflow)
        self.beside = beside

    @classmethod
    @contextlib.asynccontextmanager
    async def up(cls, node: Node, folder: Path) -> AsyncIterator[Rig]:
        """Everything running; at the end no dbt token was ever in Airflow's database."""
        async with (
            Beside.up(node, NAMESPACE, folder, (SCHEDULER, TRIGGERER, WORKER), scenario=scenario()) as beside,
            Airflow.up(beside) as airflow,
        ):
            yield cls(beside, airflow)
            assert not airflow.database.holds(beside.token)

    async def held(self, dag_id: str, run_id: str, task_id: str) -> str:
        """The pod of the task that has created its DbtRun and not deferred yet."""

        async def there() -> str | None:
            query = "select value from xcom where dag_id = %s and run_id = %s and task_id = %s and key = 'held'"
            rows = self.airflow.rows(query, dag_id, run_id, task_id)
            return str(rows[0]["value"]).strip('"') if rows else None

        return await until(there, PATIENCE_SECONDS, f"{task_id} between its DbtRun and its deferral", pause=0.3)

    async def delete_worker(self, name: str) -> None:
        """Deletes a pod by force. The kubelet still sends SIGTERM to what runs in it, and then SIGKILL."""
        await self.beside.kubectl("delete", "pod", name, "--force", "--grace-period=0")

    @contextlib.asynccontextmanager
    async def without_triggerer(self) -> AsyncIterator[None]:
        """Deletes the triggerer's pod and the watcher in it. Inside, its successor has not begun; after, it has."""
        pod = "airflow-triggerer-0"
        await self.beside.kubectl("delete", "pod", pod, "--timeout=150s", timeout=160)
        yield
        successor = await self.beside.pod(pod)
        assert successor is None or "running" not in state_of(successor, "triggerer").get("state", {}), (
            "it came too soon"
        )
        await self.beside.ready(seconds=PATIENCE_SECONDS)

    async def until_watched(self, dag_id: str, run_id: str, count: int) -> None:
        """Waits until a triggerer has the triggers of so many tasks."""
        query = (
            "select count(*) as count from task_instance join trigger on trigger.id = trigger_id"
            " where dag_id = %s and run_id = %s and triggerer_id is not null"
        )

        async def has() -> bool:
            (row,) = self.airflow.rows(query, dag_id, run_id)
            return bool(row["count"] == count)

        await until(has, PATIENCE_SECONDS, f"{count} triggers at work", pause=0.3)

    async def end(self, dag_id: str, run_id: str, ends: Mapping[str, int]) -> None:
        """Ends the dbt Cloud runs of some tasks with a status code each."""
        objects = {
            item["metadata"]["labels"]["airflow.dbtrun.dev/task-id"]: item
            for item in await self.objects(dag_id, run_id)
        }
        for task, status in ends.items():
            await self.dbt.ask("POST", f"/runs/{objects[task]['status']['runId']}/finish", {"status": status})
