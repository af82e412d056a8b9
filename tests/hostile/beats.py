"""For how long an event loop is blocked, beat by beat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

BEAT: Final = 0.01
"""Seconds between two beats."""


async def blocks() -> AsyncIterator[float]:
    """How late each beat of the running loop was, in seconds.

    Never more than the processor time that the process used since the beat before: on a busy machine a process may wait
    for a processor, and that is no block of its loop.
    """
    while True:
        due, used = time.perf_counter() + BEAT, time.process_time()
        await asyncio.sleep(BEAT)
        yield max(0.0, min(time.perf_counter() - due, time.process_time() - used))
