"""A namespace of DbtRuns that is scripted by the test, and short ways to write a DbtRun down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_trigger.shared.objects import Run
from airflow_trigger.waiting.runs import Change, Listing
from dbtrun.kube.errors import AlreadyExists, KubeError, NotFound
from dbtrun.kube.watch import Added, Progress, Removed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping


def dbtrun(
    name: str = "nightly",
    *,
    version: int = 1,
    uid: str = "u1",
    spec: Mapping[str, Any] | None = None,
    deleting: bool = False,
    labels: Mapping[str, str] | None = None,
    **status: object,
) -> Run:
    """A DbtRun from the names that its JSON has."""
    metadata: dict[str, object] = {"name": name, "uid": uid, "resourceVersion": str(version), "labels": labels or {}}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return msgspec.convert({"metadata": metadata, "spec": dict(spec or {"job": {"id": 1}}), "status": status}, Run)


class FakeRuns:
    """An API server of one namespace: `put` and `remove` change it, `cut` ends its watches, `fail` its requests."""

    def __init__(self) -> None:
        self.objects: dict[str, Run] = {}
        self.version = 1
        self.lists = self.looks = self.gets = self.creates = self.watches = 0
        self.errors: dict[str, list[KubeError]] = {"list": [], "live": [], "watch": [], "get": [], "create": []}
        self.lagging = self.mute = False
        self._open: list[asyncio.Queue[Change | KubeError | None]] = []

    def put(self, run: Run, *, told: bool = True) -> None:
        self.version = max(self.version, run.metadata.version)
        self.objects[run.metadata.name] = run
        if told:
            self.say(Added(run, run.metadata.resource_version))

    def remove(self, name: str, *, told: bool = True) -> None:
        self.version += 1
        last = msgspec.structs.replace(
            self.objects[name],
            metadata=msgspec.structs.replace(self.objects[name].metadata, resource_version=str(self.version)),
        )
        del self.objects[name]
        if told:
            self.say(Removed(last, str(self.version)))

    def say(self, change: Change | KubeError | None) -> None:
        for queue in self._open:
            queue.put_nowait(change)

    def fail(self, verb: str, *errors: KubeError) -> None:
        self.errors[verb].extend(errors)

    def _maybe_fail(self, verb: str) -> None:
        if self.errors[verb]:
            raise self.errors[verb].pop(0)

    async def list(self) -> Listing:
        self.lists += 1
        self._maybe_fail("list")
        return Listing(dict(self.objects), str(self.version))

    async def live(self) -> Listing:
        self.looks += 1
        self._maybe_fail("live")
        return Listing({name: run for name, run in self.objects.items() if not run.final}, str(self.version))

    async def watch(self, version: str, silence_seconds: float) -> AsyncGenerator[Change]:
        self.watches += 1
        self._maybe_fail("watch")
        if self.mute:
            return
        queue: asyncio.Queue[Change | KubeError | None] = asyncio.Queue()
        self._open.append(queue)
        queue.put_nowait(Progress(version))
        try:
            while (said := await queue.get()) is not None:
                if isinstance(said, KubeError):
                    raise said
                yield said
        finally:
            self._open.remove(queue)

    async def get(self, name: str) -> Run:
        self.gets += 1
        self._maybe_fail("get")
        if name not in self.objects:
            raise NotFound(f'dbtruns.dbtrun.dev "{name}" not found')
        return self.objects[name]

    async def create(self, body: Mapping[str, Any]) -> Run:
        self.creates += 1
        self._maybe_fail("create")
        name = body["metadata"]["name"]
        if name in self.objects:
            raise AlreadyExists(f'dbtruns.dbtrun.dev "{name}" already exists')
        run = dbtrun(name, version=self.version + 1, uid=f"u{self.version + 1}", spec=body["spec"])
        self.put(run, told=not self.lagging)
        return run
