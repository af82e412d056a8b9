"""Times, durations and texts, as people read them on a terminal. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from dbtrun.text import plain
from dbtrun.values import http_date

UNITS: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def one_line(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return " ".join(plain(text).split())


def duration(seconds: float) -> str:
    """Two units at most, as kubectl writes ages: 45s, 3m20s, 5h1m, 2d3h."""
    left = max(int(seconds), 0)
    parts: list[str] = []
    for unit, size in UNITS:
        amount, left = divmod(left, size)
        if parts or amount:
            parts.append(f"{amount}{unit}" if amount else "")
        if len(parts) == 2:
            break
    return "".join(parts) or "0s"


def between(start: datetime | None, end: datetime | None) -> str:
    """How long it took; empty if that is not known."""
    return "" if start is None or end is None else duration((end - start).total_seconds())


def clock(moment: datetime) -> str:
    """A moment in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def seconds(text: str) -> float | None:
    """Seconds of 90, 90s, 5m, 1h30m or 2d; None for anything else."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    found = DURATION.fullmatch(text)
    if found is None or not any(found.groups()):
        return None
    return float(sum(int(amount or 0) * size for amount, (_, size) in zip(found.groups(), UNITS, strict=True)))


def ahead(date: str | None, sent: datetime, seconds: float) -> float | None:
    """How far the clock that wrote the Date header is ahead; the middle of the request is compared."""
    if not date:
        return None
    try:
        told = http_date(date)
    except (ValueError, OverflowError):
        return None
    # A Date has whole seconds, and what is cut off is half a second in the mean.
    return (told - sent).total_seconds() + 0.5 - seconds / 2
