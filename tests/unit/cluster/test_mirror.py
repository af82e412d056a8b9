"""The mirror: whatever order news arrives in, the newest stays and the dead stay dead."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.cluster.mirror import LAST_APPLIED, Mirror, read


def body(uid: str = "u1", version: int | str = 1, *, name: str = "run", namespace: str = "ns", **more: Any) -> Any:
    metadata = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata | more.pop("metadata", {}), "spec": {"job": {"id": 1}}} | more


@pytest.fixture
def mirror() -> Mirror:
    return Mirror()


def version_of(mirror: Mirror, uid: str = "u1") -> str:
    run = mirror.get(uid)
    assert run is not None
    return run.metadata.resource_version


def test_a_new_object_is_news_once(mirror: Mirror) -> None:
    assert mirror.apply("ADDED", body()) == "u1"
    assert mirror.apply(None, body()) is None
    assert len(mirror) == 1


def test_a_stale_event_does_not_undo_our_own_write(mirror: Mirror) -> None:
    mirror.apply("ADDED", body(version=9))
    assert mirror.record(read(body(version=10)))
    assert mirror.apply("MODIFIED", body(version=9)) is None
    assert version_of(mirror) == "10"


def test_an_answer_older_than_the_watch_is_no_news(mirror: Mirror) -> None:
    mirror.apply("ADDED", body(version=11))
    assert not mirror.record(read(body(version=10)))
    assert version_of(mirror) == "11"


def test_versions_that_are_no_numbers_are_believed_as_they_arrive(mirror: Mirror) -> None:
    mirror.apply("ADDED", body(version="b"))
    assert mirror.apply("MODIFIED", body(version="a")) == "u1"
    assert version_of(mirror) == "a"


@given(st.permutations(range(1, 6)))
def test_the_newest_version_stays_in_whatever_order_they_come(order: list[int]) -> None:
    mirror = Mirror()
    for version in order:
        mirror.apply("MODIFIED", body(version=version))
    assert version_of(mirror) == "5"


def test_a_deleted_object_is_gone_and_told_once(mirror: Mirror) -> None:
    mirror.apply("ADDED", body())
    assert mirror.apply("DELETED", body(version=2)) == "u1"
    assert mirror.apply("DELETED", body(version=2)) is None
    assert mirror.get("u1") is None
    assert mirror.find("ns", "run") is None


def test_a_late_answer_does_not_revive_a_deleted_object(mirror: Mirror) -> None:
    mirror.apply("ADDED", body())
    mirror.apply("DELETED", body(version=2))
    assert not mirror.record(read(body(version=3)))
    assert mirror.apply("MODIFIED", body(version=4)) is None
    assert len(mirror) == 0


def test_a_name_finds_its_present_owner(mirror: Mirror) -> None:
    mirror.apply("ADDED", body("old", 1))
    mirror.apply("ADDED", body("new", 5))
    mirror.apply("DELETED", body("old", 4))
    found = mirror.find("ns", "run")
    assert found is not None
    assert found.uid == "new"


def test_pruning_forgets_what_a_list_no_longer_has(mirror: Mirror) -> None:
    for uid in ("a", "b"):
        mirror.apply("ADDED", body(uid, name=uid))
    assert mirror.prune(mirror.uids(), {"a"}) == {"b"}
    assert mirror.uids() == {"a"}


def test_pruning_keeps_what_appeared_after_the_list_began(mirror: Mirror) -> None:
    known = mirror.uids()
    mirror.apply("ADDED", body("fresh"))
    assert mirror.prune(known, set()) == frozenset()
    assert "fresh" in mirror


def test_uids_can_be_asked_for_one_namespace(mirror: Mirror) -> None:
    mirror.apply("ADDED", body("a", namespace="one"))
    mirror.apply("ADDED", body("b", namespace="two"))
    assert mirror.uids("one") == {"a"}


def test_an_unreadable_object_is_set_aside_with_the_reason(mirror: Mirror) -> None:
    mirror.apply("ADDED", body())
    assert mirror.apply("MODIFIED", body(version=2, spec={"suspend": "often"})) == "u1"
    assert mirror.get("u1") is None
    aside = mirror.unreadable("u1")
    assert aside is not None
    assert "Expected `bool`" in aside.message
    assert "suspend" in aside.message
    assert (aside.namespace, aside.name) == ("ns", "run")


def test_an_object_that_becomes_readable_is_back(mirror: Mirror) -> None:
    mirror.apply("ADDED", body(spec={"suspend": "often"}))
    mirror.apply("MODIFIED", body(version=2))
    assert mirror.unreadable("u1") is None
    assert mirror.all_unreadable == ()
    assert version_of(mirror) == "2"


def test_a_deleted_unreadable_object_is_forgotten(mirror: Mirror) -> None:
    mirror.apply("ADDED", body(spec={"suspend": "often"}))
    assert mirror.apply("DELETED", body(version=2)) == "u1"
    assert mirror.all_unreadable == ()


def test_the_copy_that_kubectl_leaves_is_not_kept() -> None:
    run = read(body(metadata={"annotations": {LAST_APPLIED: "x" * 10_000, "mine": "1"}, "managedFields": [{}]}))
    assert run.metadata.annotations == {"mine": "1"}
    assert len(msgspec.json.encode(run)) < 500
