"""An API server in memory, as far as the watcher writes: versions, conflicts, finalizers, deletion, a watch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from msgspec.structs import replace

from dbtrun.api import FINALIZER, DbtRun, Metadata, Spec, Status, parse, to_wire
from dbtrun.kube.errors import Conflict, NotFound

Heard = Callable[[DbtRun, bool], None]
"""Takes an object as it now is, and whether it was the last of it."""


def utc_now() -> datetime:
    return datetime.now(UTC)


class Objects:
    """Holds DbtRuns; every write must name the version that it was decided upon."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self.stored: dict[str, DbtRun] = {}
        self.last: dict[str, DbtRun] = {}
        """Every object by its name as it was last, gone or not."""
        self.versions: dict[str, list[DbtRun]] = {}
        """Every version of every object, as backups have it."""
        self.files: dict[str, dict[str, bytes]] = {}
        """What ConfigMaps hold, by their names."""
        self.listeners: list[Heard] = []
        self.careful = True
        """Whether a write must name the present version, as on a real API server."""
        self._now = now
        self._versions = itertools.count(1)

    # ── what people do ──

    def create(self, name: str, spec: Spec) -> DbtRun:
        """What `kubectl apply` does."""
        metadata = Metadata(
            name=name, namespace="n", uid=f"uid-{name}", resource_version="0", creation_timestamp=self._now()
        )
        return self._store(DbtRun(metadata=metadata, spec=spec))

    def edit(self, name: str, spec: Spec) -> DbtRun:
        """What `kubectl patch` does."""
        run = self.stored[name]
        metadata = replace(run.metadata, generation=run.metadata.generation + 1)
        return self._store(replace(run, spec=spec, metadata=metadata))

    def label(self, name: str) -> None:
        """What any other controller may do at any time: the version moves on, nothing else."""
        if name in self.stored:
            run = self.stored[name]
            labels = {"touched": run.metadata.resource_version}
            self._store(replace(run, metadata=replace(run.metadata, labels=labels)))

    def annotate(self, name: str, marks: Mapping[str, str]) -> None:
        """What `kubectl annotate` does: the version moves on, the generation does not."""
        run = self.stored[name]
        annotations = {**run.metadata.annotations, **marks}
        self._store(replace(run, metadata=replace(run.metadata, annotations=annotations)))

    def request_deletion(self, name: str) -> None:
        """What `kubectl delete` does."""
        run = self.stored[name]
        if run.deleting:
            return
        metadata = replace(run.metadata, deletion_timestamp=self._now(), generation=run.metadata.generation + 1)
        self._store(replace(run, metadata=metadata))

    def restore(self, name: str, back: int | None) -> None:
        """The status is as it was so many versions ago, or at first; what people want of the object stays."""
        if name in self.stored:
            run, versions = self.stored[name], self.versions[name]
            old = versions[0 if back is None else max(len(versions) - 1 - back, 0)]
            self._store(replace(run, status=old.status))

    def copy(self, name: str, to: str, *, bare: bool) -> None:
        """What Velero or `kubectl get -o yaml` makes of an object: another uid, with its status or without (`bare`).

        Under its own name it takes the place of the object.
        """
        run = self.stored[name]
        if to == name:
            self._announce(self.stored.pop(name), gone=True)
        metadata = replace(
            run.metadata, name=to, uid=f"{run.uid}-copy", creation_timestamp=self._now(), deletion_timestamp=None
        )
        self._store(replace(run, metadata=metadata, status=Status() if bare else run.status))

    # ── what the watcher does ──

    async def get(self, namespace: str, name: str) -> DbtRun:
        if name not in self.stored:
            raise NotFound(name)
        return self.stored[name]

    async def patch_status(self, run: DbtRun, status: Status) -> DbtRun:
        # Through JSON and back: what the API does not carry must not be relied upon.
        kept = parse({**to_wire(run), "status": to_wire(status)}).status
        return self._store(replace(self._current(run), status=kept))

    async def add_finalizer(self, run: DbtRun) -> DbtRun:
        marks = {**run.metadata.annotations, **run.unmarked}
        marked = replace(self._current(run), metadata=replace(run.metadata, annotations=marks))
        finalizers = (*(name for name in run.metadata.finalizers if name != FINALIZER), FINALIZER)
        return self._store(replace(marked, metadata=replace(marked.metadata, finalizers=finalizers)))

    async def remove_finalizer(self, run: DbtRun) -> DbtRun:
        return self._finalizers(run, tuple(f for f in run.metadata.finalizers if f != FINALIZER))

    async def delete(self, run: DbtRun) -> DbtRun | None:
        self._current(run)
        self.request_deletion(run.metadata.name)
        return self.stored.get(run.metadata.name)

    async def keep_artifacts(self, run: DbtRun, name: str, files: Mapping[str, bytes]) -> None:
        self.files.setdefault(name, {}).update(files)

    def _finalizers(self, run: DbtRun, finalizers: tuple[str, ...]) -> DbtRun:
        current = self._current(run)
        return self._store(replace(current, metadata=replace(current.metadata, finalizers=finalizers)))

    def _current(self, run: DbtRun) -> DbtRun:
        stored = self.stored.get(run.metadata.name)
        if stored is None or stored.uid != run.uid:
            raise NotFound(run.metadata.name)
        if self.careful and stored.metadata.resource_version != run.metadata.resource_version:
            raise Conflict(run.metadata.name)
        return stored

    def _store(self, run: DbtRun) -> DbtRun:
        version = str(next(self._versions))
        stored = replace(run, metadata=replace(run.metadata, resource_version=version))
        gone = stored.deleting and not stored.metadata.finalizers
        self.last[run.metadata.name] = self.stored[run.metadata.name] = stored
        self.versions.setdefault(run.metadata.name, []).append(stored)
        if gone:
            del self.stored[run.metadata.name]
        self._announce(stored, gone)
        return stored

    def _announce(self, run: DbtRun, gone: bool) -> None:
        for listener in tuple(self.listeners):
            listener(run, gone)
