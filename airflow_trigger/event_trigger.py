"""The trigger of an asset's watcher: an asset event for each DbtRun that ends. It needs Airflow 3.

Airflow runs it for as long as an unpaused DAG has the asset in its schedule. It has no task: its rights and its log are
the triggerer's. If a trigger ends or raises an exception, Airflow creates it again within a second; if a constructor
raises one, the triggerer ends. So the constructor only stores, and nothing else ever ends by itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.triggers.base import TriggerEvent

from airflow_trigger.failures import InvalidArgument
from airflow_trigger.reacting.mirror import MirrorHistory
from airflow_trigger.reacting.reader import Reader
from airflow_trigger.reacting.selection import NOW, Plan, plan_of
from airflow_trigger.reacting.store import store_of
from airflow_trigger.reacting.ticker import Tick, Ticker, tickers
from airflow_trigger.waiting.hub import DEFAULT_PACE, Pace
from dbtrun.api import Phase

try:
    from airflow.triggers.base import BaseEventTrigger
except ImportError:
    raise ImportError(
        "DbtRunEventTrigger needs Airflow 3. On Airflow 2.11, use DbtRunEventSensor of airflow_trigger.event_sensor."
    ) from None

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Hashable, Mapping, Sequence

    from airflow.triggers.shared_stream import AdvanceItem

    from airflow_trigger.reacting.reader import History, Store

CONFIRMED_SECONDS: Final = 10.0
"""Where Airflow does not say when it has stored an event: the triggerer hands events over each second."""
SLEEP_SECONDS: Final = 600.0
"""Between two warnings of a watcher whose arguments cannot be used."""
AFTER_FAILURE_SECONDS: Final = 10.0
"""Airflow creates a trigger that has ended again within a second. Without this pause, one that loses its stream each
time would load Airflow's database and fill the log."""

log = logging.getLogger(__name__)


class DbtRunEventTrigger(BaseEventTrigger):
    """Emits at least one asset event for each matching DbtRun that ends.

    The payload has a `key`, with which a consumer recognizes duplicates: see `airflow_trigger.assets.new_runs`. Its
    `gap` is true if events may be missing before it. A DbtRun matches if it meets all conditions.

    :param asset: the asset's name, which distinguishes the asset watchers of two assets.
    :param namespace: where the DbtRuns are; default: the triggerer pod's own, else `default`.
    :param job_id: only runs of this dbt Cloud job.
    :param environment_id: only runs in this dbt Cloud environment.
    :param labels: only DbtRuns that have these labels.
    :param phases: how the run ended; default: `["Succeeded"]`.
    :param since: where an asset watcher without a stored position begins: `now`, or `beginning` for all existing
        DbtRuns.
    :param max_replay: maximum number of events for runs that ended while no triggerer was running. The newest runs get
        them; one event with `gap` stands for the others.
    :param in_cluster: use the pod's ServiceAccount only.
    :param config_file: a kubeconfig, read where the trigger runs; without it the pod's ServiceAccount is used.
    :param cluster_context: the kubeconfig's context; default: its current one.
    """

    pace: ClassVar[Pace] = DEFAULT_PACE
    """How patient the shared watch is."""

    def __init__(
        self,
        asset: str = "",
        namespace: str | None = None,
        job_id: int | str | None = None,
        environment_id: int | str | None = None,
        labels: Mapping[str, str] | None = None,
        phases: Sequence[str] = (Phase.SUCCEEDED.value,),
        since: str = NOW,
        max_replay: int = 100,
        in_cluster: bool | None = None,
        config_file: str | None = None,
        cluster_context: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asset = asset
        self.namespace = namespace
        self.job_id = job_id
        self.environment_id = environment_id
        self.labels = labels
        self.phases = phases
        self.since = since
        self.max_replay = max_replay
        self.in_cluster = in_cluster
        self.config_file = config_file
        self.cluster_context = cluster_context
        # Of a newer release: a TypeError would leave the asset without events.
        self.unknown = unknown

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments that are not the defaults, in one order.

        Airflow takes a watcher with other arguments for another one: it must not become one by an upgrade, or because a
        set has no order.
        """
        # Airflow compares a hash of both at each parse of a DAG file. A tuple comes back from its database as a list,
        # and before 3.3 a mapping as another one: each made a new watcher at each parse (apache/airflow#64626).
        stored = {name: _sorted(getattr(self, name)) for name in DEFAULTS}
        changed = {name: value for name, value in stored.items() if value != DEFAULTS[name]}
        return f"{type(self).__module__}.{type(self).__qualname__}", changed | self.unknown

    def plan(self) -> Plan:
        """What the arguments ask for.

        Raises:
            InvalidArgument: one of them cannot be used; the sentence names it.
        """
        return plan_of(vars(self))

    # ── Airflow 3.3 and later: all watchers of a namespace share a stream, which confirms what is stored ──

    def shared_stream_key(self) -> Hashable | None:
        """Equal for all watchers that the same watch serves; None if the arguments cannot be used."""
        try:
            plan = self.plan()
        except InvalidArgument:
            # Airflow then calls `run`, which says from time to time what is wrong.
            return None
        return ("dbtrun", plan.config, plan.namespace)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> Any:
        """The source of the ticks of a namespace."""
        from airflow.triggers.shared_stream import SharedStreamProducer

        plan, pace = cls(**kwargs).plan(), cls.pace

        class Producer(SharedStreamProducer):
            """The ticks, and their confirmations."""

            async def open_stream(self) -> AsyncIterator[tuple[Tick, int]]:
                where = (plan.config, plan.namespace, pace)
                async with tickers.lease(where) as self.ticker, aclosing(self.ticker.ticks()) as ticks:
                    # A tick carries no runs that only its receiver would know of: a watcher that subscribes late, or
                    # whose queue of 1,024 has overflowed, finds in its next tick whatever it has not told.
                    async for tick in ticks:
                        yield tick, tick.number

            async def advance(self, batch: Sequence[AdvanceItem]) -> None:
                # Called when all events that came of these ticks are in Airflow's database: no other call says so.
                self.ticker.confirm(batch[-1].broker_payload)

        return Producer()

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Tick]) -> AsyncIterator[TriggerEvent]:
        """The events of this watcher."""
        plan = self.plan()
        async with tickers.lease((plan.config, plan.namespace, self.pace)) as ticker:
            # Those that subscribe late did not get the ticks before.
            ticker.ask()
            async with aclosing(self._events(plan, shared_stream, confirms=False)) as events:
                async for event in events:
                    yield event

    # ── Airflow before 3.3: each watcher is alone, and nothing confirms what is stored ──

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """The events of this watcher, alone."""
        while True:
            try:
                plan = self.plan()
                break
            except InvalidArgument as error:
                # Arguments that cannot be used stay so: the log says it from time to time.
                log.warning("The watcher of asset %r cannot work: %s", self.asset, error)
                await asyncio.sleep(SLEEP_SECONDS)
        ticks = Ticker(plan.config, plan.namespace, self.pace).ticks()
        async with aclosing(ticks), aclosing(self._events(plan, ticks, confirms=True)) as events:
            async for event in events:
                yield event

    async def _events(self, plan: Plan, ticks: AsyncIterator[Tick], *, confirms: bool) -> AsyncGenerator[TriggerEvent]:
        """The events that come of the ticks. `confirms`: Airflow does not say when it has stored them."""
        loop = asyncio.get_running_loop()
        try:
            reader = Reader(plan, self.store(plan), self.history(plan), nudges=_leaves_events_unseen())
            async for tick in ticks:
                told = await reader.take(tick)
                # What is yielded and not yet stored when the triggerer stops is lost, also after SIGTERM: so the
                # position is not stored here, but by the reader at a later tick, once this one is confirmed.
                for payload in told:
                    yield TriggerEvent(payload)  # type: ignore[no-untyped-call]
                if not told:
                    continue
                tick.ticker.awaits(tick.number)
                if reader.nudges_in is not None:
                    loop.call_later(reader.nudges_in, tick.ticker.ask)
                if confirms:
                    loop.call_later(CONFIRMED_SECONDS, tick.ticker.confirm, tick.number)
        except Exception:
            # Airflow has taken the stream away, or this is a bug. Airflow makes the trigger again, which begins at the
            # stored position.
            log.exception("The watcher of asset %r starts again in %.0f s", self.asset, AFTER_FAILURE_SECONDS)
            await asyncio.sleep(AFTER_FAILURE_SECONDS)

    def store(self, plan: Plan) -> Store:
        """Where the position is kept: the seam where tests put their own."""
        return store_of(getattr(self, "asset_state_store", None), plan.stored_as)

    def history(self, plan: Plan) -> History:
        """What is known of deleted DbtRuns: the seam where tests put their own."""
        return MirrorHistory(plan)


def _sorted(value: Any) -> Any:
    if isinstance(value, tuple | set | frozenset | list):
        return sorted(value, key=str)
    if isinstance(value, dict):
        return sorted(f"{key}={'' if each is None else each}" for key, each in value.items())
    return value


DEFAULTS: Final = {
    name: _sorted(argument.default)
    for name, argument in inspect.signature(DbtRunEventTrigger).parameters.items()
    if argument.kind is not argument.VAR_KEYWORD
}
"""The arguments of the constructor, as they are stored."""


def _leaves_events_unseen() -> bool:
    """Before 3.4 an event that comes while the scheduler has not taken the one before waits for a third."""
    from airflow import __version__

    # apache/airflow#54659, #56050: the scheduler takes events by time, and the row of a second one meets ON CONFLICT DO
    # NOTHING. From 3.4 on it takes them by their ids (#70972).
    return tuple(int(part) for part in __version__.split(".")[:2]) < (3, 4)
