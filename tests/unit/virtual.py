"""The time of a loop that jumps over waiting (`pytest.mark.looptime`), as the watcher's clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from dbtrun.values import Instant

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
JUMPING = pytest.mark.looptime(noop_cycles=1)
"""For tests without threads. By default the loop makes 42 rounds before each jump, in case a thread has an answer."""


def now() -> float:
    """Monotonic seconds."""
    return asyncio.get_running_loop().time()


def clock() -> Instant:
    """Both clocks; the wall clock shows noon when the loop begins."""
    return Instant(NOON + timedelta(seconds=now()), now())
