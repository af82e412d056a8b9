"""The time of a loop that jumps over waiting (`pytest.mark.looptime`), as the watcher's clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from dbtrun.values import Instant

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def now() -> float:
    """Monotonic seconds."""
    return asyncio.get_running_loop().time()


def clock() -> Instant:
    """Both clocks; the wall clock shows noon when the loop begins."""
    return Instant(NOON + timedelta(seconds=now()), now())
