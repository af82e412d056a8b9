"""DbtRunMirrors: the watch, their status, and the DbtRuns that are created and pruned for them.

There are few of them, so a plain list and watch serves each namespace. Where the CRD or the right is missing, as after
an upgrade of the watcher alone, there are none, and DbtRuns are not affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from dbtrun.api import API_VERSION, PLURAL, DbtRun, to_wire
from dbtrun.api.mirrors import MIRROR_KIND, DbtRunMirror, MirrorStatus
from dbtrun.kube.answers import Read, decode
from dbtrun.kube.errors import AlreadyExists, Denial, Expired, KubeError, NotFound
from dbtrun.kube.paths import api_path
from dbtrun.kube.retry import jittered
from dbtrun.kube.runs import DbtRunMirrors, DbtRuns
from dbtrun.kube.watch import Added, Removed
from dbtrun.values import backoff
from watcher.cluster.access import ClusterAccess
from watcher.cluster.mirror import read
from watcher.cluster.writer import Owned, merge_diff

log = logging.getLogger(__name__)

SILENCE_SECONDS: Final = 90.0
"""A watch without a byte for this long is opened again. The API server sends a bookmark about once a minute."""
PAUSES: Final = (1.0, 60.0)
"""Seconds: the first and the longest pause after a failure."""

MOST_FAILURES: Final = 30
"""As good as for ever: a missing CRD or right is not there a second later."""

read_mirror: Final[Read[DbtRunMirror]] = msgspec.json.Decoder(DbtRunMirror).decode


class MirrorWatch:
    """Reports every DbtRunMirror of these namespaces, or of all.

    Args:
        changed: called with each that is new or has changed.
        gone: called with the uid of each that is gone.
        found_again: called instead of `changed` with each that is listed after the API server was away. Meanwhile a
            backup may have been restored.
    """

    def __init__(
        self,
        access: ClusterAccess,
        namespaces: Collection[str],
        changed: Callable[[DbtRunMirror], object],
        gone: Callable[[str], object],
        found_again: Callable[[DbtRunMirror], object],
    ) -> None:
        self._found_again = found_again
        self._access = access
        self._namespaces = tuple(dict.fromkeys(namespaces or (None,)))
        self._changed = changed
        self._gone = gone

    async def run(self) -> None:
        """Watches until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                group.create_task(self._follow(namespace), name=f"mirrors of {namespace}")

    async def _follow(self, namespace: str | None) -> None:
        mirrors = DbtRunMirrors(self._access, namespace, read_mirror)
        known: set[str] = set()
        failures, told, listed = 0, "", self._changed
        while True:
            try:
                await self._watch(mirrors, known, listed)
            except Expired:
                listed = self._found_again
                await asyncio.sleep(jittered(PAUSES[0]))  # a server that says so for ever is not asked without a pause
            except KubeError as error:
                listed = self._found_again
                # 404 is what the API server answers where the CRD is not installed.
                failures = MOST_FAILURES if isinstance(error, Denial | NotFound) else failures + 1
                if str(error) != told:
                    told = str(error)
                    log.info("DbtRunMirrors cannot be watched: %s", told, extra={"namespace": namespace})
                await asyncio.sleep(jittered(backoff(failures, *PAUSES)))
            else:
                failures, told, listed = 0, "", self._changed

    async def _watch(
        self,
        mirrors: DbtRunMirrors[DbtRunMirror],
        known: set[str],
        listed: Callable[[DbtRunMirror], object],
    ) -> None:
        """A list, and a watch from there until the server ends it."""
        found, version = await mirrors.snapshot()
        # Deleted while nothing was watched: no event of that comes any more.
        for uid in known - {mirror.uid for mirror in found}:
            known.discard(uid)
            self._gone(uid)
        for mirror in found:
            known.add(mirror.uid)
            listed(mirror)
        # From the version of the list, so that nothing between the two is missed.
        changes = mirrors.watch(self._access, version, fields="", silence_seconds=SILENCE_SECONDS)
        async with contextlib.aclosing(changes):
            async for change in changes:
                match change:
                    case Added(run=mirror):
                        known.add(mirror.uid)
                        self._changed(mirror)
                    case Removed(run=mirror):
                        known.discard(mirror.uid)
                        self._gone(mirror.uid)


class NameTaken(KubeError):
    """The name of a DbtRun to create belongs to another object."""


class _Found(Owned):
    spec: dict[str, Any]


class MirrorWriter:
    """Writes what belongs to DbtRunMirrors. Each method returns or raises a `KubeError`."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access

    async def create(self, namespace: str, body: Mapping[str, Any]) -> DbtRun:
        """A new DbtRun.

        Raises:
            AlreadyExists: the mirror's DbtRun of this run exists.
            NameTaken: another object has its name.
        """
        runs = DbtRuns(self._access, namespace, lambda answer: read(msgspec.json.decode(answer)))
        try:
            return await runs.create(body)
        except AlreadyExists:
            name = body["metadata"]["name"]
            try:
                found = decode(await self._access.request("GET", _path(namespace, name)), _Found)
            except NotFound:
                raise NameTaken(f"a DbtRun {name} was deleted just now") from None
            if any(found.spec.get(key) != body["spec"].get(key) for key in ("runId", "accountId")):
                told = f"there is a DbtRun {name} that shows another run: delete it, or rename one of them"
                raise NameTaken(told) from None
            mirrors = {owner.uid for owner in found.metadata.owner_references if owner.kind == MIRROR_KIND}
            if mirrors and mirrors.isdisjoint(owner["uid"] for owner in body["metadata"]["ownerReferences"]):
                # Kubernetes deletes it after its owner: taken for this mirror's, the run would be lost.
                told = f"the DbtRun {name} of a deleted DbtRunMirror of the same name is not deleted yet"
                raise NameTaken(told) from None
            raise

    async def delete(self, namespace: str, name: str, uid: str) -> None:
        """Deletes this DbtRun and no namesake; one that is gone is no error."""
        # The uid is enough: what has ended does not begin again, whatever else of it changes.
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        with contextlib.suppress(NotFound):
            await self._access.request("DELETE", _path(namespace, name), body=body)

    async def patch_status(self, mirror: DbtRunMirror, status: MirrorStatus) -> DbtRunMirror:
        """Makes `status` the mirror's status; Conflict if it has changed since."""
        metadata = mirror.metadata
        diff = merge_diff(to_wire(mirror.status), to_wire(status))
        basis = {"uid": metadata.uid, "resourceVersion": metadata.resource_version}
        mirrors = DbtRunMirrors(self._access, metadata.namespace, read_mirror)
        body = {"metadata": basis, "status": diff}
        return await mirrors.patch(metadata.name, body, sub="status", strict=False)


def _path(namespace: str, name: str) -> str:
    return api_path(f"apis/{API_VERSION}", namespace, PLURAL, name)
