"""Durations, as they are written and read."""

from __future__ import annotations

import pytest

from dbtrun.cli.words import duration, seconds


@pytest.mark.parametrize(
    ("number", "text"),
    [(-3, "0s"), (0, "0s"), (45, "45s"), (60, "1m"), (200, "3m20s"), (3600, "1h"), (3661, "1h1m"), (3601, "1h"),
     (90_000, "1d1h"), (86_400 * 400, "400d")],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(number: float, text: str) -> None:
    assert duration(number) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [("90", 90), ("90s", 90), ("1.5", 1.5), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("1d2h3m4s", 93_784),
     ("", None), ("m", None), ("soon", None), ("-5m", None), ("5m1h", None), ("5 m", None)],
)  # fmt: skip
def test_a_duration_is_read(text: str, number: float | None) -> None:
    assert seconds(text) == number
