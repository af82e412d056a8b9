"""Small values that every part computes in the same way: instants, pauses between tries, short names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_DOUBLINGS: Final = 30
"""More would overflow a float when something fails for days."""


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks: `wall` is shown to people and stored, `mono` (seconds) measures windows here."""

    wall: datetime
    mono: float


def backoff(failures: int, first: float, longest: float) -> float:
    """The pause in seconds after so many failures in a row: it doubles with each, from `first` to `longest`.

    It has no jitter: the caller adds what suits its case.
    """
    return float(min(first * 2.0 ** min(max(failures - 1, 0), MAX_DOUBLINGS), longest))


def http_date(text: str) -> datetime:
    """The moment that a header names.

    Raises:
        ValueError, OverflowError: it is not a date.
    """
    moment = parsedate_to_datetime(text)
    # email.utils gives no time zone for `-0000`, by which RFC 5322 means UTC.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def digest(text: str, digits: int = 8) -> str:
    """The first hexadecimal digits of the text's SHA-256: the same on every machine and in every release."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def shortened(name: str, limit: int, cut: str | None = None) -> str:
    """The name of an object in at most `limit` characters: a longer one is cut, and a digest keeps it unique.

    Args:
        cut: what is cut instead of `name`, while the digest is of `name`.
    """
    if cut is None and len(name) <= limit:
        return name
    head = (name if cut is None else cut)[: limit - 9].strip("-_.")
    return f"{head}-{digest(name)}" if head else digest(name)


def keep_newest(kept: dict[K, V], key: K, value: V, most: int) -> None:
    """Keeps the value as the newest of its dictionary, which forgets the oldest when it has more than `most`."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > most:
        del kept[next(iter(kept))]
