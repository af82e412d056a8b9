"""Which account an object uses: its Secret, or the default connection, read when needed and again when in doubt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dbtrun.api import CONNECTION_SECRET_TYPE, DbtRun, Reason
from dbtrun.api.mirrors import DbtRunMirror
from dbtrun.connection.hosts import Hosts
from dbtrun.connection.secret import Connection, InvalidConnection, parse_connection
from dbtrun.values import Instant, keep_newest
from watcher.dbtcloud.accounts import Account, Accounts
from watcher.lifecycle.facts import Trouble
from watcher.lifecycle.known import DOUBTFUL, MISSPELT
from watcher.lifecycle.whereabouts import misdirected
from watcher.sources import SecretName, Sources

MAX_TOLD: Final = 5_000
"""Connections that are remembered as logged to be unusable."""
KEYS: Final = ("token", "account-id", "host", "ca.crt", "max-concurrent-runs", "webhook-url", "webhook-token")


log = logging.getLogger(__name__)


class Unusable(Exception):
    """The object's connection cannot be used; the message says why and what to do."""

    reason = Reason.INVALID_CONNECTION

    def trouble(self, now: Instant) -> Trouble:
        """The same as a fact."""
        return Trouble(reason=self.reason, message=str(self), since=now)


class Misdirected(Unusable):
    """The connection is for another account than the one that has the object's runs."""

    reason = Reason.OTHER_ACCOUNT


class Connections:
    """Finds the account that an object works with.

    Args:
        default: the default connection, a Secret or a directory.
        serves: whether a namespace may use it.
        hosts: those that connections may name.
        projects: the only ones that a namespace may use with the default connection; None: all.
    """

    def __init__(
        self,
        sources: Sources,
        accounts: Accounts,
        default: SecretName | Path | None,
        serves: Callable[[str], bool],
        hosts: Hosts,
        projects: Callable[[str], frozenset[int] | None] = lambda _namespace: None,
    ) -> None:
        self._sources = sources
        self._accounts = accounts
        self._default = default
        self._serves = serves
        self._hosts = hosts
        self._projects = projects
        self._told: dict[str, str] = {}

    async def connect(self, run: DbtRun) -> Connection:
        """Reads the object's connection, through which it is asked from now on.

        Raises:
            Unusable: it cannot be used as it is; Misdirected: not for this object.
        """
        try:
            connection = await self._read(run)
        except Unusable as error:
            self._tell(run, str(error))
            used = self._accounts.of(run.uid)
            if not run.deleting or used is None:
                raise
            return used.connection  # a namespace that goes takes its Secrets first, and a cancel is owed
        self._tell(run, None)
        wrong = misdirected(run.status, connection.host, connection.account_id)
        if wrong is not None:
            # Released at once: nothing more is asked of an account that is not the object's.
            self._accounts.release(run.uid)
            raise Misdirected(wrong)
        self._accounts.use(run.uid, connection)
        return connection

    async def connect_mirror(self, mirror: DbtRunMirror) -> Account:
        """Reads the connection of a mirror, through which its runs are listed from now on.

        Raises:
            Unusable: it cannot be used as it is; Misdirected: it is for another account than before.
        """
        connection = await self._read(mirror)
        status = mirror.status
        if status.account_id is not None and (status.account_id, status.host) != (
            connection.account_id,
            connection.host,
        ):
            self._accounts.release(mirror.uid)
            raise Misdirected(
                f"The connection is for account {connection.account_id} at {connection.host}, and the runs so far are "
                f"of account {status.account_id} at {status.host}: create a new DbtRunMirror."
            )
        return self._accounts.use(mirror.uid, connection)

    def projects(self, run: DbtRun | DbtRunMirror) -> frozenset[int] | None:
        """The only projects that the object may use with its connection; None: all that the token can see."""
        ref, namespace = run.spec.connection_ref, run.metadata.namespace
        # Also by its name: a reference to the default connection's Secret must not lift the limit.
        if ref is None or SecretName(namespace, ref.name) == self._default:
            return self._projects(namespace)
        return None

    def _tell(self, run: DbtRun, problem: str | None) -> None:
        """Logs once for each connection why it cannot be used, and once when it can be used again."""
        reference, namespace = run.spec.connection_ref, run.metadata.namespace
        where = f"Secret {namespace}/{reference.name}" if reference else f"default, for {namespace}"
        if self._told.get(where) == problem:
            return
        if problem is None:
            del self._told[where]
            log.info("The connection can be used again.", extra={"connection": where})
            return
        keep_newest(self._told, where, problem, MAX_TOLD)
        log.warning("A connection cannot be used: %s", problem, extra={"connection": where, "run": str(run)})

    def account(self, uid: str) -> Account | None:
        """The account that the object was connected to."""
        return self._accounts.of(uid)

    def doubt(self, uid: str, reason: Reason) -> None:
        """The connection cannot be used as it is: its Secret is read again until it changes, or the object connects."""
        account = self._accounts.of(uid)
        # A host that has answered is spelt right: an outage must not let thousands of Secrets be read.
        untried = account is None or not account.client.answered
        if reason in DOUBTFUL or (reason in MISSPELT and untried):
            self._sources.doubt(uid)

    def forget(self, uid: str) -> None:
        """The object is gone, or finished: it no longer needs dbt Cloud."""
        self._accounts.release(uid)
        self._sources.forget(uid)

    async def _read(self, run: DbtRun | DbtRunMirror) -> Connection:
        # What the object used before no longer counts: spec.connectionRef may name another Secret now.
        self._sources.forget(run.uid)
        try:
            if run.spec.connection_ref is None:
                return await self._read_default(run)
            return await self._from_secret(run.uid, SecretName(run.metadata.namespace, run.spec.connection_ref.name))
        except InvalidConnection as error:
            raise Unusable(str(error)) from None

    async def _read_default(self, run: DbtRun | DbtRunMirror) -> Connection:
        if self._default is None:
            raise Unusable(
                "spec.connectionRef is absent and the watcher has no default connection: name a Secret there."
            )
        if not self._serves(run.metadata.namespace):
            raise Unusable(
                f"The default connection does not serve the namespace {run.metadata.namespace}: name a Secret in "
                "spec.connectionRef."
            )
        if isinstance(self._default, SecretName):
            return await self._from_secret(run.uid, self._default)
        # In a thread: a volume of a node that is in trouble can hold a read up for long.
        data = await asyncio.to_thread(_read_files, self._default)
        return parse_connection(data, f"The default connection in {self._default}", self._hosts)

    async def _from_secret(self, uid: str, name: SecretName) -> Connection:
        try:
            secret = await self._sources.read(uid, name)
        except LookupError as error:
            raise Unusable(str(error)) from None
        where = f"Secret {name.namespace}/{name.name}"
        # A Secret of another type is not meant as a connection, whatever keys it has.
        if secret.type != CONNECTION_SECRET_TYPE:
            raise Unusable(
                f"{where} is of type {secret.type}, not {CONNECTION_SECRET_TYPE}: "
                "create it again with that type (the type of a Secret cannot be changed)."
            )
        return parse_connection(secret.data, where, self._hosts)


def _read_files(directory: Path) -> dict[str, bytes]:
    """Read again each time: the kubelet swaps the files when the Secret changes."""
    if not directory.is_dir():
        raise Unusable(f"The default connection's directory {directory} does not exist: mount its Secret there.")
    found = {}
    for key in KEYS:
        path = directory / key
        try:
            found[key] = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Unusable(f"The default connection's file {path} cannot be read: {error.strerror}.") from None
    return found
