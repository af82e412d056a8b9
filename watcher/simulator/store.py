"""Runs that survive `kill -9`: one SQLite file, written before the reply is sent.

`synchronous=OFF` is enough for that (the pages are the kernel's once written) and keeps a commit far below a
millisecond; a power cut is not what a simulator is for.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import msgspec

from watcher.simulator.clock import Anchor
from watcher.simulator.journal import Entry
from watcher.simulator.model import Run
from watcher.simulator.scenario import JobSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TABLES = """
CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS journal (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, body BLOB NOT NULL);
"""


class StateError(Exception):
    """The state file cannot be used; one sentence."""


class Facts(msgspec.Struct):
    """What is neither a run nor a job nor a line of the journal."""

    account_id: int
    anchor: Anchor
    taken: dict[int, int]


class Saved(msgspec.Struct):
    """What a state file contains."""

    facts: Facts | None
    jobs: list[JobSpec]
    runs: list[Run]
    journal: list[Entry]


class Store:
    """:raises StateError: the file is not one of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # No transactions that Python begins by itself: BEGIN below says which writes belong together.
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA synchronous=OFF")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.executescript(TABLES)
        except sqlite3.Error as error:
            raise StateError(
                f"{path}: not a state file of the simulator ({error}); name another with --state."
            ) from None

    def load(self) -> Saved:
        """:raises StateError: the content is of another version."""
        try:
            facts = self._bodies("SELECT body FROM facts WHERE name = 'facts'")
            return Saved(
                msgspec.json.decode(facts[0], type=Facts) if facts else None,
                [msgspec.json.decode(body, type=JobSpec) for body in self._bodies("SELECT body FROM jobs ORDER BY id")],
                [msgspec.json.decode(body, type=Run) for body in self._bodies("SELECT body FROM runs ORDER BY id")],
                [msgspec.json.decode(b, type=Entry) for b in self._bodies("SELECT body FROM journal ORDER BY seq")],
            )
        except (msgspec.DecodeError, sqlite3.Error) as error:
            raise StateError(f"{self._path}: written by another version ({error}); remove it.") from None

    def _bodies(self, query: str) -> list[bytes]:
        return [row[0] for row in self._database.execute(query)]

    def save(self, facts: Facts, runs: Iterable[Run], entries: Iterable[Entry], jobs: Iterable[JobSpec] = ()) -> None:
        """All or nothing, and on return a killed process no longer matters."""
        encode = msgspec.json.encode
        with self._database as database:
            database.execute("BEGIN")
            database.execute("INSERT OR REPLACE INTO facts VALUES ('facts', ?)", (encode(facts),))
            database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?)", ((r.id, encode(r)) for r in runs))
            database.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?)", ((j.id, encode(j)) for j in jobs))
            database.executemany("INSERT INTO journal (body) VALUES (?)", ((encode(e),) for e in entries))

    def close(self) -> None:
        """Closes the file."""
        self._database.close()
