"""Echoes: a watch that owes a version for too long is dead, one that is merely behind is not."""

from __future__ import annotations

import pytest

from watcher.cluster.echoes import Echoes


@pytest.fixture
def echoes() -> Echoes:
    echoes = Echoes()
    echoes.begin(0)
    echoes.opened("1", 0)
    return echoes


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


def test_a_watch_that_still_brings_older_versions_of_others_is_alive(echoes: Echoes) -> None:
    echoes.expect("u", "900", 0)
    for now in range(1, 100):
        echoes.deliver(f"other-{now}", str(now + 1), now)
        assert echoes.overdue(now, 30) is None
    assert echoes.overdue(129, 30) is None
    assert echoes.overdue(130, 30) == "u"


def test_a_watch_that_has_passed_a_version_without_bringing_it_is_dead(echoes: Echoes) -> None:
    echoes.expect("u", "5", 0)
    for now in range(1, 31):
        echoes.deliver(f"other-{now}", str(now + 5), now)
        assert echoes.overdue(now, 30) is None
    assert echoes.overdue(31, 30) == "u"


def test_a_deleted_object_owes_nothing(echoes: Echoes) -> None:
    echoes.expect("u", "5", 0)
    echoes.forget("u")
    assert echoes.overdue(100, 30) is None


def test_a_new_watch_owes_nothing_of_the_old(echoes: Echoes) -> None:
    echoes.expect("u", "5", 0)
    echoes.begin(1)
    echoes.opened("6", 1)
    assert echoes.overdue(100, 30) is None


def test_a_watch_owes_only_what_is_newer_than_its_opening(echoes: Echoes) -> None:
    echoes.begin(0)
    echoes.opened("5", 0)
    echoes.expect("u", "5", 0)
    assert echoes.overdue(100, 30) is None
    echoes.expect("u", "6", 0)
    assert echoes.overdue(100, 30) == "u"


def test_a_watch_that_does_not_open_is_dead(echoes: Echoes) -> None:
    echoes.begin(10)
    echoes.expect("u", "5", 10)
    assert echoes.overdue(40, 30) is None
    assert echoes.overdue(41, 30) == ""
