"""DAG runs and tasks as the metadata database knows them: a look through the command line costs five seconds."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter

from tests.airflow.postgres import Postgres, Row
from tests.stack import until


class Records(ABC):
    """What an Airflow has written down, wherever its processes run."""

    database: Postgres
    settled = "success"
    """What the executor says of a task's process that is over because the task is deferred."""

    @abstractmethod
    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        """What a person would read to find out what a task did."""

    @abstractmethod
    async def scheduler_log(self) -> str:
        """What the scheduler has logged."""

    def rows(self, query: str, *values: object) -> list[Row]:
        """Rows of the metadata database."""
        return self.database.rows(query, *values)

    def tasks(self, dag_id: str, run_id: str) -> list[Row]:
        """The task instances of a DAG run."""
        return self.rows("select * from task_instance where dag_id = %s and run_id = %s", dag_id, run_id)

    def task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Row:
        """One task instance."""
        (row,) = (
            row for row in self.tasks(dag_id, run_id) if (row["task_id"], row["map_index"]) == (task_id, map_index)
        )
        return row

    async def until_state(
        self, dag_id: str, run_id: str, task_id: str, *states: str, seconds: float = 120.0, tries: int = 0
    ) -> str:
        """The task's state, once it is one of these, in its `tries`-th try or a later one."""

        async def there() -> str | None:
            row = self.task(dag_id, run_id, task_id)
            seen.append(f"{row['state']} try {row['try_number']}")
            return row["state"] if row["state"] in states and row["try_number"] >= tries else None

        seen: list[str] = []
        try:
            return await until(there, seconds, f"{dag_id}.{task_id} in {states}", pause=0.2)
        except AssertionError as error:
            path = [state for state, _ in itertools.groupby(seen)]
            raise AssertionError(f"{error}; its way: {path}\n{self.log(dag_id, run_id, task_id)[-3000:]}") from None

    async def until_all(
        self, dag_id: str, run_id: str, state: str, count: int, *, tries: int = 0, seconds: float = 280.0
    ) -> None:
        """Waits until so many of the DAG run's tasks are in this state, in their `tries`-th try or a later one."""

        async def there() -> bool:
            seen.append(Counter((row["state"], row["try_number"]) for row in self.tasks(dag_id, run_id)))
            return sum(n for (now, number), n in seen[-1].items() if now == state and number >= tries) == count

        seen: list[Counter[tuple[str, int]]] = []
        try:
            await until(there, seconds, f"{count} tasks of {dag_id} {state}", pause=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}; they are {seen[-1:]}") from None

    async def until_settled(self, dag_id: str, run_id: str, seconds: float = 120.0) -> None:
        """Waits until the scheduler knows of every deferred task of the DAG run that its process is over.

        If the trigger fires before, the scheduler takes the task's first process for its second and fails the task:
        that is Airflow's, on a slow machine and with a run of seconds.
        """
        deferred = [row for row in self.tasks(dag_id, run_id) if row["state"] == "deferred"]
        await self._until_known(deferred, self.settled, seconds)

    async def until_forgettable(self, dag_id: str, run_id: str, seconds: float = 120.0) -> None:
        """Waits until the scheduler knows of every task of a DAG run that succeeded that its process is over.

        If the DAG run is deleted and created again before, the scheduler takes the end of the first task's process for
        that of the second, whose key is the same, and fails the second one before it began.
        """
        await self._until_known(self.tasks(dag_id, run_id), "success", seconds)

    async def _until_known(self, rows: list[Row], state: str, seconds: float) -> None:
        keys = [
            f"TaskInstanceKey(dag_id='{row['dag_id']}', task_id='{row['task_id']}', run_id='{row['run_id']}', "
            f"try_number={row['try_number']}, map_index={row['map_index']})"
            for row in rows
        ]

        async def knows() -> bool:
            text = await self.scheduler_log()
            return all(f"Received executor event with state {state} for task instance {key}" in text for key in keys)

        await until(knows, seconds, f"the scheduler knows of {keys}", pause=0.3)

    async def until_run(self, dag_id: str, run_id: str, seconds: float = 120.0) -> str:
        """The DAG run's state once it is over."""

        async def over() -> str | None:
            (row,) = self.rows("select state from dag_run where dag_id = %s and run_id = %s", dag_id, run_id)
            return row["state"] if row["state"] in ("success", "failed") else None

        return await until(over, seconds, f"{dag_id} {run_id} over", pause=0.3)
