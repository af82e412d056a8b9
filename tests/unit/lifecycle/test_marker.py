"""The marker that makes a run ours."""

from __future__ import annotations

import pytest

from tests.unit.lifecycle.builders import MARK, UID, run
from watcher.lifecycle.marker import MAX_CAUSE, mark_of, marked_cause, marker


def test_a_marker_names_the_object_and_the_attempt() -> None:
    assert marker(UID, 3) == f"dbtrun:{UID}/3"


def test_no_marker_is_the_beginning_of_another_with_its_space() -> None:
    assert not f"{marker(UID, 11)} x".startswith(f"{marker(UID, 1)} ")


def test_a_cause_says_which_object_asked() -> None:
    assert marked_cause(run(), MARK) == f"{MARK} DbtRun data/nightly"


def test_a_users_cause_comes_behind_the_marker() -> None:
    assert marked_cause(run(cause="Because."), MARK) == f"{MARK} Because."


@pytest.mark.parametrize("words", ["x" * 9_000, "😀" * 9_000, "\x1b[31m" * 9_000 + "x"])
def test_no_cause_is_too_long_or_without_its_marker(words: str) -> None:
    cause = marked_cause(run(cause=words), MARK)
    assert len(cause) <= MAX_CAUSE
    assert cause.startswith(f"{MARK} ")


def test_a_cause_tells_which_attempt_it_names() -> None:
    mark = marker("uid-1", 12)
    assert mark_of(f"{mark} nightly") == mark
    assert mark_of(mark) == mark
    assert mark_of(f"{mark}3 nightly") == marker("uid-1", 123), "the whole number counts"
    assert mark_of(f"{mark}x nightly") is None
    assert mark_of(f"see {mark}") is None, "it opens the cause"
