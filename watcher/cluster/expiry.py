"""Brings back the finished objects whose TTL is about to end: the mirror keeps nothing of them but their version."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, NoReturn

from dbtrun.kube.errors import KubeError, NotFound
from watcher.cluster.mirror import Mirror
from watcher.cluster.writer import Writer

logger = logging.getLogger(__name__)

EVERY: Final = 1.0
"""Seconds between two looks."""
AGAIN: Final = 30.0
"""Seconds after which an object that could not be read is tried again."""


class Expiry:
    """`run` until cancelled.

    Args:
        now: seconds since the epoch, by the API server's clock.
        acting: whether this replica is the active one; a standby needs none of them.
    """

    def __init__(
        self,
        mirror: Mirror,
        objects: Writer,
        wake: Callable[[str], None],
        now: Callable[[], float],
        acting: Callable[[], bool],
    ) -> None:
        self._mirror = mirror
        self._objects = objects
        self._wake = wake
        self._now = now
        self._acting = acting

    async def run(self) -> NoReturn:
        """Looks every second."""
        while True:
            await asyncio.sleep(EVERY)
            # One after another: expiry may be late, and must not crowd out starts.
            for expiring in self._mirror.expired(self._now()) if self._acting() else ():
                try:
                    run = await self._objects.get(expiring.namespace, expiring.name)
                except NotFound:
                    run = None
                except KubeError as error:
                    logger.info("A finished object could not be read: %s", error)
                    self._mirror.postpone(expiring, self._now() + AGAIN)
                    continue
                # Another uid under this name: what was to expire is gone, and its name is taken again.
                if run is None or run.uid != expiring.uid:
                    self._mirror.forget(expiring.uid)
                else:
                    self._mirror.rouse(run)
                    self._wake(run.uid)
