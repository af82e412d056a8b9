"""Which account an object uses: its Secret, or the default connection, read when needed and again when in doubt."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, Protocol

from dbtrun.api import CONNECTION_SECRET_TYPE, DbtRun, Reason
from dbtrun.values import Instant
from watcher.awaited import Awaited, SecretData, SecretName, Secrets
from watcher.dbtcloud.accounts import Account, Accounts, AccountSink
from watcher.dbtcloud.connection import Connection, InvalidConnection, parse_connection
from watcher.dbtcloud.hosts import Hosts
from watcher.lifecycle.decide import Interest
from watcher.lifecycle.facts import Observation, Place, Trouble
from watcher.lifecycle.known import DOUBTFUL
from watcher.lifecycle.whereabouts import misdirected

MAX_TOLD: Final = 5_000
"""Connections of which is kept that the log says they cannot be used."""
DOUBT_SECONDS: Final = 5.0
"""A doubtful Secret is read again once in so long, however many objects use it."""
KEYS: Final = ("token", "account-id", "host", "ca.crt", "max-concurrent-runs")


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


class Listener(Protocol):
    """Who wants to know what dbt Cloud says of objects."""

    def observed(self, uid: str, run_id: int, observation: Observation) -> None: ...
    def troubled(self, uids: Iterable[str], trouble: Trouble) -> None: ...
    def answering(self, uids: Iterable[str]) -> None: ...
    def mended(self, uids: Iterable[str]) -> None: ...
    def placed(self, uid: str, place: Place | None) -> None: ...


class Connections:
    """Hands out the account for an object, keeps who uses which, and passes on what each account's poller says."""

    def __init__(
        self,
        secrets: Secrets,
        default: SecretName | Path | None,
        serves: Callable[[str], bool],
        hosts: Hosts,
        projects: Callable[[str], frozenset[int] | None] = lambda _namespace: None,
    ) -> None:
        """Makes one.

        Args:
            default: the default connection, a Secret or a directory.
            serves: the namespaces that may use it.
            hosts: those that connections may name.
            projects: the only ones that a namespace may use with the default connection; None: all.
        """
        self._accounts: Accounts
        self._listener: Listener
        self._secrets = secrets
        self._default = default
        self._serves = serves
        self._hosts = hosts
        self._projects = projects
        self._used: dict[str, Account] = {}
        self._followed: dict[str, Interest] = {}
        self._source_of: dict[str, _Source] = {}
        self._name_of: dict[str, str] = {}
        self._doubted: dict[SecretName, float] = {}
        self._told: dict[str, str] = {}
        self._awaited = Awaited(secrets, self._mended)

    def attach(self, accounts: Accounts, listener: Listener) -> None:
        """Completes the circle: accounts report to us, and we to the listener."""
        self._accounts, self._listener = accounts, listener

    async def run(self) -> NoReturn:
        """Looks again at the Secrets that could not be used, until cancelled."""
        await self._awaited.run()

    async def connect(self, run: DbtRun) -> Connection:
        """Reads the object's connection, through which it is asked from now on.

        Raises:
            Unusable: it cannot be used as it is; Misdirected: not for this object.
        """
        self._name_of[run.uid] = str(run)
        try:
            connection = await self._read(run)
        except Unusable as error:
            self._tell(run, str(error))
            used = self._used.get(run.uid)
            if not run.deleting or used is None:
                raise
            return used.connection  # a namespace that goes takes its Secrets first, and a cancel is owed
        self._tell(run, None)
        wrong = misdirected(run.status, connection.host, connection.account_id)
        if wrong is not None:
            self._accounts.release(run.uid)
            self._followed.pop(run.uid, None)
            self._used.pop(run.uid, None)
            raise Misdirected(wrong)
        account = self._accounts.use(run.uid, connection)
        if self._used.get(run.uid) is not account:
            self._followed.pop(run.uid, None)
            self._used[run.uid] = account
        return connection

    def projects(self, run: DbtRun) -> frozenset[int] | None:
        """The only projects that the object may use with its connection; None: all that the token can see."""
        ref, namespace = run.spec.connection_ref, run.metadata.namespace
        if ref is None or SecretName(namespace, ref.name) == self._default:
            return self._projects(namespace)
        return None

    def _tell(self, run: DbtRun, problem: str | None) -> None:
        """Logs once for each connection that it cannot be used and why, and that it can again."""
        reference, namespace = run.spec.connection_ref, run.metadata.namespace
        where = f"Secret {namespace}/{reference.name}" if reference else f"default, for {namespace}"
        if self._told.get(where) == problem:
            return
        if problem is None:
            del self._told[where]
            log.info("The connection can be used again.", extra={"connection": where})
            return
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told[where] = problem
        log.warning("A connection cannot be used: %s", problem, extra={"connection": where, "run": str(run)})

    def account(self, uid: str) -> Account | None:
        """The account that the object was connected to."""
        return self._used.get(uid)

    def follow(self, uid: str, wanted: Interest | None) -> None:
        """Makes the account's poller watch this run for the object, and nothing else."""
        account = self._used.get(uid)
        if account is None or wanted == self._followed.get(uid):
            return
        if wanted is None:
            account.poller.unfollow(uid)
            del self._followed[uid]
            account.leave(uid)
        else:
            if account.slots is not None:
                account.slots.known(uid, wanted.run_id)
            account.poller.follow(uid, wanted.run_id, wanted.interval)
            self._followed[uid] = wanted

    def forget(self, uid: str) -> None:
        """The object is gone, or finished: it needs dbt Cloud no more."""
        self._accounts.release(uid)
        self._followed.pop(uid, None)
        self._used.pop(uid, None)
        self._source_of.pop(uid, None)
        self._name_of.pop(uid, None)
        self._awaited.forget(uid)

    def names_of(self, uids: Iterable[str]) -> tuple[str, ...]:
        """The objects' names, for the log."""
        return tuple(self._name_of.get(uid, uid) for uid in uids)

    def sink_of(self, connection: Connection) -> AccountSink:
        """What the connection's poller reports to."""
        return _Sink(self, connection)

    def users(self, connection: Connection) -> tuple[str, ...]:
        """The objects that use the connection."""
        return next((tuple(a.users) for a in self._accounts if a.connection is connection), ())

    def observed(self, uid: str, observation: Observation) -> None:
        """Passes on what was said of the run that the object follows."""
        followed = self._followed.get(uid)
        if followed is not None:
            self._listener.observed(uid, followed.run_id, observation)

    def troubled(self, uids: Iterable[str], trouble: Trouble) -> None:
        """Passes on that dbt Cloud cannot be asked about these."""
        for uid in uids:
            self.doubt(uid, trouble.reason)
        self._listener.troubled(uids, trouble)

    def placed(self, uid: str, place: Place | None) -> None:
        """Passes on where the object stands in the line for a run slot."""
        self._listener.placed(uid, place)

    def answering(self, uids: Iterable[str]) -> None:
        """Passes on that dbt Cloud answers again."""
        self._listener.answering(uids)

    def doubt(self, uid: str, reason: Reason) -> None:
        """The connection cannot be used, or dbt Cloud refused its token: the Secret is read again next time."""
        source = self._source_of.get(uid)
        if reason in DOUBTFUL and source is not None:
            self._forget_secret(source.secret)
            self._awaited.wait(uid, *source)

    def _forget_secret(self, secret: SecretName) -> None:
        """Once in a while, however many objects use it."""
        now = asyncio.get_running_loop().time()
        if now - self._doubted.get(secret, -math.inf) >= DOUBT_SECONDS:
            self._doubted = {kept: at for kept, at in self._doubted.items() if now - at < DOUBT_SECONDS} | {secret: now}
            self._secrets.forget(*secret)

    def _mended(self, uids: Collection[str]) -> None:
        self._listener.mended(uids)

    async def _read(self, run: DbtRun) -> Connection:
        self._awaited.forget(run.uid)
        try:
            if run.spec.connection_ref is None:
                return await self._read_default(run)
            return await self._from_secret(run.uid, SecretName(run.metadata.namespace, run.spec.connection_ref.name))
        except InvalidConnection as error:
            raise Unusable(str(error)) from None

    async def _read_default(self, run: DbtRun) -> Connection:
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
        data = await asyncio.to_thread(_read_files, self._default)
        return parse_connection(data, f"The default connection in {self._default}", self._hosts)

    async def _from_secret(self, uid: str, name: SecretName) -> Connection:
        self._source_of[uid] = _Source(name, None)
        try:
            secret = await self._secrets.read(*name)
        except LookupError as error:
            raise Unusable(str(error)) from None
        self._source_of[uid] = _Source(name, secret.resource_version)
        return _connection_in(secret, f"Secret {name.namespace}/{name.name}", self._hosts)


class _Source(NamedTuple):
    """What an object's connection was read from; version None: it could not be read."""

    secret: SecretName
    version: str | None


@dataclass(frozen=True, slots=True)
class _Sink:
    """What one connection's poller reports to."""

    connections: Connections
    connection: Connection

    def observed(self, uid: str, observation: Observation) -> None:
        self.connections.observed(uid, observation)

    def unreadable(self, uid: str, trouble: Trouble) -> None:
        self.connections.troubled([uid], trouble)

    def troubled(self, trouble: Trouble) -> None:
        self.connections.troubled(self.connections.users(self.connection), trouble)

    def answering(self) -> None:
        self.connections.answering(self.connections.users(self.connection))

    def placed(self, uid: str, place: Place | None) -> None:
        self.connections.placed(uid, place)


def _connection_in(secret: SecretData, where: str, hosts: Hosts) -> Connection:
    if secret.type != CONNECTION_SECRET_TYPE:
        raise Unusable(
            f"{where} is of type {secret.type}, not {CONNECTION_SECRET_TYPE}: "
            "create it anew with that type (the type of a Secret cannot be changed)."
        )
    return parse_connection(secret.data, where, hosts)


def _read_files(directory: Path) -> dict[str, bytes]:
    """Read anew each time: the kubelet swaps the files when the Secret changes."""
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
