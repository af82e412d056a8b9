"""Values that all parts compute in the same way."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbtrun.text import cut, cut_bytes
from dbtrun.values import backoff, digest, keep_newest, shortened


@pytest.mark.parametrize(
    ("failures", "pause"), [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (10_000_000, 60.0)]
)
def test_a_pause_doubles_up_to_the_longest(failures: int, pause: float) -> None:
    assert backoff(failures, 1.0, 60.0) == pause


def test_what_is_kept_longest_goes_first_when_there_is_too_much() -> None:
    kept: dict[str, int] = {}
    for number, key in enumerate("abac"):
        keep_newest(kept, key, number, most=2)
    assert kept == {"a": 2, "c": 3}


def test_a_digest_does_not_change_between_releases() -> None:
    assert digest("nightly") == "2a3b62b5"
    assert digest("nightly", 16).startswith(digest("nightly"))


@given(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,300}[a-z0-9])?", fullmatch=True), st.integers(20, 253))
def test_a_shortened_name_is_still_a_name(name: str, limit: int) -> None:
    short = shortened(name, limit)
    assert len(short) <= limit
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", short)
    assert (short == name) is (len(name) <= limit)


def test_names_that_begin_alike_stay_different() -> None:
    assert shortened("a" * 300, 253) != shortened("a" * 301, 253)
    assert shortened("one two", 63, cut="x") != shortened("one  two", 63, cut="x")


@given(st.text(max_size=60), st.integers(4, 40))
def test_a_text_is_cut_at_characters_or_bytes(text: str, limit: int) -> None:
    assert len(cut(text, limit)) <= limit
    assert len(cut_bytes(text, limit).encode()) <= limit
    assert (cut(text, limit) == text) is (len(text) <= limit)
