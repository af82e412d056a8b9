"""The one writer of DbtRuns. Every write names the version it was decided upon: nobody's change is overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from watcher.api import API_VERSION, FINALIZER, PLURAL, DbtRun, Status, to_wire
from watcher.cluster.access import MERGE_PATCH, ClusterAccess, api_path
from watcher.cluster.errors import decode
from watcher.cluster.mirror import read
from watcher.cluster.turns import Urgency

PREFIX: Final = f"apis/{API_VERSION}"


def merge_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest merge patch (RFC 7386) from `old` to `new`: absent keys become null, lists are replaced whole.

    Neither may hold a null, as nothing in the API does: a merge patch cannot set one.
    """
    removed: dict[str, Any] = {key: None for key in old if key not in new}
    return removed | {key: _change(old.get(key), value) for key, value in new.items() if old.get(key) != value}


def _change(old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return merge_diff(old, new)
    return new


class Writer:
    """Each method returns or raises `Conflict`, `Gone`, `Refused` or `ApiTrouble` (see `watcher.cluster.errors`).

    After an ApiTrouble the write may have happened: the watch, or `get`, tells. Repeating it is then a Conflict.
    An answer that cannot be read raises `UnreadableObject`: the write has happened.
    """

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access

    async def get(self, namespace: str, name: str) -> DbtRun:
        """The object as it is now."""
        return _parse(await self._access.request("GET", api_path(PREFIX, namespace, PLURAL, name)))

    async def patch_status(self, run: DbtRun, status: Status) -> DbtRun:
        """Makes `status` the run's status. Writes nothing, and returns `run`, when it is that already."""
        diff = merge_diff(to_wire(run.status), to_wire(status))
        return await self._patch(run, {"status": diff}, "status") if diff else run

    async def add_finalizer(self, run: DbtRun) -> DbtRun:
        """Puts our finalizer behind those of others."""
        if FINALIZER in run.metadata.finalizers:
            return run
        return await self._patch_finalizers(run, [*run.metadata.finalizers, FINALIZER])

    async def remove_finalizer(self, run: DbtRun) -> DbtRun:
        """Takes our finalizer away; an object that is being deleted and has no other then ceases to exist."""
        if FINALIZER not in run.metadata.finalizers:
            return run
        return await self._patch_finalizers(run, [other for other in run.metadata.finalizers if other != FINALIZER])

    async def delete(self, run: DbtRun) -> None:
        """Deletes exactly this version of this object, never a namesake or one that changed meanwhile."""
        preconditions = {"uid": run.uid, "resourceVersion": run.metadata.resource_version}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions}
        await self._access.request("DELETE", _path(run), body=body)

    async def _patch_finalizers(self, run: DbtRun, finalizers: list[str]) -> DbtRun:
        return await self._patch(run, {"metadata": {"finalizers": finalizers}})

    async def _patch(self, run: DbtRun, change: Mapping[str, Any], sub: str | None = None) -> DbtRun:
        basis = {"uid": run.uid, "resourceVersion": run.metadata.resource_version}
        body = {**change, "metadata": {**change.get("metadata", {}), **basis}}
        urgency = Urgency.STATUS if sub else Urgency.OTHER
        path = _path(run, sub)
        answer = await self._access.request("PATCH", path, body=body, content_type=MERGE_PATCH, urgency=urgency)
        return _parse(answer)


def _path(run: DbtRun, sub: str | None = None) -> str:
    return api_path(PREFIX, run.metadata.namespace, PLURAL, run.metadata.name, sub)


def _parse(answer: bytes) -> DbtRun:
    return read(decode(answer, dict[str, Any]))
