"""A client that shows a run's steps as they change says so on the object, for two minutes at a time.

Until that time has passed, the watcher reads the steps every few seconds instead of every few minutes. It stops by
itself: a terminal that was closed leaves nothing behind that costs dbt Cloud requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dbtrun.api.names import WATCHED_ANNOTATION

ASKED: Final = timedelta(minutes=2)
"""For how long one request is good."""
RENEWED: Final = timedelta(minutes=1)
"""What may be left of it when it is renewed: one write per object and minute, however many people look."""
LONGEST: Final = timedelta(minutes=10)
"""A time that is further ahead counts for nothing, or one edit could cost requests for years. Clocks may differ by
some minutes."""


def is_watched(annotations: Mapping[str, str], now: datetime) -> bool:
    """Whether somebody reads the object's steps as they come."""
    until = _until(annotations)
    return until is not None and now < until <= now + LONGEST


def renewal(annotations: Mapping[str, str], now: datetime) -> dict[str, Any] | None:
    """What a reader merges into the object, to see each step; None: nothing, as somebody just did."""
    until = _until(annotations)
    if until is not None and now + RENEWED < until <= now + LONGEST:
        return None
    told = (now + ASKED).astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return {"metadata": {"annotations": {WATCHED_ANNOTATION: told}}}


def _until(annotations: Mapping[str, str]) -> datetime | None:
    """None also for what is no time with a time zone: anybody may have written it."""
    try:
        until = datetime.fromisoformat(annotations.get(WATCHED_ANNOTATION, ""))
    except ValueError:
        return None
    return until if until.tzinfo is not None else None
