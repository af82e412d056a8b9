"""What is reported about an object changes what is known of it, and wakes it only if that may change a decision."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dbtrun.api import Reason
from dbtrun.values import Instant
from watcher.knowledge import Knowledge
from watcher.lifecycle.facts import Observation, Place, RunFacts, RunState, Trouble
from watcher.lifecycle.known import connected

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> Instant:
    return Instant(NOON + timedelta(seconds=seconds), seconds)


def seen(run_id: int | None, seconds: float = 1.0) -> Observation:
    run = run_id and RunFacts(run_id=run_id, account_id=1, job_id=1, state=RunState.RUNNING)
    return Observation(run=run or None, at=at(seconds))


AWAY = Trouble(reason=Reason.UNREACHABLE, message="away", since=at(1))
REFUSED = Trouble(reason=Reason.UNAUTHORIZED, message="refused", since=at(2))


class Scene:
    def __init__(self) -> None:
        self.woken: list[str] = []
        self.doubted: list[tuple[str, Reason]] = []
        self.knowledge = Knowledge(lambda: at(100), self.woken.append, lambda *doubt: self.doubted.append(doubt))
        self.knowledge.begin()
        self.knowledge.meet("a", 0)
        self.knowledge.keep("a", replace(self.knowledge.of("a"), about=7, account_id=1))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_report_of_another_run_or_object_is_ignored(scene: Scene) -> None:
    scene.knowledge.observed("a", 8, seen(8))
    scene.knowledge.observed("b", 7, seen(7))
    assert scene.woken == []
    assert scene.knowledge.of("a").observation is None
    with pytest.raises(KeyError):
        scene.knowledge.of("b")


def test_the_same_report_wakes_once_and_renews_its_date(scene: Scene) -> None:
    scene.knowledge.observed("a", 7, seen(7))
    scene.knowledge.observed("a", 7, seen(7, 60))
    assert scene.woken == ["a"]
    assert scene.knowledge.of("a").observation == seen(7, 60)


def test_a_denial_keeps_the_date_of_the_first_until_the_run_is_seen_again(scene: Scene) -> None:
    for seconds in (5, 10):
        scene.knowledge.observed("a", 7, seen(None, seconds))
    assert scene.knowledge.of("a").missing_since == 5
    scene.knowledge.observed("a", 7, seen(7, 15))
    assert scene.knowledge.of("a").missing_since is None


def test_a_trouble_keeps_its_beginning_and_an_answer_ends_it(scene: Scene) -> None:
    scene.knowledge.troubled(["a", "unknown"], AWAY)
    scene.knowledge.troubled(["a"], REFUSED)
    assert scene.knowledge.of("a").trouble == replace(REFUSED, since=AWAY.since)
    scene.knowledge.answering(["a", "unknown"])
    scene.knowledge.answering(["a"])
    assert scene.knowledge.of("a").trouble is None
    assert scene.woken == ["a", "a", "a"]


def test_only_a_trouble_that_another_token_may_mend_ends_the_connection(scene: Scene) -> None:
    scene.knowledge.troubled(["a"], AWAY)
    assert scene.knowledge.of("a").account_id == 1
    scene.knowledge.troubled(["a"], REFUSED)
    assert scene.knowledge.of("a").account_id is None
    assert scene.doubted == [("a", AWAY.reason), ("a", REFUSED.reason)]


def test_a_mended_secret_ends_the_pause_of_objects_in_trouble(scene: Scene) -> None:
    scene.knowledge.mended(["a"])
    assert scene.woken == []
    scene.knowledge.troubled(["a"], replace(AWAY, retry_at=500.0))
    scene.knowledge.mended(["a", "unknown"])
    trouble = scene.knowledge.of("a").trouble
    assert trouble is not None
    assert (trouble.retry_at, scene.knowledge.of("a").account_id) == (100, None)


def test_what_one_account_reported_while_the_object_moves_to_another_is_dropped(scene: Scene) -> None:
    scene.knowledge.keep("a", connected(scene.knowledge.of("a"), "h", 1, None))
    before = scene.knowledge.of("a")
    scene.knowledge.observed("a", 7, seen(7))
    scene.knowledge.learn("a", before, connected(before, "h", 2, None))
    assert scene.knowledge.of("a").observation is None
    scene.knowledge.observed("a", 7, seen(7))
    assert scene.knowledge.of("a").observation is not None


def test_what_a_decision_brought_does_not_undo_what_was_reported_meanwhile(scene: Scene) -> None:
    before = scene.knowledge.of("a")
    scene.knowledge.placed("a", Place(within=3, limit=5, priority=0))
    scene.knowledge.placed("unknown", None)
    scene.knowledge.learn("a", before, replace(before, job_id=9, answered=True))
    after = scene.knowledge.of("a")
    assert (after.place, after.job_id, after.answered) == (Place(within=3, limit=5, priority=0), 9, True)


def test_a_turn_is_dated_wakes_and_outlives_what_is_being_done(scene: Scene) -> None:
    before = scene.knowledge.of("a")
    scene.knowledge.turned("a")
    scene.knowledge.turned("unknown")
    assert scene.woken == ["a"]
    scene.knowledge.learn("a", before, replace(before, job_id=5))
    assert scene.knowledge.of("a") == replace(before, job_id=5, turn=100)


def test_a_forgotten_object_is_met_anew(scene: Scene) -> None:
    scene.knowledge.forget("a")
    scene.knowledge.forget("a")
    scene.knowledge.meet("a", 4)
    assert (scene.knowledge.of("a").submitted, scene.knowledge.of("a").about) == (4, None)


def test_what_a_list_said_of_a_new_object_counts_until_dbt_cloud_was_asked(scene: Scene) -> None:
    scene.knowledge.foresee("a", 7, seen(7))
    assert scene.knowledge.of("a").observation == seen(7)
    scene.knowledge.observed("a", 7, seen(7, 60))
    scene.knowledge.foresee("a", 7, seen(7))
    scene.knowledge.foresee("unknown", 7, seen(7))
    assert scene.knowledge.of("a").observation == seen(7, 60)
