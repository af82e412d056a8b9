"""A run's number means another run in another account: nothing is done there."""

from __future__ import annotations

from dataclasses import replace as known_with

import pytest
from msgspec.structs import replace

from dbtrun.api import Condition, ConditionStatus, ConditionType, DbtRun, Reason, Status
from tests.unit.lifecycle.builders import (
    ACCOUNT,
    POLICY,
    RUN,
    at,
    claimed,
    condition,
    decided,
    facts,
    interested,
    known,
    live,
    mono,
    next_step,
    rested,
    run,
    seen,
    trouble,
    written,
)
from watcher.lifecycle.decide import OTHERS
from watcher.lifecycle.decisions import ClaimStart, Connect, Wait, Write
from watcher.lifecycle.known import Known, connected, remember
from watcher.lifecycle.whereabouts import misdirected

HOST = "cloud.getdbt.com"
HERE = replace(live(), host=HOST)
OTHER = trouble(Reason.OTHER_ACCOUNT, since=20, retry_at=50, message="Run 1 is in account 42.")
AWAY = Known(trouble=OTHER)


@pytest.mark.parametrize(
    ("status", "host", "account"),
    [
        (HERE, HOST, ACCOUNT),
        (live(), "any.example", ACCOUNT),
        (Status(), "any.example", 7),
        (Status(account_id=ACCOUNT, host=HOST), "any.example", 7),
    ],
)
def test_the_account_of_the_claim_is_the_right_one(status: Status, host: str, account: int) -> None:
    assert misdirected(status, host, account) is None


@pytest.mark.parametrize(("host", "account"), [(HOST, 7), ("other.example", ACCOUNT), ("other.example", 7)])
def test_another_account_and_another_host_are_named(host: str, account: int) -> None:
    told = misdirected(HERE, host, account)
    assert told is not None
    assert f"Run {RUN} is in account {ACCOUNT} on {HOST}, but the connection is now for account {account}" in told
    assert f"on {host}" in told


def test_a_claim_without_a_run_belongs_to_its_account_too() -> None:
    told = misdirected(replace(claimed(), account_id=ACCOUNT), HOST, 7)
    assert told is not None
    assert told.startswith(f"The runs of this object are in account {ACCOUNT}, but")


def test_host_and_account_are_recorded_with_the_claim() -> None:
    status = decided(ClaimStart, run(), known(host=HOST)).status
    assert (status.account_id, status.host) == (ACCOUNT, HOST)


def test_a_run_that_is_adopted_is_in_the_account_of_the_connection() -> None:
    memory = known(host=HOST, about=RUN, observation=seen(facts(account_id=99)))
    status = written(run(run_id=RUN), memory)
    assert (status.account_id, status.host) == (ACCOUNT, HOST)


def test_the_object_says_so_at_once_with_a_warning() -> None:
    write = decided(Write, run(live()), AWAY)
    assert condition(write.status, ConditionType.REACHABLE) is ConditionStatus.FALSE
    assert write.event is not None
    assert (write.event.type, write.event.reason) == ("Warning", "OtherAccount")
    obj, until = rested(run(live()), AWAY)
    assert until == 50
    changed = replace(
        obj, spec=replace(obj.spec, poll_interval_seconds=99), metadata=replace(obj.metadata, generation=2)
    )
    assert decided(Write, changed, AWAY).event is None, "told once"


def test_nothing_is_polled_and_the_connection_is_read_again() -> None:
    obj, until = rested(run(live()), AWAY)
    assert interested(run(run_id=RUN), AWAY) is None
    assert next_step(obj, AWAY, until) == Connect()


# ── two watchers with different accounts ──


def test_a_connection_that_was_read_before_another_watcher_claimed_the_object_is_not_used() -> None:
    assert next_step(run(HERE), known(account_id=7, host=HOST)) == Connect()
    assert remember(run(HERE), known(host=HOST), at(20)).account_id == ACCOUNT


def reachable(obj: DbtRun, status: ConditionStatus, reason: Reason) -> DbtRun:
    """The object when some watcher says whether dbt Cloud answers."""
    told = Condition(
        type=ConditionType.REACHABLE,
        status=status,
        reason=reason,
        message="Told.",
        last_transition_time=obj.metadata.creation_timestamp,  # type: ignore[arg-type]
        observed_generation=1,
    )
    return replace(obj, status=replace(obj.status, conditions=(told,)))


def test_a_watcher_is_silent_about_an_object_that_another_one_follows() -> None:
    ours = reachable(run(live()), ConditionStatus.FALSE, Reason.OTHER_ACCOUNT)
    theirs = reachable(run(live()), ConditionStatus.TRUE, Reason.ANSWERING)
    assert isinstance(next_step(theirs, AWAY), Write), "it may be the only one"
    memory = remember(ours, AWAY, at(20))
    assert memory.displaced_at == mono(20)
    assert next_step(theirs, memory, 30) == Wait(mono(50), OTHERS)
    assert next_step(theirs, memory, 50) == Connect(), "its own connection may have been corrected"
    later = known_with(memory, trouble=known_with(OTHER, retry_at=mono(900)))
    assert isinstance(next_step(theirs, later, 20 + POLICY.resync), Write), "the other one may have gone"


def test_a_connection_that_is_right_again_ends_the_silence() -> None:
    assert remember(run(live()), known(displaced_at=mono(20)), at(30)).displaced_at is None


def test_what_an_account_said_is_forgotten_in_another_and_a_claim_is_not() -> None:
    here = connected(known(claim=None, submitted=1), HOST, ACCOUNT, frozenset({1}))
    told = known_with(here, job_id=7, job_refused="No such job.", observation=seen(facts()), reuse_checked=True)
    assert connected(told, HOST, ACCOUNT, frozenset({1})) == told
    for host, account in (("other.example", ACCOUNT), (HOST, 7)):
        there = connected(told, host, account, None)
        assert (there.job_id, there.job_refused, there.observation, there.reuse_checked) == (None, None, None, False)
        assert (there.account_id, there.host, there.projects, there.submitted) == (account, host, None, 1)
