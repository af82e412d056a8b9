"""The mirror: whatever order news arrives in, the newest stays and the dead stay dead."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbtrun.api import DbtRun, Phase
from watcher.cluster.mirror import Mirror, interpret, interpret_json, read
from watcher.cluster.scope import is_older


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


def test_what_a_write_without_effect_said_is_kept(mirror: Mirror) -> None:
    mirror.apply("ADDED", body(version=10))
    written = read(body(version=10, status={"host": "cloud.getdbt.com"}))
    assert mirror.record(written)
    assert mirror.apply("MODIFIED", body(version=10)) is None
    assert mirror.get("u1") == written


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


def test_what_is_not_used_is_not_kept() -> None:
    copy = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 10_000, "theirs": "y" * 10_000}
    marks = {"annotations": copy | {"dbtrun.dev/mine": "1"}, "labels": {"app": "z" * 63}, "managedFields": [{}]}
    run = read(body(metadata=marks))
    assert run.metadata.annotations == {"dbtrun.dev/mine": "1"}
    assert len(msgspec.json.encode(run)) < 500


@given(st.booleans())
def test_json_reads_as_its_body_does(readable: bool) -> None:
    told = body(spec={"job": {"id": 1}} if readable else {"suspend": "often"})
    assert interpret_json(msgspec.json.encode(told)) == interpret(told)


# What rests.


def finished(run: DbtRun) -> float | None:
    return math.inf if run.status.phase is Phase.SUCCEEDED else None


def done(uid: str = "u1", version: int = 1, **more: Any) -> Any:
    return body(uid, version, status={"phase": "Succeeded", "attempts": [{"number": 2, "phase": "Succeeded"}]}, **more)


def test_what_rests_is_known_and_not_kept() -> None:
    mirror = Mirror(finished)
    assert mirror.apply(None, done()) is None, "there is nothing to look at"
    assert mirror.get("u1") is None
    assert (len(mirror), mirror.resting, mirror.namespace("u1")) == (1, 1, "ns")
    assert mirror.uids("ns") == {"u1"}
    assert mirror.resource_version("u1") == "1"


def test_what_begins_to_rest_is_looked_at_once_more() -> None:
    mirror = Mirror(finished)
    mirror.apply("ADDED", body())
    assert mirror.apply("MODIFIED", done(version=2)) == "u1"
    assert mirror.apply("MODIFIED", done(version=2)) is None
    assert mirror.get("u1") is None


def test_a_change_brings_a_resting_object_back_with_its_past() -> None:
    mirror = Mirror(finished)
    mirror.apply(None, done())
    assert mirror.apply("MODIFIED", body(version=1)) is None
    assert mirror.apply("MODIFIED", body(version=2)) == "u1"
    assert version_of(mirror) == "2"
    assert mirror.rested("u1") == 2


def test_a_resting_object_is_pruned_and_deleted_without_a_look() -> None:
    mirror = Mirror(finished)
    for uid in ("a", "b"):
        mirror.apply(None, done(uid))
    assert mirror.apply("DELETED", done("a")) is None
    assert mirror.prune(mirror.uids("ns"), set()) == frozenset()
    assert (len(mirror), mirror.uids()) == (0, frozenset())


def test_what_rests_for_a_time_is_given_back_when_it_is_over() -> None:
    mirror = Mirror(lambda _run: 100.0)
    for uid in ("a", "b"):
        mirror.apply(None, done(uid, name=uid))
    mirror.apply("DELETED", done("b"))
    assert mirror.expired(99.0) == []
    assert [(found.uid, found.namespace, found.name) for found in mirror.expired(100.0)] == [("a", "ns", "a")]
    assert mirror.expired(200.0) == []


def test_resting_objects_cost_next_to_nothing() -> None:
    mirror = Mirror(finished)
    bodies = [msgspec.json.encode(done(f"{n:036}", n, name=f"run-{n}")) for n in range(1, 5_001)]
    tracemalloc.start()
    for raw in bodies:
        mirror.take(interpret_json(raw))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mirror.resting == 5_000
    assert kept / 5_000 < 700, "bytes per object"


def test_after_a_restore_what_is_said_next_is_believed_once(mirror: Mirror) -> None:
    mirror.apply(None, body(version=50))
    mirror.apply(None, body("u2", version=60))
    mirror.forget("u2")
    assert mirror.apply(None, body(version=40)) is None
    assert mirror.versions("ns") == {"u1": 50, "u2": 60.5}
    mirror.doubt("ns")
    assert mirror.apply(None, body(version=40)) == "u1"
    assert mirror.apply(None, body(version=39)) is None
    assert mirror.apply(None, body("u2", version=30)) == "u2"
    assert version_of(mirror) == "40"


@pytest.mark.parametrize(("listed", "restored"), [(59, True), (60, True), (61, False)])
def test_an_object_that_was_let_go_and_stays_for_others_is_no_sign_of_a_restore(listed: int, restored: bool) -> None:
    mirror = Mirror()
    mirror.apply(None, body(version=60))
    mirror.forget("u1")
    assert is_older("u1", str(listed), mirror.versions("ns")) is restored
