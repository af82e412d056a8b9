"""The DbtRuns of a namespace, or of all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from dbtrun.api import Phase
from dbtrun.cli.cluster import Api
from dbtrun.cli.view import Run, UnreadableRun, read
from dbtrun.kube.errors import Expired, KubeError, NotFound, Unreachable
from dbtrun.kube.reader import Reader
from dbtrun.kube.runs import DbtRuns, Streams
from dbtrun.kube.watch import Added, Progress, Removed
from dbtrun.values import backoff

PAGE: Final = 500
SILENCE_SECONDS: Final = 90.0
"""A watch gets a bookmark every minute: after this it is dead."""
PAUSES: Final = (1.0, 10.0)
"""Seconds: the first and the longest pause between two tries to reach an API server that does not answer."""
ASK_SECONDS: Final = 10.0
"""Between two looks at which of the shown runs are to have fresh steps."""

Change = Added[Run] | Removed[Run] | Progress


class Found(NamedTuple):
    """DbtRuns as the API server sends them, and the version of the list."""

    items: Sequence[msgspec.Raw]
    version: str


class Runs:
    """The DbtRuns of one namespace; None: of all. Every method raises KubeError."""

    def __init__(self, api: Streams, namespace: str | None) -> None:
        self.api = api
        self.namespace = namespace
        self._stored = DbtRuns(api, namespace, as_stored, page=PAGE)
        self._read = DbtRuns(api, namespace, read, page=PAGE)

    async def list(self, labels: str = "", fields: str = "") -> Found:
        """Those that the selectors match."""
        return Found(*await self._stored.snapshot(labels=labels, fields=fields))

    async def get(self, name: str) -> msgspec.Raw:
        """One of them."""
        return await self._stored.get(name)

    async def create(self, body: Mapping[str, Any]) -> msgspec.Raw:
        """A new one. A field that the installed CRD does not know is refused."""
        return await self._stored.create(body)

    async def patch(self, name: str, body: Mapping[str, Any]) -> msgspec.Raw:
        """Merges `body` into one of them."""
        return await self._stored.patch(name, body)

    def changes(self, version: str, fields: str = "") -> AsyncIterator[Change]:
        """Changes after a version, until the server ends it.

        Raises:
            Expired: the version is too old.
        """
        return self._read.watch(self.api, version, fields=fields, silence_seconds=SILENCE_SECONDS)


def as_stored(body: bytes | msgspec.Raw) -> msgspec.Raw:
    """An object as the API server sends it."""
    return msgspec.Raw(bytes(body))


async def follow(
    runs: Runs, names: Collection[str], trouble: Callable[[KubeError], object]
) -> AsyncIterator[tuple[str, Run | None]]:
    """Each of the DbtRuns as it is, and after each change, until all are over. None: it was deleted.

    Args:
        runs: of their namespace.
        names: theirs.
        trouble: told when the API server does not answer; it is asked again.

    Raises:
        NotFound: one of them is not there at the beginning.
        KubeError: asking again would not help.
    """
    following = _Following(runs, names)
    tries = 0
    while following.left:
        try:
            async for seen in following.turn():
                tries = 0
                yield seen
        except Expired:
            continue
        except Unreachable as error:
            trouble(error)
            tries += 1
            await asyncio.sleep(backoff(tries, *PAUSES))


async def keep_steps_fresh(api: Api, shown: Callable[[], Iterable[Run]]) -> None:
    """Asks for the steps of the running ones among the shown DbtRuns as they come, until it is cancelled."""
    readers: dict[str, Reader] = {}
    while True:
        for run in tuple(shown()):
            namespace = run.metadata.namespace
            if namespace not in readers:
                readers[namespace] = Reader(Runs(api, namespace).patch)
            if run.phase == Phase.RUNNING:
                await readers[namespace].ask(run.name, run.metadata.annotations, api.now)
        await asyncio.sleep(ASK_SECONDS)


class _Following:
    """What of the DbtRuns has been seen."""

    def __init__(self, runs: Runs, names: Collection[str]) -> None:
        self._runs = runs
        self.left = set(names)
        self._seen: dict[str, str] = {}
        # A field selector cannot say "one of": with several names, all DbtRuns of the namespace are watched.
        self._fields = f"metadata.name={next(iter(names))}" if len(names) == 1 else ""

    async def turn(self) -> AsyncIterator[tuple[str, Run | None]]:
        """What has changed since the last turn, and what changes until the watch ends."""
        found = await self._runs.list(fields=self._fields)
        present = {run.name: run for run in map(_readable, found.items) if run is not None}
        for name in sorted(self.left - present.keys()):
            if name not in self._seen:
                raise NotFound(f"There is no DbtRun {name} in the namespace {self._runs.namespace}.")
            self.left.discard(name)
            yield name, None
        for name in sorted(self.left & present.keys()):
            for seen in self._told(present[name], deleted=False):
                yield seen
        if not self.left:
            return
        async for change in self._runs.changes(found.version, self._fields):
            if not isinstance(change, Progress) and change.run.name in self.left:
                for seen in self._told(change.run, deleted=isinstance(change, Removed)):
                    yield seen
            if not self.left:
                return

    def _told(self, run: Run, *, deleted: bool) -> list[tuple[str, Run | None]]:
        if deleted or run.final:
            self.left.discard(run.name)
        # The list after a watch brings again what the watch has shown.
        if self._seen.get(run.name) == run.metadata.resource_version and not deleted:
            return []
        self._seen[run.name] = run.metadata.resource_version
        return [(run.name, None if deleted and not run.final else run)]


def _readable(body: msgspec.Raw) -> Run | None:
    try:
        return read(body)
    except UnreadableRun:
        return None
