"""The clock that the client and the poller read, as a value so that tests can set it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from watcher.lifecycle.facts import Instant

Clock = Callable[[], Instant]


def system_clock() -> Instant:
    """This machine's time on both clocks."""
    return Instant(datetime.now(UTC), time.monotonic())
