"""The watcher's client at the API server in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from dbtrun.kube.config import Timeouts
from tests.unit.world.apiserver import ApiServer, listening
from watcher.cluster.access import ClusterAccess


class World(NamedTuple):
    """An API server, and the watcher's way to it."""

    server: ApiServer
    access: ClusterAccess


@asynccontextmanager
async def world(folder: Path, *, total: float = 20.0) -> AsyncIterator[World]:
    """Both, until the block is left. A request is given up after `total` seconds."""
    server = ApiServer()
    async with listening(folder, server.serve) as config:
        access = await ClusterAccess.load(config, timeouts=Timeouts(total=total))
        try:
            yield World(server, access)
        finally:
            await access.close()
