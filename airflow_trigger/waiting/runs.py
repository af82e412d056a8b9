"""The DbtRuns of one namespace as the shared watch reads them: what ended, and what is live."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import msgspec

from airflow_trigger.shared.objects import PREFIX, Run
from dbtrun.api import FINAL_PHASES, Phase
from dbtrun.kube.answers import comparable
from dbtrun.kube.errors import Rejected, Unreachable
from dbtrun.kube.runs import DbtRuns
from dbtrun.kube.watch import Added, Progress, Removed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping

    from dbtrun.kube.runs import Streams

log = logging.getLogger(__name__)

PAGE: Final = 100
"""Objects that are read in one go: some 300 kB, and 1 ms in which the event loop stands still."""


def _in_no(phases: Iterable[str]) -> str:
    """A field selector. There is no "one of" among them, but "none of"; a phase that is not known is let through."""
    return ",".join(f"status.phase!={phase}" for phase in sorted(phases))


ENDED: Final = _in_no({"", *Phase} - FINAL_PHASES)
"""What is over stays selected until it is deleted; "" is the phase of an object that no watcher has seen yet."""
LIVE: Final = _in_no(FINAL_PHASES)

KEPT: Final = frozenset({f"{PREFIX}/dag-id", f"{PREFIX}/task-id"})

Change: TypeAlias = Added[Run] | Removed[Run] | Progress


class Listing(msgspec.Struct, frozen=True):
    """All objects at one version."""

    runs: dict[str, Run]
    version: str


class Runs(Protocol):
    """What the hub needs of a namespace's DbtRuns: the seam where tests put their own."""

    async def list(self) -> Listing: ...

    async def live(self) -> Listing: ...

    def watch(self, version: str, silence_seconds: float) -> AsyncGenerator[Change]: ...

    async def get(self, name: str) -> Run: ...

    async def create(self, body: Mapping[str, Any]) -> Run: ...


class HubRuns:
    """Runs of a real API server. Every method raises KubeError of the kind that says what can be done."""

    def __init__(self, cluster: Streams, namespace: str) -> None:
        self._cluster = cluster
        self._runs = DbtRuns(cluster, namespace, read, page=PAGE)
        # An API server before Kubernetes 1.31, or a CRD without `selectableFields`, refuses the selector.
        self._selects = True

    async def list(self) -> Listing:
        """All of them, in pages."""
        return await self._listed("")

    async def live(self) -> Listing:
        """Those that are not over, as `list` does; where the server cannot select, all."""
        with self._selecting(LIVE) as fields:
            return await self._listed(fields)

    async def _listed(self, fields: str) -> Listing:
        found, version = await self._runs.snapshot(fields=fields)
        return Listing({run.metadata.name: run for run in found}, comparable(version))

    async def watch(self, version: str, silence_seconds: float) -> AsyncGenerator[Change]:
        """Changes after `version` to what is over, or has just ended, until the server ends the watch as planned.

        Where the server cannot select: changes to all.
        """
        with self._selecting(ENDED) as fields:
            changes = self._runs.watch(self._cluster, version, fields=fields, silence_seconds=silence_seconds)
            async for change in changes:
                yield change

    @contextmanager
    def _selecting(self, selector: str) -> Iterator[str]:
        """The selector to use. Of a server that refuses to select everything is asked from then on."""
        try:
            yield selector if self._selects else ""
        except Rejected as error:
            if not self._selects:
                raise
            self._selects = False
            log.warning("DbtRuns cannot be selected by phase, so every change is watched; is the CRD old? %s", error)
            # As if the connection had been lost: the hub then lists again, without the selector, and misses nothing in
            # between.
            raise Unreachable("everything will be asked for") from error

    async def get(self, name: str) -> Run:
        """One of them, as it is now."""
        return await self._runs.get(name)

    async def create(self, body: Mapping[str, Any]) -> Run:
        """A new one; AlreadyExists if the name is taken."""
        return await self._runs.create(body)


def read(raw: bytes | msgspec.Raw) -> Run:
    """One of them. Equal labels are in memory once, and those of a single try are left out."""
    run = _decode(raw)
    of_many = ((key, value) for key, value in run.metadata.labels.items() if not is_of_one_try(key))
    # The struct is frozen because others share it. Nobody has this one yet, so there is no need to copy each of
    # thousands.
    msgspec.structs.force_setattr(run.metadata, "labels", _shared(tuple(sorted(of_many))))
    return run


def is_of_one_try(label: str) -> bool:
    """Whether hardly two objects have the same value of this label."""
    return label.startswith(f"{PREFIX}/") and label not in KEPT


_decode: Final = msgspec.json.Decoder(Run).decode


@lru_cache(maxsize=4096)
def _shared(labels: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return dict(labels)
