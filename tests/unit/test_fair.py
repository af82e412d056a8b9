"""Turns between namespaces: fair shares, priorities within a namespace, and a place that can be reported."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from dbtrun.fair import Applicant, FairQueue


def applicant(uid: str, namespace: str, priority: int = 0, created: float = 0.0) -> Applicant:
    return Applicant(uid=uid, namespace=namespace, priority=priority, created=created)


def filled(sizes: dict[str, int], weights: dict[str, int] | None = None) -> FairQueue:
    queue = FairQueue(weights or {})
    for namespace, size in sizes.items():
        for number in range(size):
            queue.push(applicant(f"{namespace}{number:04}", namespace))
    return queue


def served(queue: FairQueue, count: int | None = None) -> list[str]:
    return [queue.pop().uid for _ in range(len(queue) if count is None else count)]


def test_namespaces_take_turns() -> None:
    assert served(filled({"a": 4, "b": 2, "c": 1})) == ["a0000", "b0000", "c0000", "a0001", "b0001", "a0002", "a0003"]


def test_a_weight_is_a_share() -> None:
    first = served(filled({"a": 100, "b": 100, "c": 100}, {"a": 3, "c": 2}), 60)
    assert Counter(uid[0] for uid in first) == {"a": 30, "b": 10, "c": 20}


def test_within_a_namespace_priority_goes_first_then_age() -> None:
    queue = FairQueue()
    for uid, priority, created in [("new", 0, 9.0), ("old", 0, 1.0), ("low", -5, 0.0), ("urgent", 10, 99.0)]:
        queue.push(applicant(uid, "a", priority, created))
    assert served(queue) == ["urgent", "old", "new", "low"]


def test_a_priority_that_changes_moves_the_applicant() -> None:
    queue = filled({"a": 3})
    queue.push(applicant("a0002", "a", priority=1))
    assert len(queue) == 3
    assert served(queue) == ["a0002", "a0000", "a0001"]


def test_an_idle_namespace_saves_no_turns_up() -> None:
    queue = filled({"a": 100})
    served(queue, 50)
    for number in range(50):
        queue.push(applicant(f"b{number:04}", "b"))
    assert Counter(uid[0] for uid in served(queue, 20)) == {"a": 10, "b": 10}


def test_a_namespace_cannot_jump_the_queue_by_coming_one_at_a_time() -> None:
    queue = filled({"a": 100})
    first = list[str]()
    for number in range(20):
        queue.push(applicant(f"b{number:04}", "b"))
        first += served(queue, 1)
    first += served(queue, 20)
    assert Counter(uid[0] for uid in first) == {"a": 20, "b": 20}


def test_whoever_is_discarded_takes_no_turn() -> None:
    queue = filled({"a": 2, "b": 1})
    queue.discard("a0000")
    queue.discard("unknown")
    assert "a0000" not in queue
    assert served(queue) == ["a0001", "b0000"]


def test_an_empty_queue_has_no_turn() -> None:
    with pytest.raises(IndexError):
        FairQueue().pop()


@pytest.mark.parametrize("seed", range(20))
def test_the_place_that_is_reported_is_the_place_that_is_served(seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311 - a reproducible draw
    queue = FairQueue({"n0": 3, "n1": 2})
    for number in range(60):
        queue.push(applicant(f"u{number}", f"n{draw.randrange(5)}", priority=draw.randrange(3), created=draw.random()))
        if draw.random() < 0.2:
            queue.pop()
    order = [one.uid for one in queue.order()]
    # Namespaces whose turns come at the same virtual time may go in either order.
    assert all(abs(queue.ahead(uid) - place) <= 5 for place, uid in enumerate(order))
    assert served(queue) == order
