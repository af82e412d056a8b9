"""`dbtrun wait` beside an API server in memory: what it asks the watcher for while it shows a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dbtrun.api import PLURAL
from dbtrun.api.names import WATCHED_ANNOTATION
from dbtrun.cli import runs as module
from dbtrun.cli.cluster import Place
from dbtrun.cli.ends import Exit
from dbtrun.cli.waiting import waited
from tests.unit.world.apiserver import ApiServer, listening, until


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[ApiServer, Place]]:
    monkeypatch.setattr(module, "ASK_SECONDS", 0.01)
    made = ApiServer()
    async with listening(tmp_path, made.serve) as path:
        yield made, Place(kubeconfig=str(path), context=None, namespace="ns")


async def put(server: ApiServer, name: str, phase: str) -> None:
    await server.put(PLURAL, name, {"spec": {"job": {"id": 1}}, "status": {"phase": phase}})


async def test_the_steps_of_a_running_run_are_asked_for_while_they_are_shown(server: tuple[ApiServer, Place]) -> None:
    api, place = server
    await put(api, "runs", "Running")
    await put(api, "waits", "Queued")
    waiting = asyncio.create_task(waited(place, ["runs", "waits"]))
    await until(lambda: any(method == "PATCH" for method, _ in api.asked))
    await put(api, "runs", "Succeeded")
    await put(api, "waits", "Succeeded")
    assert await waiting is Exit.SUCCEEDED
    annotated = {name for (_, _, name), body in api.objects.items() if body["metadata"].get("annotations")}
    assert annotated == {"runs"}
    assert WATCHED_ANNOTATION in api.objects[PLURAL, "ns", "runs"]["metadata"]["annotations"]


async def test_nothing_is_asked_for_where_nothing_is_shown(server: tuple[ApiServer, Place]) -> None:
    api, place = server
    await put(api, "runs", "Running")
    assert await waited(place, ["runs"], 0.5, quiet=True) is Exit.WAITED_LONG_ENOUGH
    assert api.writes() == []
