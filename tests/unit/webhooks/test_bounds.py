"""How many webhooks are taken, and which are taken again."""

from __future__ import annotations

from watcher.bucket import Bucket
from watcher.webhooks.bounds import EVERYBODY, MAX_PEERS, MAX_REMEMBERED, PEER, REMEMBERED_SECONDS, Deliveries, Gate


def test_a_flood_of_one_address_is_cut_and_the_others_pass() -> None:
    gate = Gate(0.0)
    passed = sum(gate.passes("flood", 0.0) for _ in range(10_000))
    assert passed == PEER[1]
    assert gate.passes("dbt", 0.0)
    later = sum(gate.passes("flood", 60.0) for _ in range(100_000))
    assert later == PEER[1]


def test_a_flood_of_many_addresses_is_cut_and_remembers_only_so_many() -> None:
    gate = Gate(0.0)
    passed = sum(gate.passes(f"peer-{number}", 0.0) for number in range(10 * MAX_PEERS))
    assert passed == EVERYBODY[1]
    assert len(gate._peers) == MAX_PEERS
    assert gate.passes("dbt", 1.0)


def test_an_event_is_known_once_it_was_taken_for_the_same_connection() -> None:
    deliveries = Deliveries()
    assert not deliveries.knows("data/dbt-cloud", "event", 0.0)
    deliveries.take("data/dbt-cloud", "event", 0.0)
    assert deliveries.knows("data/dbt-cloud", "event", 1.0)
    assert not deliveries.knows("other/dbt-cloud", "event", 1.0)
    assert not deliveries.knows("data/dbt-cloud", "event", REMEMBERED_SECONDS)


def test_only_so_many_events_are_remembered() -> None:
    deliveries = Deliveries()
    for number in range(MAX_REMEMBERED + 10):
        deliveries.take("data/dbt-cloud", str(number), 0.0)
    assert len(deliveries._taken) == MAX_REMEMBERED
    assert deliveries.knows("data/dbt-cloud", str(MAX_REMEMBERED), 0.0)


def test_a_bucket_takes_all_tokens_or_none() -> None:
    bucket = Bucket(60, 0.0, burst=3)
    assert not bucket.take(0.0, 4)
    assert bucket.take(0.0, 3)
    assert not bucket.take(0.5)
    assert bucket.take(1.0)
