"""Echoes: a watch that owes a version for too long is dead, one that is merely behind is not."""

from __future__ import annotations

import pytest

from watcher.cluster.echoes import Echoes


@pytest.fixture
def echoes() -> Echoes:
    return Echoes()


def test_a_version_that_came_by_is_not_owed(echoes: Echoes) -> None:
    echoes.deliver("u", "5", 0)
    echoes.expect("u", "5", 1)
    assert echoes.overdue(100, 30) is None


def test_a_version_that_never_comes_is_overdue(echoes: Echoes) -> None:
    echoes.expect("u", "5", 0)
    assert echoes.overdue(30, 30) is None
    assert echoes.overdue(31, 30) == "u"


def test_a_newer_version_pays_for_an_older(echoes: Echoes) -> None:
    echoes.expect("u", "5", 0)
    echoes.deliver("u", "6", 1)
    assert echoes.overdue(100, 30) is None


def test_further_writes_do_not_postpone_the_verdict(echoes: Echoes) -> None:
    for now in range(40):
        echoes.expect("u", str(now), now)
    assert echoes.overdue(40, 30) == "u"


def test_a_watch_that_lags_behind_is_alive(echoes: Echoes) -> None:
    echoes.expect("u", "9", 0)
    echoes.deliver("u", "8", 29)
    assert echoes.overdue(40, 30) is None


def test_a_deleted_object_owes_nothing(echoes: Echoes) -> None:
    echoes.expect("u", "5", 0)
    echoes.forget("u")
    assert echoes.overdue(100, 30) is None


def test_a_new_watch_owes_nothing_of_the_old(echoes: Echoes) -> None:
    echoes.expect("u", "5", 0)
    echoes.deliver("v", "5", 0)
    echoes.begin([], 1)
    assert echoes.overdue(100, 30) is None
    assert not echoes.knows("v")


def test_a_new_watch_may_take_long_while_it_makes_progress(echoes: Echoes) -> None:
    echoes.begin([(f"u{n}", "5") for n in range(10)], 0)
    for n in range(10):
        assert echoes.overdue(n * 20 + 19, 30) is None
        echoes.deliver(f"u{n}", "5", n * 20 + 20)
    assert echoes.overdue(1_000, 30) is None


def test_a_new_watch_that_stops_half_way_is_dead(echoes: Echoes) -> None:
    echoes.begin([("u", "5"), ("v", "5")], 0)
    echoes.deliver("u", "5", 20)
    assert echoes.overdue(50, 30) is None
    assert echoes.overdue(51, 30) == "v"


def test_what_is_deleted_does_not_hold_a_new_watch_in_its_beginning(echoes: Echoes) -> None:
    echoes.begin([("u", "5")], 0)
    echoes.forget("u")
    echoes.expect("w", "9", 1)
    assert echoes.overdue(32, 31.5) is None
    assert echoes.overdue(33, 31.5) == "w"


def test_versions_that_are_no_numbers_prove_nothing(echoes: Echoes) -> None:
    echoes.expect("u", "abc", 0)
    assert echoes.overdue(100, 30) is None
