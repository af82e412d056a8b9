"""What is remembered of an object, and what is forgotten."""

from __future__ import annotations

from dataclasses import replace as known_with

from dbtrun.api import Attempt, Phase, Status
from tests.unit.lifecycle.builders import (
    RUN,
    at,
    claim,
    claimed,
    facts,
    following,
    known,
    live,
    mono,
    run,
    seen,
    wall,
)
from watcher.lifecycle.known import Claim, Known, remember, wanted_run

RETRYING = Status(phase=Phase.PENDING, attempts=(Attempt(number=2, phase=Phase.PENDING, run_id=RUN),))


def test_an_adopting_object_wants_its_run() -> None:
    assert wanted_run(run(run_id=RUN)) == RUN


def test_an_object_wants_the_run_of_its_attempt() -> None:
    assert wanted_run(run(live())) == RUN


def test_an_object_without_a_run_wants_none() -> None:
    assert wanted_run(run()) is None
    assert wanted_run(run(RETRYING)) is None


def test_what_was_seen_of_another_run_is_forgotten() -> None:
    memory = known_with(following(run(live()), seen(facts()), missing_since=3.0), about=RUN - 1)
    assert remember(run(live()), memory, at(20)) == following(run(live()), untried=2)


def test_what_was_seen_of_the_run_is_kept() -> None:
    memory = following(run(live()), seen(facts()), missing_since=3.0)
    assert remember(run(live()), memory, at(20)) == memory


def test_a_claim_that_is_met_is_dated_when_it_is_seen() -> None:
    met = remember(run(claimed()), Known(), at(20)).claim
    assert met == Claim(number=1, time=wall(0), since=mono(20))


def test_the_date_of_a_met_claim_stays() -> None:
    obj = run(claimed())
    assert remember(obj, remember(obj, Known(), at(20)), at(50)).claim == claim(obj, own=False, since=20)


def test_a_claim_of_our_own_is_kept() -> None:
    obj = run(claimed())
    memory = known(submitted=1, claim=claim(obj, sent=True))
    assert remember(obj, memory, at(20)) == memory


def test_a_newer_claim_of_the_same_attempt_is_not_ours() -> None:
    memory = known(claim=claim(run(claimed())))
    newer = remember(run(claimed(claimed_at=0.5)), memory, at(20)).claim
    assert newer is not None
    assert not newer.own


def test_a_claim_of_another_attempt_is_not_ours() -> None:
    memory = known(claim=claim(run(claimed())))
    newer = remember(run(claimed(2)), memory, at(20)).claim
    assert newer is not None
    assert (newer.number, newer.own) == (2, False)


def test_a_claim_that_was_given_back_is_forgotten() -> None:
    memory = known(claim=claim(run(claimed())))
    assert remember(run(), memory, at(20)).claim is None


def test_a_claim_that_became_a_run_is_forgotten() -> None:
    memory = known(claim=claim(run(claimed())))
    assert remember(run(live()), memory, at(20)).claim is None
