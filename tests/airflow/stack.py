"""An Airflow that runs: its own processes, its own Postgres, everything gone at the end.

Only what differs between the generations is asked of a `Desk` (desk.py); states are read from the database, for a look
through the command line costs five seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import shutil
import signal
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from tests.airflow import environments
from tests.airflow.desk import Desk, Inside, Rest
from tests.airflow.environments import Environment, Release
from tests.airflow.postgres import Postgres
from tests.airflow.records import Records
from tests.ports import free_ports
from tests.stack import Program, until
from tests.stack.program import kept

DAGS: Final = Path(__file__).parent / "dags"
HEALTH_SECONDS: Final = 8
"""A triggerer that was silent for so long has lost its triggers to another."""

FAST: Final = {
    "CORE__LOAD_EXAMPLES": "False",
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": "8",
    "CORE__MAX_ACTIVE_TASKS_PER_DAG": "200",
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
    "API__HOST": "127.0.0.1",
    "API__WORKERS": "1",
    "API__SECRET_KEY": "of-these-tests",
    "API_AUTH__JWT_SECRET": "of-these-tests-" * 5,
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "WORKERS__EXECUTION_API_TIMEOUT": "60",
    "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
    "SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "600",
    "SCHEDULER__DAG_DIR_LIST_INTERVAL": "600",
    # A DAG that is parsed twice within this time is stored once.
    "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    # Airflow 2 fails a task once more if it finds its dead process twice before it has acted: on a slow machine.
    "SCHEDULER__ZOMBIE_DETECTION_INTERVAL": "20",
    # Else a DAG whose file takes a minute to parse, on a slow machine, is taken for one that is gone.
    "SCHEDULER__STALE_DAG_THRESHOLD": "1200",
    "DAG_PROCESSOR__STALE_DAG_THRESHOLD": "1200",
    "DAG_PROCESSOR__REFRESH_INTERVAL": "600",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": str(HEALTH_SECONDS),
    "TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "USAGE_DATA_COLLECTION__ENABLED": "False",
}
"""What differs from a production's configuration: shorter intervals, loopback, no examples."""

PRELOADED: Final = ("airflow_trigger.operator", "airflow_trigger.sensor", "dbtrun.kube.cluster", "jinja2.ext")
"""Tasks are forked from a process that has these: to import them costs each almost a second of processor time."""


class Airflow(Records):
    """One release at work. `async with Airflow.up(release, folder, env) as airflow`."""

    def __init__(
        self, release: Release, made: Environment, database: Postgres, folder: Path, env: Mapping[str, str]
    ) -> None:
        self.release, self.python, self.database, self.home = release, made.python, database, folder
        self.dags = folder / "dags"
        (self.port,) = free_ports(1)
        self.env = self._environment(env)
        self.programs: dict[str, Program] = {}
        self._sessions: dict[int, float] = {}
        """When each began: a session that is over may leave its number to a stranger's."""
        self._numbers = itertools.count(1)
        self._parsing = asyncio.Lock()
        self.desk = self._new_desk()

    @classmethod
    @contextlib.asynccontextmanager
    async def up(cls, release: Release, folder: Path, env: Mapping[str, str]) -> AsyncIterator[Airflow]:
        """Everything running and every DAG known; at the end everything is gone.

        Args:
            release: which Airflow.
            folder: AIRFLOW_HOME.
            env: further variables of all its processes.
        """
        made = await asyncio.to_thread(environments.ensure, release)
        async with Postgres.up(made.database) as database:
            airflow = cls(release, made, database, folder, env)
            try:
                airflow._found()
                for name in airflow.parts:
                    airflow.start(name)
                await airflow.desk.open()
                await airflow._parsed()
                yield airflow
            finally:
                await airflow.desk.close()
                airflow.end()

    # ── processes ──

    @property
    def parts(self) -> tuple[str, ...]:
        """The commands that run."""
        if self.release.generation == 3:
            return ("api-server", "dag-processor", "scheduler", "triggerer")
        return ("scheduler", "triggerer")

    def program(self, name: str, argv: Iterable[str]) -> Program:
        """A program in Airflow's environment, not started."""
        return Program(name, [str(self.python), *argv], self.env, self.home / f"{name}.log")

    def start(self, command: str, name: str | None = None) -> Program:
        """Starts one of Airflow's commands; `name` tells several of one kind apart."""
        name = name or command
        if name not in self.programs:
            # Nobody reads logs through their servers, each of which is a process that imports Airflow once more.
            options = ["--skip-serve-logs"] if command in ("scheduler", "triggerer") else []
            # Not `python -m`, which would import what lies in the current folder before what is installed.
            self.programs[name] = self.program(name, [str(self.python.with_name("airflow")), command, *options])
        self.programs[name].start()
        self._began(self.programs[name])
        return self.programs[name]

    async def command(self, *argv: str, name: str | None = None) -> None:
        """One of Airflow's commands that ends by itself, and well."""
        name = name or "-".join(argv[:2])
        program = self.program(name, [str(self.python.with_name("airflow")), *argv])
        program.start()
        self._began(program)
        status = await program.wait(600)
        assert status == 0, f"airflow {' '.join(argv)} ended with {status}:\n{program.tail()}"

    async def parsed_again(self, dag_id: str) -> None:
        """Has the DAG files read now, and waits until this DAG is known."""
        # Two at once would both add the same DAG.
        async with self._parsing:
            if isinstance(self.desk, Inside):
                await self.desk.parse()
            else:
                await self.command("dags", "reserialize")

        async def known() -> bool:
            return bool(self.rows("select dag_id from serialized_dag where dag_id = %s", dag_id))

        await until(known, 90, f"{dag_id} known", pause=0.5)

    async def reset(self) -> None:
        """The metadata database knows no DAG run any more, and gives the same ids again, as one that was made anew."""
        await self.kill("scheduler")  # it could hold some of the rows
        await asyncio.to_thread(self.database.empty, "dag_run")
        self.start("scheduler")

    def keep(self, name: str) -> None:
        """What a Deployment does for a part that ended: Airflow 2's scheduler does when its DAG run is deleted."""
        if not self.programs[name].running:
            self.start(name)

    def family(self, name: str) -> list[psutil.Process]:
        """A part's process and everything that it started."""
        try:
            parent = psutil.Process(self.programs[name].pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    async def kill(self, name: str) -> None:
        """kill -9 of a part and of all that it started."""
        self.send(name, signal.SIGKILL)
        await self.programs[name].wait(10)

    def send(self, name: str, number: signal.Signals) -> None:
        """A signal to a part and to all that it started."""
        for process in self.family(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def stop_worker_of(self, process: int) -> None:
        """SIGTERM to what has started a task's process, as when its pod is deleted."""
        # Airflow 3.1 and 3.2 do not pass the signal on: in a pod, the init process sends it to both.
        passes_on = not self.release.version.startswith(("3.1.", "3.2."))
        os.kill(psutil.Process(process).ppid() if passes_on else process, signal.SIGTERM)

    def end(self) -> None:
        """Ends every process of every session that was started here, whoever its parent is by now."""
        sessions = {pid for pid, began in self._sessions.items() if began_at(pid) in (began, None)}
        mine = [process for process in psutil.process_iter() if session_of(process.pid) in sessions]
        for process in mine:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(mine, timeout=10)

    def _began(self, program: Program) -> None:
        self._sessions[program.pid] = psutil.Process(program.pid).create_time()

    @contextlib.asynccontextmanager
    async def reading(self, file: str) -> AsyncIterator[None]:
        """Has a DAG file read every two seconds, as after a change.

        Airflow 2 acts on a task's dead process when it reads the task's file. Of many that died together it acts on
        one, and on the others when the file is read again, which in production is half a minute later.
        """

        async def read() -> None:
            while True:
                (self.dags / file).touch()
                await asyncio.sleep(2)

        if self.release.generation == 3:
            yield
            return
        reader = asyncio.create_task(read())
        try:
            yield
        finally:
            reader.cancel()

    # ── what a person does ──

    async def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Starts a DAG run and returns its id."""
        run_id = f"r{next(self._numbers)}"
        await self.desk.trigger(dag_id, run_id, dict(conf or {}))
        return run_id

    # ── what a person sees ──

    async def scheduler_log(self) -> str:
        return self.programs["scheduler"].text()

    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Everything that the task's tries and their triggers logged."""
        folder = self.home / f"logs/dag_id={dag_id}/run_id={run_id}/task_id={task_id}"
        return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*.log")))

    async def until_watched(self, dag_id: str, run_id: str, task_id: str, seconds: float = 60.0) -> None:
        """Waits until a triggerer runs the task's trigger: one that is stopped before has nobody to tell."""
        words = f"trigger {dag_id}/{run_id}/{task_id}/"

        async def said() -> bool:
            # Airflow 2 says it in the triggerer's log, Airflow 3 in the task's.
            texts = [program.text() for name, program in self.programs.items() if name.startswith("triggerer")]
            return any(words in text for text in (*texts, self.log(dag_id, run_id, task_id)))

        await until(said, seconds, f"{words} at work", pause=0.2)

    async def until_told(self, dag_id: str, run_id: str, key: str, seconds: float = 60.0) -> None:
        """Waits until the DAG run has an XCom of this key: a task whose row goes before it tells fails by that."""

        async def told() -> bool:
            query = "select key from xcom where dag_id = %s and run_id = %s and key = %s"
            return bool(self.rows(query, dag_id, run_id, key))

        await until(told, seconds, f"{key} of {dag_id} {run_id}", pause=0.2)

    async def stays(self, dag_id: str, run_id: str, task_id: str, state: str, seconds: float) -> None:
        """Asserts that the task is in this state all the time."""
        ends = time.monotonic() + seconds

        async def over() -> bool:
            now = self.task(dag_id, run_id, task_id)["state"]
            assert now == state, f"{dag_id}.{task_id} became {now}\n{self.log(dag_id, run_id, task_id)[-3000:]}"
            return time.monotonic() > ends

        await until(over, seconds + 10, pause=0.5)

    def triggerer_of(self, dag_id: str, run_id: str) -> int | None:
        """The triggerer's job that has the trigger of the DAG run's one deferred task; None: nobody has it."""
        query = (
            "select trigger.triggerer_id as triggerer from task_instance join trigger on trigger.id = trigger_id"
            " where dag_id = %s and run_id = %s"
        )
        rows = self.rows(query, dag_id, run_id)
        return rows[0]["triggerer"] if rows else None

    async def until_triggerer(self, dag_id: str, run_id: str, other_than: int | None = None) -> int:
        """The triggerer that has the DAG run's trigger, once it is another than this."""

        async def has() -> int | None:
            now = self.triggerer_of(dag_id, run_id)
            return now if now != other_than else None

        return await until(has, HEALTH_SECONDS + 60, f"another triggerer than {other_than}", pause=0.2)

    async def until_bereft(self, job: int) -> None:
        """Waits until a triggerer that is gone has lost all its triggers to others."""

        async def bereft() -> bool:
            return not self.rows("select id from trigger where triggerer_id = %s", job)

        await until(bereft, HEALTH_SECONDS + 60, f"the triggers of job {job} elsewhere", pause=0.2)

    async def until_beats(self, job: int, beats: float = 4.0) -> None:
        """Waits until a job has worked for so many seconds more: its heart beats once a second."""
        begin = datetime.now(UTC)

        async def worked() -> bool:
            (row,) = self.rows("select latest_heartbeat from job where id = %s", job)
            return bool((row["latest_heartbeat"] - begin).total_seconds() > beats)

        await until(worked, 60, f"job {job} at work", pause=0.3)

    def holds(self, secret: str) -> list[str]:
        """The files of AIRFLOW_HOME and the tables of the database where the secret stands."""
        needle = secret.encode()
        files = (path for path in self.home.rglob("*") if path.is_file())
        found = [str(path.relative_to(self.home)) for path in files if needle in path.read_bytes()]
        return found + [f"table {name}" for name in self.database.holds(secret)]

    # ── set-up ──

    def _new_desk(self) -> Desk:
        return Rest(f"http://127.0.0.1:{self.port}", self._serves) if self.release.generation == 3 else Inside(self)

    def _serves(self) -> None:
        server = self.programs["api-server"]
        assert server.running, server.tail()

    def _environment(self, env: Mapping[str, str]) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.port}"
        ours = {
            "CORE__DAGS_FOLDER": str(self.dags),
            # Else whoever starts first makes one up, and the next perhaps another.
            "CORE__FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "API__PORT": str(self.port),
            "API__BASE_URL": url,
            "DATABASE__SQL_ALCHEMY_CONN": self.database.url,
        }
        return {
            **kept(),
            **{f"AIRFLOW__{key}": value for key, value in (FAST | ours).items()},
            "AIRFLOW_HOME": str(self.home),
            "HOME": str(self.home),
            "PYTHONWARNINGS": "ignore",
            **env,
        }

    def _found(self) -> None:
        shutil.copytree(DAGS, self.dags)
        (self.home / "config").mkdir()
        (self.home / "config/airflow_local_settings.py").write_text("".join(f"import {name}\n" for name in PRELOADED))

    async def _parsed(self) -> None:
        """Waits until every DAG file was read."""
        files = {path.name for path in DAGS.glob("*.py") if "DAG(" in path.read_text()}

        async def known() -> bool:
            rows = self.rows("select dag.fileloc from dag join serialized_dag using (dag_id)")
            errors = self.rows("select * from import_error")
            assert not errors, [tuple(row) for row in errors]
            for program in self.programs.values():
                assert program.running, f"{program.name} ended:\n{program.tail()}"
            return files <= {Path(row["fileloc"]).name for row in rows}

        await until(known, 90, f"the DAGs of {files}", pause=0.3)


def session_of(pid: int) -> int | None:
    """The session of a process; None if it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def began_at(pid: int) -> float | None:
    """When a process began; None: it is gone, and others of its session may not be."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
