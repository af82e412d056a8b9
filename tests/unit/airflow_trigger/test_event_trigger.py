"""The trigger as a triggerer runs it: alone, and in Airflow's own shared stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from airflow_trigger.event_trigger import AFTER_FAILURE_SECONDS, DbtRunEventTrigger
from airflow_trigger.reacting import ticker as ticker_module
from airflow_trigger.reacting.position import Position
from airflow_trigger.reacting.ticker import Tick
from airflow_trigger.shared.objects import Run
from tests.unit.airflow_trigger.reacting.test_position import ended
from tests.unit.airflow_trigger.reacting.test_reader import Memory
from tests.unit.airflow_trigger.triggerer import Triggerer

pytestmark = [pytest.mark.looptime]


class Namespace:
    """The shared watch of a namespace."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.synced = True
        self.opened = 0
        self.failures: list[Exception] = []
        self._new: list[Run] = []
        self._wakeup = asyncio.Event()

    def finished(self) -> list[Run]:
        return self.runs

    def end(self, *runs: Run) -> None:
        self.runs.extend(runs)
        self._new.extend(runs)
        self._wakeup.set()

    async def take(self, seconds: float) -> list[Run]:
        if self.failures:
            raise self.failures.pop()
        try:
            async with asyncio.timeout(seconds):
                await self._wakeup.wait()
        except TimeoutError:
            pass
        self._wakeup.clear()
        new, self._new = self._new, []
        return new

    def wake(self) -> None:
        self._wakeup.set()

    @asynccontextmanager
    async def listen(self, *_where: object) -> AsyncIterator[Namespace]:
        self.opened += 1
        yield self


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Namespace:
    made = Namespace()
    monkeypatch.setattr(ticker_module, "listen", made.listen)
    return made


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> dict[str, Memory]:
    kept: dict[str, Memory] = {}
    monkeypatch.setattr(DbtRunEventTrigger, "store", lambda _, plan: kept.setdefault(plan.stored_as, Memory()))
    return kept


@pytest.fixture
def trigger() -> Callable[..., DbtRunEventTrigger]:
    def make(asset: str = "a", **more: Any) -> DbtRunEventTrigger:
        return DbtRunEventTrigger(asset=asset, namespace="data", **more)

    return make


Make = Callable[..., DbtRunEventTrigger]
Stores = dict[str, Memory]


def fresh(store: Memory, runs: list[Run]) -> list[Run]:
    assert isinstance(store.position, Position)
    return store.position.fresh(runs)


async def test_watchers_of_a_namespace_share_one_stream_and_each_is_told_what_it_selects(
    namespace: Namespace, stores: Stores, trigger: Make
) -> None:
    triggerer = Triggerer()
    for number in range(200):
        triggerer.run(number, trigger(f"asset-{number}", job_id=number % 2 + 1))
    await asyncio.sleep(1)
    now = ended(1, jobId=1, completionTime="2100-01-01T00:00:00Z")
    namespace.end(now)
    await asyncio.sleep(1)
    assert namespace.opened == 1
    assert [triggerer.told(number) for number in range(4)] == [["1/1"], [], ["1/1"], []]
    assert len(triggerer.events) == 100
    await triggerer.end()


async def test_the_position_moves_when_airflow_has_the_event_and_not_before(
    namespace: Namespace, stores: Stores, trigger: Make
) -> None:
    triggerer = Triggerer()
    triggerer.run(1, trigger())
    await asyncio.sleep(1)
    namespace.end(ended(1, completionTime="2100-01-01T00:00:00Z"))
    await asyncio.sleep(100)
    (store,) = stores.values()
    assert triggerer.told(1) == ["1/1"]
    assert fresh(store, namespace.runs) == namespace.runs
    triggerer.store_all()
    await asyncio.sleep(1)
    assert fresh(store, namespace.runs) == []
    await triggerer.end()


async def test_a_watcher_that_comes_late_misses_nothing(namespace: Namespace, stores: Stores, trigger: Make) -> None:
    triggerer = Triggerer()
    triggerer.run(1, trigger("a"))
    await asyncio.sleep(1)
    namespace.end(ended(1, 5))
    await asyncio.sleep(1)
    triggerer.run(2, trigger("b", since="beginning"))
    await asyncio.sleep(1)
    assert triggerer.told(2) == ["1/1"]
    await triggerer.end()


async def test_an_event_that_is_never_confirmed_is_told_by_the_trigger_that_airflow_makes_again(
    namespace: Namespace, stores: Stores, trigger: Make
) -> None:
    triggerer = Triggerer()
    triggerer.run(1, trigger())
    await asyncio.sleep(1)
    namespace.end(ended(1, completionTime="2100-01-01T00:00:00Z"))
    # Airflow takes the stream away after five minutes.
    await asyncio.sleep(400)
    triggerer.run(2, trigger())
    await asyncio.sleep(1)
    assert triggerer.told(2) == ["1/1"]
    await triggerer.end()


async def test_a_watch_that_breaks_in_an_unforeseen_way_ends_no_watcher(
    namespace: Namespace, stores: Stores, trigger: Make
) -> None:
    triggerer = Triggerer()
    namespace.failures = [RuntimeError("unforeseen")]
    triggerer.run(1, trigger())
    await asyncio.sleep(5)
    namespace.end(ended(1, completionTime="2100-01-01T00:00:00Z"))
    await asyncio.sleep(1)
    assert namespace.opened == 2
    assert triggerer.told(1) == ["1/1"]
    await triggerer.end()


async def test_alone_it_takes_an_event_for_stored_after_ten_seconds(
    namespace: Namespace, stores: Stores, trigger: Make
) -> None:
    told: list[str] = []

    async def run() -> None:
        async for event in trigger().run():
            told.extend([event.payload["key"]])

    running = asyncio.create_task(run())
    await asyncio.sleep(1)
    namespace.end(ended(1, completionTime="2100-01-01T00:00:00Z"))
    await asyncio.sleep(5)
    (store,) = stores.values()
    assert told == ["1/1"]
    assert fresh(store, namespace.runs) == namespace.runs
    await asyncio.sleep(10)
    assert fresh(store, namespace.runs) == []
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_one_whose_stream_is_taken_away_pauses_before_airflow_makes_it_again(
    namespace: Namespace, stores: Stores, trigger: Make
) -> None:
    async def taken_away(ticks: Sequence[Tick] = ()) -> AsyncIterator[Tick]:
        for tick in ticks:
            yield tick
        raise RuntimeError("the stream was taken away")

    began = asyncio.get_running_loop().time()
    assert [event async for event in trigger().filter_shared_stream(taken_away())] == []
    assert asyncio.get_running_loop().time() - began >= AFTER_FAILURE_SECONDS


async def test_one_that_fails_alone_pauses_before_airflow_makes_it_again(
    namespace: Namespace, trigger: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Memory:
        raise RuntimeError("a bug")

    monkeypatch.setattr(DbtRunEventTrigger, "store", fail)
    began = asyncio.get_running_loop().time()
    assert [event async for event in trigger().run()] == []
    assert asyncio.get_running_loop().time() - began >= AFTER_FAILURE_SECONDS


@pytest.mark.parametrize("odd", [{"phases": 5}, {"job_id": "x"}, {"labels": 7}, {"namespace": ["a"]}, {"newer": 1}])
async def test_no_argument_ends_the_triggerer_or_the_watcher(
    namespace: Namespace, odd: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    made = DbtRunEventTrigger(**odd)
    made.serialize()
    if made.shared_stream_key() is None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3_000):
                await anext(aiter(made.run()))
        assert caplog.text.count("cannot work") == 5


def test_only_what_is_not_a_default_is_stored_and_in_one_order() -> None:
    assert DbtRunEventTrigger(asset="a").serialize() == (
        "airflow_trigger.event_trigger.DbtRunEventTrigger",
        {"asset": "a"},
    )
    one = DbtRunEventTrigger(phases={"Failed", "Error"}, labels={"b": "1", "a": "2"})  # type: ignore[arg-type]
    assert json.dumps(one.serialize()[1]) == json.dumps({"labels": ["a=2", "b=1"], "phases": ["Error", "Failed"]})
    assert DbtRunEventTrigger(**one.serialize()[1]).serialize() == one.serialize()


@pytest.mark.parametrize("labels", [{}, {"a": "2", "b": ""}, {"a": "b=c"}, {"a": None}])
def test_labels_come_back_from_airflows_database_as_they_were(labels: dict[str, Any]) -> None:
    """Airflow 3.1 and 3.2 take a watcher that has a mapping among its arguments for a new one at each parse."""
    given = DbtRunEventTrigger(asset="a", namespace="data", labels=labels)
    stored = given.serialize()[1]
    assert all(isinstance(each, str | list) for each in stored.values())
    assert DbtRunEventTrigger(**json.loads(json.dumps(stored))).plan() == given.plan()
