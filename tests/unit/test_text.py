"""Other people's words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbtrun.text import MAX_DIGITS, clean, natural


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  all right\n", "all right"),
        ("one\ttwo\nthree", "one\ttwo\nthree"),
        ("one\r\ntwo\rthree", "one\ntwothree"),
        ("\x1b[31;1mred\x1b[0m", "red"),
        ("\x1b]8;;https://evil.example\x07click\x1b]8;;\x07", "click"),
        ("\x1b]0;title\x1b\\text", "text"),
        ("\x1bcreset", "creset"),
        ("\x1bMup", "up"),
        ("nul\x00bell\x07back\x08", "nulbellback"),
        ("\x9b31mC1", "31mC1"),
        ("user\u202etxt.exe", "usertxt.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("half \ud83d emoji", "half  emoji"),
        ("naïve 😀 日本", "naïve 😀 日本"),
    ],
)
def test_words_become_plain(text: str, plain: str) -> None:
    assert clean(text, 100) == plain


def test_a_long_text_is_cut_with_an_ellipsis() -> None:
    assert clean("abcdef", 5) == "abcd…"


def test_a_text_that_just_fits_is_not_cut() -> None:
    assert clean("abcde", 5) == "abcde"


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=80), st.integers(1, 40))
@settings(deadline=None, derandomize=True, max_examples=100, database=None)
def test_any_text_becomes_short_plain_json(text: str, limit: int) -> None:
    plain = clean(text, limit)
    assert len(plain) <= limit
    assert "\x1b" not in plain
    assert json.loads(json.dumps(plain).encode("utf-8")) == plain
    plain.encode("utf-8")


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1_0", "1.0", "²", "٣", "x", "9" * (MAX_DIGITS + 1), "9" * 5_000]
)
def test_only_a_natural_number_in_ascii_is_one(text: str) -> None:
    assert natural(text) is None


def test_a_natural_number_is_read() -> None:
    assert [natural(text) for text in ("0", "007", "9" * MAX_DIGITS)] == [0, 7, int("9" * MAX_DIGITS)]
