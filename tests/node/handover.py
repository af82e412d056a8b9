"""How long nobody acts when the watcher that acts ends."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final, Protocol

import psutil

STOPPED_SECONDS: Final = 3.0
KILLED_SECONDS: Final = 20.0
"""How long nobody may act after a clean stop, and after a kill, while another watcher stands by; see `pace`."""


class Watchers(Protocol):
    """Several watchers, of which one acts."""

    async def holder(self) -> str | None:
        """The watcher that holds the Lease; None: it is free."""
        ...


async def handed_over(watchers: Watchers, process: psutil.Process, over: asyncio.Event) -> list[float]:
    """How long nobody held the Lease, or its holder did not run, each time that it changed hands, in seconds.

    Args:
        watchers: those that share the Lease.
        process: of the watcher that holds it now.
        over: set when no more changes are expected.
    """
    holder, free_since = await watchers.holder(), None
    gaps: list[float] = []
    while not (over.is_set() and gaps):
        now = await watchers.holder()
        if free_since is None and (now is None or not (gaps or _runs(process))):
            free_since = time.monotonic()
        if now is not None and now != holder:
            # Released and taken between two looks: no time at all.
            gaps.append(0.0 if free_since is None else time.monotonic() - free_since)
            holder, free_since = now, None
        await asyncio.sleep(0.1)
    return gaps


def told(name: str, gaps: list[float]) -> str:
    """One line for the log of the tests."""
    return f"{name}: nobody acted for {', '.join(f'{gap:.1f}' for gap in gaps)} s"


def pace() -> float:
    """How many times longer work takes than on an idle machine, by the load of the last minute; at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
