"""Connections for code that shares a process with others, as a trigger does with a thousand more.

The client is imported when a connection is made and not before: it takes a third of a second, and every DAG file is
parsed again and again.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final

from dbtrun.kube.config import ClusterConfig, Timeouts
from dbtrun.kube.home import have_a_home
from dbtrun.kube.per_loop import PerLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dbtrun.kube.cluster import Cluster

REQUEST_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 10.0
REQUESTS_AT_ONCE: Final = 4
"""Single requests under way per cluster: a restarted triggerer must not flood the API server, and each TLS connection
costs a buffer of 256 kB."""


def connect(config: ClusterConfig) -> Cluster:
    """A connection to the API server, which is opened by its first request."""
    have_a_home()
    from dbtrun.kube.cluster import Cluster
    from dbtrun.kube.credentials import credentials

    timeouts = Timeouts(connect=CONNECT_SECONDS, total=REQUEST_SECONDS)
    return Cluster(credentials(config), timeouts=timeouts, at_once=REQUESTS_AT_ONCE)


async def _close(cluster: Cluster) -> None:
    await cluster.close()


clusters: Final[PerLoop[ClusterConfig, Cluster]] = PerLoop(connect, _close)
"""One Cluster per event loop and configuration: `async with clusters.lease(config) as cluster`."""


@asynccontextmanager
async def leased(config: ClusterConfig) -> AsyncIterator[Cluster]:
    """The shared connection. The client is imported in a thread: a triggerer warns of a loop that stood still."""
    have_a_home()
    for name in ("dbtrun.kube.cluster", "dbtrun.kube.credentials"):
        await asyncio.to_thread(import_module, name)
    async with clusters.lease(config) as cluster:
        yield cluster
