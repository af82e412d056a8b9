"""The reader beside a store that fails and a process that dies or freezes at each point."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_trigger.reacting import reader as reader_module
from airflow_trigger.reacting.position import Position
from airflow_trigger.reacting.reader import Reader
from airflow_trigger.reacting.selection import plan_of
from airflow_trigger.reacting.ticker import Tick, Ticker
from airflow_trigger.shared.objects import Run
from dbtrun.kube.config import ClusterConfig
from tests.unit.airflow_trigger.reacting.test_position import NOON, ended
from tests.unit.airflow_trigger.reacting.test_selection import GIVEN


class Memory:
    """A store of one position."""

    def __init__(self) -> None:
        self.position: Position | None = None
        self.saves = 0
        self.down = False

    async def load(self) -> Position | None:
        if self.down:
            raise ConnectionError("the database is away")
        return self.position

    async def save(self, position: Position) -> None:
        if self.down:
            raise ConnectionError("the database is away")
        self.saves += 1
        self.position = Position.read(position.stored())


class World:
    """A namespace, the wall clock, and the ticks that a reader is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOON
        self.runs: list[Run] = []
        self.synced = True
        self.store = Memory()
        self.ticker = Ticker(ClusterConfig(), "data")
        self.number = 0
        self.nothing_is_gone = False
        monkeypatch.setattr(reader_module, "utc_now", lambda: self.now)

    def finished(self) -> list[Run]:
        return self.runs

    async def take(self, seconds: float) -> list[Run]:
        raise AssertionError("the ticks are made by the test")

    def wake(self) -> None: ...

    def reader(self, **asked: Any) -> Reader:
        return Reader(plan_of(GIVEN | asked), self.store, self, nudges=True)

    async def spans(self, since: datetime, now: datetime) -> bool:
        assert since < now
        return self.nothing_is_gone

    def end(self, *runs: Run) -> Tick:
        """The tick with these ends, ten seconds later."""
        self.runs.extend(runs)
        return self.tick(runs)

    def tick(self, runs: Sequence[Run] = (), seconds: float = 10.0) -> Tick:
        self.number += 1
        self.now += timedelta(seconds=seconds)
        return Tick(self.number, runs, self.ticker, self)

    def confirm(self) -> None:
        self.ticker.confirm(self.number)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def keys(reader: Reader, tick: Tick) -> list[str]:
    return [payload["key"] for payload in await reader.take(tick)]


async def test_an_end_is_told_and_the_position_is_stored_only_after_airflow_has_it(world: World) -> None:
    reader = world.reader()
    assert await keys(reader, world.tick()) == []
    first = world.store.position
    assert first is not None, "where it begins is stored before anything is waited for"
    assert await keys(reader, world.end(ended(1, 20))) == ["1/1"]
    await reader.take(world.tick())
    assert world.store.position == first
    world.confirm()
    await reader.take(world.tick())
    assert world.store.position is not None
    assert world.store.position.fresh(world.runs) == []


async def test_one_that_dies_before_the_confirmation_tells_it_again(world: World) -> None:
    reader = world.reader()
    await reader.take(world.tick())
    await reader.take(world.end(ended(1, 20)))
    assert await keys(world.reader(), world.tick()) == ["1/1"]


async def test_one_that_dies_after_it_tells_only_what_came_since(world: World) -> None:
    reader = world.reader()
    await reader.take(world.tick())
    await reader.take(world.end(ended(1, 20)))
    world.confirm()
    await reader.take(world.tick())
    world.end(ended(2, 30))
    assert await keys(world.reader(), world.tick()) == ["1/2"]


async def test_nothing_is_told_until_the_namespace_is_known(world: World) -> None:
    world.runs, world.synced = [ended(1, -5)], False
    reader = world.reader(since="beginning")
    assert await keys(reader, world.tick(world.runs)) == []
    assert world.store.position is None
    world.synced = True
    assert await keys(reader, world.tick()) == ["1/1"]


async def test_one_that_begins_now_leaves_out_what_was_over(world: World) -> None:
    world.runs = [ended(1, -5)]
    reader = world.reader()
    assert await keys(reader, world.tick()) == []
    assert await keys(reader, world.end(ended(2, 20))) == ["1/2"]


async def test_what_others_wait_for_is_not_told(world: World) -> None:
    reader = world.reader(job_id=5)
    await reader.take(world.tick())
    assert await keys(reader, world.end(ended(1, 20, jobId=4), ended(2, 20, jobId=5))) == ["1/2"]


async def test_a_database_that_is_away_delays_and_loses_nothing(world: World) -> None:
    reader = world.reader()
    world.store.down = True
    assert await keys(reader, world.tick()) == []
    world.store.down = False
    assert await keys(reader, world.tick()) == []
    world.store.down = True
    assert await keys(reader, world.end(ended(1, 20))) == ["1/1"]
    world.confirm()
    assert await keys(reader, world.end(ended(2, 30))) == ["1/2"]
    world.confirm()
    await reader.take(world.tick())
    world.store.down = False
    await reader.take(world.tick())
    assert world.store.position is not None
    assert world.store.position.fresh(world.runs) == []


async def test_one_that_was_frozen_asks_what_its_successor_told(world: World) -> None:
    frozen, successor = world.reader(), world.reader()
    await frozen.take(world.tick())
    await successor.take(world.tick())
    await successor.take(world.end(ended(1, 20)))
    world.confirm()
    await successor.take(world.tick())
    world.ticker._beat -= 60
    assert await keys(frozen, world.end(ended(1, 20), ended(2, 30))) == ["1/2"]


async def test_one_that_was_frozen_and_cannot_ask_tells_it_later(world: World) -> None:
    reader = world.reader()
    await reader.take(world.tick())
    world.ticker._beat -= 60
    world.store.down = True
    assert await keys(reader, world.end(ended(1, 20))) == []
    world.store.down = False
    assert await keys(reader, world.tick()) == ["1/1"]


async def test_a_pause_that_the_history_does_not_span_is_told_as_a_gap_once(world: World) -> None:
    await world.reader().take(world.tick())
    world.now += timedelta(hours=3)
    world.runs = [ended(5, 3 * 3600)]
    reader = world.reader()
    told = await reader.take(world.tick())
    assert [payload.get("gap", False) for payload in told] == [False, True]
    assert told[1]["since"] < told[1]["until"]
    world.confirm()
    await reader.take(world.tick())
    assert await keys(world.reader(), world.tick()) == []


async def test_a_pause_that_the_history_spans_is_no_gap(world: World) -> None:
    world.runs = [ended(1, -3600)]
    await world.reader().take(world.tick())
    world.now += timedelta(hours=3)
    world.runs.append(ended(5, 3 * 3600))
    assert await keys(world.reader(), world.tick()) == ["1/5"]


async def test_a_pause_in_which_nothing_was_deleted_is_no_gap_though_nothing_older_is_there(world: World) -> None:
    await world.reader().take(world.tick())
    world.now += timedelta(hours=3)
    world.runs, world.nothing_is_gone = [ended(5, 3 * 3600)], True
    assert await keys(world.reader(), world.tick()) == ["1/5"]


async def test_too_many_to_replay_are_the_newest_and_a_gap(world: World) -> None:
    world.runs = [ended(0, -3600)]
    await world.reader().take(world.tick())
    world.end(*(ended(number, 20 + number) for number in range(1, 6)))
    told = await world.reader(max_replay=2).take(world.tick())
    assert [payload["key"] for payload in told[:2]] == ["1/4", "1/5"]
    assert told[2]["left_out"] == 3
    assert "3 runs are omitted" in told[2]["message"]


async def test_a_burst_is_followed_by_two_nudges_and_a_single_event_by_none(world: World) -> None:
    reader = world.reader()
    await reader.take(world.tick())
    await reader.take(world.end(ended(1, 20)))
    assert await reader.take(world.tick(seconds=90)) == []
    await reader.take(world.end(ended(2, 120)))
    await reader.take(world.end(ended(3, 130)))
    assert reader.nudges_in is not None
    assert 4 <= reader.nudges_in <= 5
    assert await reader.take(world.tick(seconds=3)) == []
    (first,) = await reader.take(world.tick(seconds=2))
    assert first["nudge"] is True
    assert 55 <= reader.nudges_in <= 56
    assert await reader.take(world.tick(seconds=50)) == []
    (second,) = await reader.take(world.tick(seconds=6))
    assert second["key"] != first["key"]
    assert await reader.take(world.tick(seconds=90)) == []
    assert reader.nudges_in is None


async def test_a_burst_that_took_long_to_load_is_nudged_after_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nudge that comes with the burst waits with it."""
    world.runs = [ended(0, -60)]
    await world.reader().take(world.tick())
    world.end(ended(1, 20), ended(2, 20))
    reader, load = world.reader(), world.store.load

    async def slowly() -> Position | None:
        world.now += timedelta(seconds=90)
        return await load()

    monkeypatch.setattr(world.store, "load", slowly)
    assert len(await reader.take(world.tick())) == 2
    assert await reader.take(world.tick(seconds=3)) == []


async def test_an_idle_position_says_from_time_to_time_that_it_was_watched(world: World) -> None:
    reader = world.reader()
    for _ in range(60):
        await reader.take(world.tick(seconds=30))
    assert 4 <= world.store.saves <= 7
    assert world.store.position is not None
    assert world.now - world.store.position.through <= timedelta(minutes=8.5)


async def test_watchers_that_begin_together_do_not_store_their_positions_together(world: World) -> None:
    """Airflow stores them one after the other: meanwhile the triggerer hands over no event."""
    stores, stored = [Memory() for _ in range(200)], list[int]()
    readers = [Reader(plan_of(GIVEN), store, world, nudges=True) for store in stores]
    for _ in range(120):
        tick, before = world.tick(seconds=30), sum(store.saves for store in stores)
        for reader in readers:
            await reader.take(tick)
        stored.append(sum(store.saves for store in stores) - before)
    assert stored[0] == 200
    assert max(stored[1:]) < 40
    assert sum(stored[1:]) < 200 * 9


async def test_each_payload_is_small_and_made_of_json_primitives(world: World) -> None:
    reader = world.reader(phases=["Failed"])
    await reader.take(world.tick())
    counts = {f"status {number} {'x' * 500}": number for number in range(50)}
    noisy = ended(
        1, 20, phase="Failed", message="m" * 5_000, results={"counts": counts}, url="https://x.y/" + "z" * 400
    )
    (payload,) = await reader.take(world.end(noisy))
    assert len(json.dumps(payload)) <= 2_048
    assert payload["completed_at"] == datetime.fromtimestamp(NOON.timestamp() + 20, tz=UTC).isoformat()
