"""No run is lost and none comes twice, wherever a reading is cut, a watcher ends, or dbt Cloud lists a run late."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbtrun.api.mirrors import MAX_RECENT, CursorStatus, Recent
from tests.unit.mirrors.runs import NOON, at, finished
from watcher.lifecycle.facts import RunFacts
from watcher.mirrors.progress import (
    BEFORE,
    LATE_REACH,
    LONGEST_BACK,
    OVERLAP,
    Cursor,
    Lane,
    Reading,
    begins_at,
    lanes,
)

START = Cursor.beginning(NOON)
SAME = "selection"


def reading(since: datetime, through: datetime, *runs: RunFacts, complete: bool = True) -> Reading:
    return Reading(since=since, through=through, runs=runs, complete=complete)


def restored(cursor: Cursor) -> Cursor:
    """After a restart of the watcher."""
    return Cursor.stored(cursor.to_status(SAME), SAME)


def deal(cursor: Cursor, read: Reading, most: int = 10_000) -> tuple[Cursor, list[int]]:
    """Deals with at most so many fresh runs of a reading."""
    fresh = cursor.fresh(read.runs)
    done, left = fresh[:most], fresh[most:]
    return cursor.moved(read, done, left), [run.run_id for run in done]


def test_fresh_runs_come_in_the_order_of_their_ends() -> None:
    runs = [finished(3, 20), finished(2, 10), finished(1, 20)]
    assert [run.run_id for run in START.fresh(runs)] == [2, 1, 3]


def test_a_run_without_an_end_is_none_of_them() -> None:
    assert START.fresh([finished(1, finished_at=None)]) == []


def test_what_ended_before_the_beginning_is_not_shown() -> None:
    assert START.fresh([finished(1, -1), finished(2, 0)]) == []


def test_a_run_in_the_overlap_comes_once() -> None:
    cursor, done = deal(START, reading(NOON, at(300), finished(1, 290)))
    assert done == [1]
    assert cursor.since == at(300) - OVERLAP
    again, done = deal(cursor, reading(cursor.since, at(305), finished(1, 290), finished(2, 302)))
    assert done == [2]
    assert set(again.recent) == {1, 2}


def test_a_run_that_is_listed_late_within_the_overlap_comes() -> None:
    cursor, _ = deal(START, reading(NOON, at(300), finished(1, 290)))
    _, done = deal(cursor, reading(cursor.floor, at(305), finished(2, 185), finished(1, 290)))
    assert done == [2]


def test_the_cursor_moves_only_as_far_as_the_first_run_that_waits() -> None:
    runs = [finished(n, n * 100) for n in range(1, 6)]
    cursor, done = deal(START, reading(NOON, at(600), *runs), most=2)
    assert done == [1, 2]
    assert cursor.finished_at == at(300) - BEFORE
    cursor, done = deal(cursor, reading(cursor.since, at(605), *runs[1:]))
    assert done == [3, 4, 5]
    assert cursor.finished_at == at(605)


def test_the_cursor_never_goes_back() -> None:
    cursor, _ = deal(START, reading(NOON, at(600)))
    late = finished(9, 550)
    after, done = deal(cursor, reading(cursor.floor, at(590), late), most=0)
    assert done == []
    assert after.finished_at == at(600)
    assert after.fresh([late]) == [late]


def test_a_reading_with_a_gap_before_it_moves_nothing() -> None:
    after, done = deal(START, reading(at(60), at(300), finished(1, 100)))
    assert done == [1]
    assert after.finished_at == NOON
    assert after.recent == {1: at(100)}


def test_a_status_brings_the_cursor_back() -> None:
    cursor, _ = deal(START, reading(NOON, at(300), finished(1, 290), finished(2, 250)))
    stored = cursor.to_status(SAME)
    assert stored == CursorStatus(
        finished_at=at(300),
        floor=NOON,
        recent=(Recent(run_id=2, finished_at=at(250)), Recent(run_id=1, finished_at=at(290))),
        selection=SAME,
    )
    assert Cursor.stored(stored, SAME) == replace(cursor, since=NOON)


def test_the_runs_of_two_hours_are_remembered() -> None:
    cursor, _ = deal(START, reading(NOON, at(300), finished(1, 290)))
    cursor, _ = deal(cursor, reading(cursor.since, at(9_000), finished(2, 8_000)))
    assert cursor.floor == at(9_000) - LATE_REACH
    assert set(cursor.recent) == {2}


def test_a_run_that_is_listed_an_hour_late_while_no_watcher_runs_comes_once() -> None:
    cursor, _ = deal(START, reading(NOON, at(6_000), finished(1, 2_990)))
    restarted = restored(cursor)
    late = reading(restarted.since, at(6_600), finished(1, 2_990), finished(2, 3_000))
    cursor, done = deal(restarted, late)
    assert done == [2]
    assert restored(cursor).fresh(late.runs) == []


def test_a_late_run_that_waits_is_read_again() -> None:
    cursor, _ = deal(START, reading(NOON, at(6_000)))
    late = finished(1, 3_000)
    waits = cursor.with_late([], [late])
    assert waits.since == at(3_000) - BEFORE
    # A reading that began before the run was found does not pass over it.
    assert waits.moved(reading(cursor.since, at(6_005)), [], []).since == waits.since
    after, done = deal(waits, reading(waits.since, at(6_010), late))
    assert done == [1]
    assert after.since == at(6_010) - OVERLAP


def test_a_late_run_that_a_deep_reading_finds_and_the_rate_leaves_is_read_again() -> None:
    restarted = restored(deal(START, reading(NOON, at(6_000)))[0])
    runs = [finished(1, 3_000), finished(2, 3_001)]
    cursor, done = deal(restarted, reading(restarted.since, at(6_005), *runs), most=1)
    assert done == [1]
    assert cursor.finished_at == at(6_000)
    assert cursor.since < at(3_001)


def test_a_late_run_that_waits_is_read_again_although_the_reading_was_deep_for_another_mirror() -> None:
    cursor, _ = deal(START, reading(NOON, at(6_000)))
    after, done = deal(cursor, reading(NOON, at(6_005), finished(1, 3_000)), most=0)
    assert done == []
    assert after.since < at(3_000)


def test_a_piece_of_a_long_reading_moves_only_as_far_as_it_goes() -> None:
    restarted = restored(deal(START, reading(NOON, at(6_000)))[0])
    cursor, _ = deal(restarted, reading(restarted.since, at(2_000), finished(1, 1_500), complete=False))
    assert (cursor.finished_at, cursor.since) == (at(6_000), at(2_000) - BEFORE)


def test_only_what_no_next_reading_has_is_missed() -> None:
    cursor, _ = deal(START, reading(NOON, at(300), finished(1, 100)))
    assert [run.run_id for run in cursor.missed([finished(1, 100), finished(2, 100), finished(3, 200)])] == [2]


def test_what_finished_before_the_selection_changed_does_not_appear() -> None:
    cursor, _ = deal(START, reading(NOON, at(300)))
    after = cursor.for_another_selection()
    assert [run.run_id for run in after.fresh([finished(1, 100), finished(2, 250)])] == [2]
    assert Cursor.stored(cursor.to_status(SAME), "another") == after
    waits = cursor.with_late([], [finished(3, 90)])
    assert [run.run_id for run in waits.for_another_selection().fresh([finished(3, 90), finished(4, 50)])] == [3]


def test_so_many_runs_are_remembered_and_the_others_are_below_the_floor() -> None:
    runs = [finished(n, 200 + n / 100) for n in range(1, MAX_RECENT + 501)]
    cursor, done = deal(START, reading(NOON, at(240), *runs))
    assert len(done) == len(runs)
    assert len(cursor.recent) == MAX_RECENT
    assert cursor.fresh(runs) == []


def test_the_floor_stays_below_a_run_that_waits() -> None:
    early = finished(9_999, 150)
    cursor, _ = deal(START, reading(NOON, at(240), *(finished(n, 200 + n / 100) for n in range(1, MAX_RECENT + 1))))
    after = cursor.moved(reading(cursor.since, at(245), early), [finished(10_000, 244)], [early])
    assert after.fresh([early]) == [early]


def test_late_runs_are_remembered_where_they_could_be_listed_again() -> None:
    cursor, _ = deal(START, reading(NOON, at(9_000)))
    late = cursor.with_late([finished(1, 100), finished(2, 2_500)], [])
    assert late.recent == {2: at(2_500)}


@pytest.mark.parametrize(
    ("created", "since", "begins"),
    [
        (at(-60), None, at(-60)),
        (at(-60), at(-3600), at(-3600)),
        (at(-60), at(60), at(60)),
        (None, None, NOON),
        (at(-60), NOON - timedelta(days=30), NOON - LONGEST_BACK),
    ],
)
def test_where_a_mirror_begins(created: datetime | None, since: datetime | None, begins: datetime) -> None:
    assert begins_at(created, since, NOON) == begins


# ---- lanes


def cursor_at(seconds: float) -> Cursor:
    return Cursor(finished_at=at(seconds), floor=NOON - LATE_REACH, since=at(seconds) - OVERLAP)


def test_all_that_have_caught_up_share_one_reading() -> None:
    cursors = {f"m{n}": cursor_at(600 - n) for n in range(50)}
    (lane,) = lanes(cursors, at(600))
    assert lane.since == at(551) - OVERLAP
    assert len(lane.members) == 50


def test_one_that_is_behind_does_not_slow_the_others() -> None:
    assert lanes({"new": cursor_at(0), "old": cursor_at(600)}, at(600)) == [
        Lane(at(600) - OVERLAP, ("old",)),
        Lane(at(0) - OVERLAP, ("new",)),
    ]


def test_without_a_frontier_there_is_one_reading() -> None:
    assert len(lanes({"new": cursor_at(0), "old": cursor_at(600)}, None)) == 1


def test_without_mirrors_nothing_is_read() -> None:
    assert lanes({}, at(600)) == []


# ---- the oracle: an account, a watcher that can end anywhere, and an API server that keeps what it was given


@dataclass
class Account:
    """Runs with the time from which each is listed."""

    runs: list[tuple[RunFacts, datetime]]

    def read(self, since: datetime, now: datetime, most: int) -> Reading:
        """As `read_finished`: all of it, or as far as it was read."""
        listed = [run for run, visible in self.runs if visible <= now]
        found = sorted(
            (run for run in listed if run.finished_at is not None and since <= run.finished_at <= now),
            key=lambda run: (run.finished_at or NOON, run.run_id),
        )
        part = found[:most]
        settled, last = now - OVERLAP, part[-1].finished_at if part else None
        if len(part) < len(found) and last is not None and since < last - BEFORE and last <= settled:
            return Reading(since=since, through=last, runs=tuple(part), complete=False)
        return Reading(since=since, through=now, runs=tuple(found))


@dataclass
class World:
    """What survives the watcher: objects, the saved cursor, and every object that was ever made."""

    objects: set[int] = field(default_factory=set)
    made: list[int] = field(default_factory=list)
    saved: CursorStatus = field(default_factory=lambda: START.to_status(SAME))

    def look(self, account: Account, cursor: Cursor, now: datetime, rate: int) -> Cursor:
        """Looks for late runs."""
        missed = cursor.missed(account.read(now - LATE_REACH, now, 1_000).runs)
        for run in missed[:rate]:
            self.create(run.run_id)
        return cursor.with_late(missed[:rate], missed[rate:])

    def create(self, run_id: int) -> None:
        if run_id not in self.objects:  # a name that is taken is no second object
            self.objects.add(run_id)
            self.made.append(run_id)


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    ends = draw(st.lists(st.integers(1, 1_800), max_size=40))
    late = st.one_of(st.floats(0, OVERLAP.total_seconds() - 1), st.floats(0, 2_000))
    return Account([(finished(n, end), at(end + draw(late))) for n, end in enumerate(ends, start=1)])


STEPS = st.lists(
    st.tuples(
        st.integers(1, 120),  # seconds that pass
        st.integers(1, 10),  # runs of a reading that are read in one go
        st.integers(0, 6),  # runs that the rate allows
        st.sampled_from(["", "", "", "before the cursor", "between two objects", "after the cursor"]),  # the end
        st.booleans(),  # whether something is pruned once the cursor is saved
        st.booleans(),  # whether it is looked for late runs
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(accounts(), STEPS)
def test_nothing_is_lost_and_nothing_comes_back(
    account: Account, steps: list[tuple[int, int, int, str, bool, bool]]
) -> None:
    world, now = World(), NOON
    cursor = Cursor.stored(world.saved, SAME)
    for seconds, pages, rate, ends, prunes, looks in steps:
        now += timedelta(seconds=seconds)
        if looks:
            cursor = world.look(account, cursor, now, rate)
        read = account.read(cursor.since, now, pages)
        fresh = cursor.fresh(read.runs)
        done, left = fresh[:rate], fresh[rate:]
        for run in done[: len(done) // 2 if ends == "between two objects" else None]:
            world.create(run.run_id)
        cursor = cursor.moved(read, done, left)
        if ends in ("before the cursor", "between two objects"):
            cursor = Cursor.stored(world.saved, SAME)
            continue
        world.saved = cursor.to_status(SAME)
        if prunes:
            known = {run.run_id for run, _ in account.runs if cursor.knows(run.run_id, run.finished_at or now)}
            world.objects -= set(sorted(world.objects & known)[:1])
        if ends:
            cursor = Cursor.stored(world.saved, SAME)
    for number in range(70):  # and then in peace, but for a restart once everything is listed
        now += OVERLAP / 2
        if number == 65:
            cursor = Cursor.stored(world.saved, SAME)
        read = account.read(cursor.since, now, 10)
        fresh = cursor.fresh(read.runs)
        for run in fresh:
            world.create(run.run_id)
        cursor = cursor.moved(read, fresh, [])
        world.saved = cursor.to_status(SAME)
    assert sorted(world.made) == [run.run_id for run, _ in account.runs]
