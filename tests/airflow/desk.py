"""What a person does in Airflow's user interface, in each generation's own way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from tests.patience import patience
from tests.plain import TRUSTS_NOBODY
from tests.stack import until

if TYPE_CHECKING:
    from tests.airflow.stack import Airflow


class Desk(Protocol):
    """The acts. A state is `failed` or `success`."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any]) -> None: ...

    async def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None: ...

    async def mark_run(self, dag_id: str, run_id: str, state: str) -> None: ...

    async def clear(
        self,
        dag_id: str,
        run_id: str,
        task_id: str = "",
        *,
        downstream: bool = False,
        past: bool = False,
        future: bool = False,
    ) -> None: ...

    async def pause(self, dag_id: str) -> None: ...

    async def unpause(self, dag_id: str) -> None: ...

    async def backfill(self, dag_id: str, date: str) -> None: ...

    async def delete_run(self, dag_id: str, run_id: str) -> None: ...

    async def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any: ...

    async def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]: ...


class Rest:
    """Airflow 3: its REST API.

    Args:
        url: of the API server.
        alive: raises if the API server will never answer.
    """

    def __init__(self, url: str, alive: Callable[[], None] = lambda: None) -> None:
        self._alive = alive
        self._http = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=TRUSTS_NOBODY)

    async def open(self, seconds: float = 240.0) -> None:
        async def healthy() -> bool:
            self._alive()
            try:
                return (await self._http.get("/api/v2/monitor/health")).is_success
            except httpx.TransportError:
                return False

        await until(healthy, seconds, "the API server", pause=0.3)
        answer = await self._http.get("/auth/token")
        answer.raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    async def close(self) -> None:
        await self._http.aclose()

    async def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        await self._ask("POST", f"/dags/{dag_id}/dagRuns", body)

    async def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        await self._ask("PATCH", f"{_path(dag_id, run_id)}/taskInstances/{task_id}", {"new_state": state})

    async def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        await self._ask("PATCH", _path(dag_id, run_id), {"state": state})

    async def clear(
        self,
        dag_id: str,
        run_id: str,
        task_id: str = "",
        *,
        downstream: bool = False,
        past: bool = False,
        future: bool = False,
    ) -> None:
        """Without a task: the whole DAG run."""
        if not task_id:
            await self._ask("POST", f"{_path(dag_id, run_id)}/clear", {"dry_run": False, "only_failed": False})
            return
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": [task_id], "only_failed": False}
        more = {"include_downstream": downstream, "include_past": past, "include_future": future}
        await self._ask("POST", f"/dags/{dag_id}/clearTaskInstances", body | more)

    async def pause(self, dag_id: str) -> None:
        await self._ask("PATCH", f"/dags/{dag_id}", {"is_paused": True})

    async def unpause(self, dag_id: str) -> None:
        await self._ask("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    async def backfill(self, dag_id: str, date: str) -> None:
        """Of one day, of which what is over runs again. One at a time: the one before must be over."""
        await self.unpause(dag_id)
        body = {"dag_id": dag_id, "from_date": f"{date}T00:00:00Z", "to_date": f"{date}T00:00:00Z"}
        more = {"reprocess_behavior": "completed", "max_active_runs": 1, "run_backwards": False, "dag_run_conf": {}}

        async def taken() -> bool:
            answer = await self._http.post("/api/v2/backfills", json=body | more)
            assert answer.is_success or answer.status_code == 409, answer.text
            return answer.is_success

        await until(taken, 300, f"a backfill of {dag_id}", pause=2)

    async def delete_run(self, dag_id: str, run_id: str) -> None:
        """A running one is refused: whoever deletes must end it first."""
        await self.mark_run(dag_id, run_id, "failed")
        await self._ask("DELETE", _path(dag_id, run_id))

    async def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        path = f"{_path(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}"
        return (await self._ask("GET", f"{path}?deserialize=true"))["value"]

    async def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        found = await self._ask("GET", f"{_path(dag_id, run_id)}/taskInstances/{task_id}/links")
        links: dict[str, str | None] = found["extra_links"]
        return links

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self._http.request(method, f"/api/v2{path}", json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


def _path(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{run_id}"


class Inside:
    """Airflow 2: a process in its environment that calls what the user interface calls; see inside.py."""

    def __init__(self, airflow: Airflow) -> None:
        self._airflow = airflow
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def open(self) -> None:
        pipe, log = asyncio.subprocess.PIPE, self._airflow.home / "desk.log"
        with log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                str(self._airflow.python),
                str(Path(__file__).with_name("inside.py")),
                env=self._airflow.env,
                stdin=pipe,
                stdout=pipe,
                stderr=errors,
            )

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
        await self._ask("trigger", dag_id, run_id, conf)

    async def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        await self._ask("mark", dag_id, run_id, task_id, state)

    async def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        await self._ask("mark_run", dag_id, run_id, state)

    async def clear(
        self,
        dag_id: str,
        run_id: str,
        task_id: str = "",
        *,
        downstream: bool = False,
        past: bool = False,
        future: bool = False,
    ) -> None:
        await self._ask("clear", dag_id, run_id, task_id, downstream, past, future)

    async def parse(self) -> None:
        """Stores the DAGs of the files as they are now."""
        await self._ask("parse")

    async def pause(self, dag_id: str) -> None:
        await self._ask("pause", dag_id)

    async def unpause(self, dag_id: str) -> None:
        await self._ask("unpause", dag_id)

    async def backfill(self, dag_id: str, date: str) -> None:
        await self.unpause(dag_id)
        await self._airflow.command(
            "dags", "backfill", "-s", date, "-e", date, "--reset-dagruns", "-y", dag_id, name=f"backfill-{dag_id}"
        )

    async def delete_run(self, dag_id: str, run_id: str) -> None:
        await self._ask("delete_run", dag_id, run_id)

    async def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        return await self._ask("xcom", dag_id, run_id, task_id, key)

    async def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        links: dict[str, str | None] = await self._ask("links", dag_id, run_id, task_id)
        return links

    async def _ask(self, act: str, *arguments: Any) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._lock, asyncio.timeout(patience(60)):
            self._process.stdin.write(json.dumps([act, *arguments]).encode() + b"\n")
            line = await self._process.stdout.readline()
        assert line, (self._airflow.home / "desk.log").read_text()[-2000:]
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]
