"""The one writer of DbtRuns, and of the ConfigMaps that belong to them.

Every change names the version that it was decided upon, so it never overwrites someone else's change.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec

from dbtrun.api import API_VERSION, FINALIZER, KIND, PLURAL, DbtRun, Phase, Status, to_wire
from dbtrun.kube.answers import decode
from dbtrun.kube.errors import AlreadyExists, Rejected
from dbtrun.kube.paths import api_path
from dbtrun.kube.runs import PREFIX, DbtRuns
from dbtrun.kube.turns import Urgency
from watcher.cluster.access import ClusterAccess
from watcher.cluster.mirror import read, read_json

METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"


def merge_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest merge patch (RFC 7386) from `old` to `new`: absent keys become null, lists are replaced whole.

    Neither may hold a null, as nothing in the API does: a merge patch cannot set one.
    """
    diff: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if before == value:
            continue
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            diff[key] = merge_diff(before, value)
        else:
            diff[key] = value
    return diff


def left_out(wanted: Any, got: Any, path: str = "") -> frozenset[str]:
    """The fields that `got` lacks; none where the two differ in anything else, as then somebody else wrote."""
    try:
        return frozenset(_lost(wanted, got, path))
    except _OtherwiseError:
        return frozenset()


class _OtherwiseError(Exception):
    pass


def _lost(wanted: Any, got: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        if got.keys() - wanted.keys():
            raise _OtherwiseError
        for key, value in wanted.items():
            name = f"{path}.{key}" if path else key
            if key in got:
                yield from _lost(value, got[key], name)
            else:
                yield name
    elif isinstance(wanted, list | tuple) and isinstance(got, list | tuple) and len(wanted) == len(got):
        for one, other in zip(wanted, got, strict=True):
            yield from _lost(one, other, f"{path}[]")
    elif wanted != got:
        raise _OtherwiseError


class Writer:
    """Each method returns or raises a `KubeError`.

    After `Unreachable` the write may have happened: the watch, or `get`, tells. Repeating it is then a `Conflict`.
    After `Unreadable` it has happened: the answer is a DbtRun of another version.
    """

    def __init__(self, access: ClusterAccess, on_dropped: Callable[[frozenset[str]], None] = lambda _: None) -> None:
        """`on_dropped` is called with the fields that the API server has dropped from a write."""
        self._access = access
        self._on_dropped = on_dropped
        self._incomplete: set[str] = set()
        """Live objects of whose status something was left out: the next write says all of it again."""

    async def get(self, namespace: str, name: str) -> DbtRun:
        """The object as it is now."""
        return await self._runs(namespace).get(name)

    async def patch_status(self, run: DbtRun, status: Status) -> DbtRun:
        """Makes `status` the run's status. Writes nothing, and returns `run`, when it is that already.

        With a CRD of another release, the API server drops fields silently. The answer then has them as they were
        written, so that the same write is not decided upon again and again.
        """
        # Fields that could not be read are on this side alone, so the patch removes them.
        stored = to_wire(run.status) | dict.fromkeys(run.unread)
        diff = merge_diff(stored, to_wire(status))
        starts = Phase.SUBMITTING in (run.status.phase, status.phase)
        urgency = Urgency.START if starts else Urgency.STATUS
        if not diff:
            return run
        if run.uid in self._incomplete:
            diff = diff | to_wire(status)
        written = await self._patch(run, {"status": diff}, "status", urgency)
        dropped = frozenset[str]()
        if written.status != status:
            dropped = left_out(to_wire(status), to_wire(written.status), "status")
        (self._incomplete.add if dropped and not status.final else self._incomplete.discard)(written.uid)
        if not dropped:
            return written
        self._on_dropped(dropped)
        return msgspec.structs.replace(written, status=status)

    async def add_finalizer(self, run: DbtRun) -> DbtRun:
        """Puts our finalizer behind those of others, and says under which uid the object was taken on."""
        finalizers, marks = run.metadata.finalizers, run.unmarked
        # RFC 7386 replaces a list as a whole, so those of others are repeated. The version guards against theirs.
        change = {} if FINALIZER in finalizers else {"finalizers": [*finalizers, FINALIZER]}
        metadata: dict[str, Any] = change | ({"annotations": marks} if marks else {})
        return await self._patch(run, {"metadata": metadata}) if metadata else run

    async def remove_finalizer(self, run: DbtRun) -> DbtRun:
        """Takes our finalizer away; an object that is being deleted and has no other then ceases to exist."""
        if FINALIZER not in run.metadata.finalizers:
            return run
        others = [other for other in run.metadata.finalizers if other != FINALIZER]
        return await self._patch(run, {"metadata": {"finalizers": others}})

    async def delete(self, run: DbtRun) -> DbtRun | None:
        """Deletes exactly this version of this object, never a namesake or one that changed meanwhile.

        Returns:
            The object, if finalizers of others keep it; None: it is gone.
        """
        preconditions = {"uid": run.uid, "resourceVersion": run.metadata.resource_version}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions}
        path = api_path(PREFIX, run.metadata.namespace, PLURAL, run.metadata.name)
        left = decode(await self._access.request("DELETE", path, body=body), dict[str, Any])
        # A deletion that is complete is answered with a Status, one that waits for finalizers with the object.
        return read(left) if left.get("kind") == KIND else None

    async def keep_artifacts(self, run: DbtRun, name: str, files: Mapping[str, bytes]) -> None:
        """Puts files, by key, into the ConfigMap `name`, which Kubernetes deletes after the object.

        What an earlier call put there stays. Rejected also when the ConfigMap is not this object's.
        """
        content, namespace = _content(files), run.metadata.namespace
        owner = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": run.metadata.name,
            "uid": run.uid,
            "controller": True,
        }
        labels = {"app.kubernetes.io/managed-by": "dbtrun"}
        # Kubernetes' garbage collector deletes what has an owner after the owner.
        metadata = {"name": name, "labels": labels, "ownerReferences": [owner]}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **content}
        with suppress(AlreadyExists):
            await self._access.request("POST", api_path("api/v1", namespace, "configmaps"), body=body)
            return
        path = api_path("api/v1", namespace, "configmaps", name)
        found = decode(await self._access.request("GET", path, accept=METADATA_ONLY), Owned).metadata
        # A ConfigMap of that name may be a user's own: it is not overwritten, and not deleted with the run.
        if run.uid not in [owner.uid for owner in found.owner_references]:
            raise Rejected(
                f"There is a ConfigMap {name} that does not belong to this DbtRun: delete it, or rename one of them."
            )
        basis = {"uid": found.uid, "resourceVersion": found.resource_version}
        await self._access.request("PATCH", path, body={"metadata": basis, **content})

    async def _patch(
        self, run: DbtRun, change: Mapping[str, Any], sub: str | None = None, urgency: Urgency = Urgency.OTHER
    ) -> DbtRun:
        # Documented: with a resourceVersion in its metadata, a patch of another version is refused as a Conflict.
        basis = {"uid": run.uid, "resourceVersion": run.metadata.resource_version}
        body = {**change, "metadata": {**change.get("metadata", {}), **basis}}
        # Not strict: an older CRD is to take what it knows.
        runs = self._runs(run.metadata.namespace)
        return await runs.patch(run.metadata.name, body, sub=sub, strict=False, urgency=urgency)

    def _runs(self, namespace: str) -> DbtRuns[DbtRun]:
        return DbtRuns(self._access, namespace, read_json)


class _Owner(msgspec.Struct):
    uid: str
    kind: str


class _OwnedMetadata(msgspec.Struct, rename="camel"):
    uid: str
    resource_version: str
    owner_references: list[_Owner] = msgspec.field(default_factory=list)


class Owned(msgspec.Struct):
    """What says to whom an object belongs."""

    metadata: _OwnedMetadata


def _content(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """A ConfigMap's data: text as people read it, anything else in base64."""
    content: dict[str, dict[str, str]] = {"data": {}, "binaryData": {}}
    for key, file in files.items():
        try:
            content["data"][key] = file.decode()
        except UnicodeDecodeError:
            content["binaryData"][key] = b64encode(file).decode()
    return content
