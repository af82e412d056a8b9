"""Whose clock counts: the API server's, at the pace of this machine's monotonic one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from dbtrun.values import Instant
from watcher.cluster.clock import ClusterClock

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class Machine:
    """A machine whose clock people set."""

    wrong: timedelta = timedelta(0)
    seconds: float = 1_000.0

    def __call__(self) -> Instant:
        return Instant(self.true + self.wrong, self.seconds)

    @property
    def true(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def reply(self, clock: ClusterClock, trip: float = 0.1) -> None:
        """The API server answers in the middle of a trip."""
        sent = self.seconds
        self.seconds += trip / 2
        date = format_datetime(self.true, usegmt=True)
        self.seconds += trip / 2
        clock.heard(date, sent, self.seconds)


def wrong(clock: ClusterClock, machine: Machine) -> float:
    return (clock().wall - machine.true).total_seconds()


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_wrong_clock_is_put_right_by_the_first_reply(minutes: int, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(wrong=timedelta(minutes=minutes))
    clock = ClusterClock(machine)
    assert wrong(clock, machine) == minutes * 60
    machine.reply(clock)
    assert abs(wrong(clock, machine)) <= 1
    assert clock.offset.total_seconds() == pytest.approx(-minutes * 60, abs=1)
    assert "the watcher uses the API server's" in caplog.text


def test_a_jump_of_the_machines_clock_is_no_jump_of_ours() -> None:
    machine = Machine()
    clock = ClusterClock(machine)
    before = clock()
    machine.wrong = timedelta(minutes=10)
    machine.seconds += 1
    assert clock().wall - before.wall == timedelta(seconds=1)


def test_what_a_reply_cannot_tell_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine(wrong=timedelta(seconds=0.4))
    clock = ClusterClock(machine)
    for n in range(200):
        machine.seconds += n / 7
        machine.reply(clock, trip=n / 5)
        assert wrong(clock, machine) == pytest.approx(0.4)
    assert not caplog.records


@pytest.mark.parametrize("date", [None, "", "tomorrow", "Sun, 99 Mar 2026 12:00:00 GMT"])
def test_a_reply_without_a_date_is_no_fault(date: str | None) -> None:
    machine = Machine()
    clock = ClusterClock(machine)
    clock.heard(date, 1_000.0, 1_000.1)
    assert wrong(clock, machine) == 0


def test_a_machine_whose_monotonic_clock_stood_still_is_put_right() -> None:
    machine, asleep = Machine(), timedelta(hours=1)
    clock = ClusterClock(machine)
    woken = machine.true + asleep
    clock.heard(format_datetime(woken, usegmt=True), machine.seconds, machine.seconds + 0.1)
    assert abs((clock().wall - woken).total_seconds()) <= 1
