"""The DbtRuns and the dbt Cloud runs of a DAG run's tasks."""

from __future__ import annotations

from typing import Any, Protocol

from dbtrun.api import GROUP, PLURAL, VERSION
from tests.airflow.records import Records
from tests.controlplane import ControlPlane
from tests.stack import until


class DbtCloud(Protocol):
    """The simulator's control surface."""

    async def runs(self) -> list[dict[str, Any]]: ...

    async def ask(self, method: str, path: str, body: Any = None) -> Any: ...


class DagRuns:
    """What a test looks at, and how the dbt Cloud runs of a DAG run end."""

    def __init__(self, plane: ControlPlane, namespace: str, dbt: DbtCloud, airflow: Records) -> None:
        self.plane, self.namespace, self.dbt, self.airflow = plane, namespace, dbt, airflow

    async def objects(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The DbtRuns of a DAG run's tasks, by their labels, oldest first."""
        selector = f"airflow.dbtrun.dev/dag-id={dag_id},airflow.dbtrun.dev/run-id={run_id}"
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}?labelSelector={selector}"
        found = await self.plane.read(path)
        assert found is not None
        return sorted(found["items"], key=lambda item: int(item["metadata"]["labels"]["airflow.dbtrun.dev/try"]))

    async def dbt_runs(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The dbt Cloud runs that a DAG run's tasks started, as dbt Cloud knows them."""
        markers = [f"dbtrun:{item['metadata']['uid']}/" for item in await self.objects(dag_id, run_id)]
        return [run for run in await self.dbt.runs() if any(marker in run["cause"] for marker in markers)]

    async def dbt_runs_of(self, dag_id: str) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """The DbtRuns of all tasks of a DAG, each with the dbt Cloud runs that it started."""
        selector = f"airflow.dbtrun.dev/dag-id={dag_id}"
        path = f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}?labelSelector={selector}"
        found = await self.plane.read(path)
        assert found is not None
        runs = await self.dbt.runs()
        markers = [f"dbtrun:{item['metadata']['uid']}/" for item in found["items"]]
        started = [[run for run in runs if marker in run["cause"]] for marker in markers]
        return list(zip(found["items"], started, strict=True))

    async def dbt_statuses(self, dag_id: str, run_id: str) -> list[int]:
        """Their status codes: 3 runs, 10 succeeded, 20 failed, 30 was cancelled."""
        return sorted(int(run["status"]) for run in await self.dbt_runs(dag_id, run_id))

    async def until_dbt(self, dag_id: str, run_id: str, *statuses: list[int], seconds: float = 120.0) -> None:
        """Waits until the DAG run's dbt Cloud runs have these statuses, or these."""

        async def there() -> bool:
            seen.append(await self.dbt_statuses(dag_id, run_id))
            return seen[-1] in statuses

        seen: list[list[int]] = []
        try:
            await until(there, seconds, f"the dbt runs of {dag_id} {run_id} in {statuses}", pause=0.3)
        except AssertionError as error:
            told = [item.get("status") for item in await self.objects(dag_id, run_id)]
            log = self.airflow.log(dag_id, run_id, "job")[-3000:]
            raise AssertionError(f"{error}; they were {seen[-1:]}; the objects: {told}\n{log}") from None

    async def finish(self, dag_id: str, run_id: str, *statuses: int) -> None:
        """Ends the DAG run's live dbt Cloud runs as dbt Cloud would, by task and map index; default: all succeed."""

        async def begun() -> list[dict[str, Any]] | None:
            found = await self.objects(dag_id, run_id)
            return found if all("runId" in item.get("status", {}) for item in found) else None

        await self.airflow.until_settled(dag_id, run_id)
        objects = await until(begun, 60, f"the dbt runs of {dag_id} {run_id}", pause=0.3)
        order = {item["status"]["runId"]: _place(item) for item in objects}
        live = [run["id"] for run in await self.dbt_runs(dag_id, run_id) if run["status"] < 10]
        for run, status in zip(sorted(live, key=order.__getitem__), statuses or [10] * len(live), strict=True):
            await self.dbt.ask("POST", f"/runs/{run}/finish", {"status": status})


def _place(item: dict[str, Any]) -> tuple[str, int]:
    labels = item["metadata"]["labels"]
    return labels["airflow.dbtrun.dev/task-id"], int(labels.get("airflow.dbtrun.dev/map-index", -1))
