"""This machine's clocks, as a value so that tests can set it, and how far a server's clock is from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from dbtrun.values import Instant, http_date

Clock = Callable[[], Instant]

MAX_OFFSET: Final = timedelta(days=3650)
"""A clock that is further from ours is ignored."""
DATE_RESOLUTION: Final = timedelta(seconds=1)
"""Of the Date header (RFC 9110, 5.6.7)."""


def system_clock() -> Instant:
    """This machine's time on both clocks."""
    return Instant(datetime.now(UTC), time.monotonic())


def clock_offset(date: str | None, sent: datetime, received: datetime) -> timedelta:
    """A server's clock minus ours, from a reply's Date; 0 if there is none or the difference is within its error.

    The Date has whole seconds and was written somewhere between sending and receiving. A difference that both can
    explain counts as none, so that it does not flicker.
    """
    if date is None:
        return timedelta(0)
    try:
        told = http_date(date) + DATE_RESOLUTION / 2
    except (ValueError, OverflowError):
        return timedelta(0)
    half_trip = (received - sent) / 2
    offset = told - (sent + half_trip)
    return offset if DATE_RESOLUTION + half_trip < abs(offset) < MAX_OFFSET else timedelta(0)
