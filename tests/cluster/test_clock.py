"""The real API server tells the time by which all watchers count."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from dbtrun.values import Instant
from tests.patience import patience
from watcher.cluster.access import ClusterAccess
from watcher.cluster.clock import ClusterClock


async def test_any_reply_puts_a_wrong_clock_right(admin: ClusterAccess) -> None:
    def ten_minutes_ahead() -> Instant:
        return Instant(datetime.now(UTC) + timedelta(minutes=10), time.monotonic())

    admin.clock = ClusterClock(ten_minutes_ahead)
    await admin.request("GET", "/version")
    assert abs((admin.clock().wall - datetime.now(UTC)).total_seconds()) < patience(2)
    assert abs(admin.clock.offset.total_seconds() + 600) < patience(2)
