"""For how long an object's steps are wanted fresh, and when that is asked for again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dbtrun.api import WATCHED_ANNOTATION
from dbtrun.api.watched import is_watched, renewal

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


def until(**ahead: float) -> dict[str, str]:
    return {WATCHED_ANNOTATION: (NOW + timedelta(**ahead)).isoformat()}


@pytest.mark.parametrize(
    ("annotations", "watched", "renewed"),
    [
        ({}, False, True),
        (until(seconds=-1), False, True),
        (until(seconds=0), False, True),
        (until(seconds=1), True, True),
        (until(seconds=60), True, True),
        (until(seconds=61), True, False),
        (until(minutes=10), True, False),
        (until(minutes=10, seconds=1), False, True),
        (until(days=3_000_000 / 10), False, True),
        ({WATCHED_ANNOTATION: "2026-01-05T12:01:30Z"}, True, False),
        ({WATCHED_ANNOTATION: "2026-01-05T12:01:30"}, False, True),
        ({WATCHED_ANNOTATION: "2026-01-05T14:01:30+02:00"}, True, False),
        ({WATCHED_ANNOTATION: "0001-01-01T00:00:00+14:00"}, False, True),
        ({WATCHED_ANNOTATION: "9999-12-31T23:59:59-14:00"}, False, True),
        ({WATCHED_ANNOTATION: ""}, False, True),
        ({WATCHED_ANNOTATION: "for ever"}, False, True),
        ({WATCHED_ANNOTATION: "1" * 100_000}, False, True),
    ],
)
def test_the_time_counts_if_it_is_near(annotations: dict[str, str], watched: bool, renewed: bool) -> None:
    assert is_watched(annotations, NOW) is watched
    assert (renewal(annotations, NOW) is not None) is renewed


def test_what_is_asked_for_is_watched_for_two_minutes_and_not_asked_for_again_in_the_first() -> None:
    body = renewal({}, NOW.astimezone(timezone(timedelta(hours=5))))
    assert body == {"metadata": {"annotations": {WATCHED_ANNOTATION: "2026-01-05T12:02:00Z"}}}
    told = body["metadata"]["annotations"]
    seconds = range(0, 180, 10)
    assert [at for at in seconds if is_watched(told, NOW + timedelta(seconds=at))] == list(range(0, 120, 10))
    assert [at for at in seconds if renewal(told, NOW + timedelta(seconds=at)) is None] == list(range(0, 60, 10))
