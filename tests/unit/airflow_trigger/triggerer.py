"""What a triggerer of Airflow 3.3 does with event triggers: its own manager of shared streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow.triggers.shared_stream import SharedStreamManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_trigger.event_trigger import DbtRunEventTrigger


class Triggerer:
    """Runs event triggers. `store_all` is what the metadata database does."""

    def __init__(self) -> None:
        self.streams = SharedStreamManager()
        self.seqs: list[int] = []
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.listen: Callable[[int, dict[str, Any]], object] = lambda _number, _payload: None
        self._tasks: list[asyncio.Task[None]] = []

    def run(self, number: int, trigger: DbtRunEventTrigger) -> None:
        self._tasks.append(asyncio.create_task(self._run(number, trigger)))

    async def _run(self, number: int, trigger: DbtRunEventTrigger) -> None:
        key = trigger.shared_stream_key()
        assert key is not None
        stream = self.streams.subscribe(trigger_id=number, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                seq = self.streams.bind_pending_event(trigger_id=number, key=key)
                assert seq is not None, "an event that Airflow does not confirm"
                self.seqs.append(seq)
                self.events.append((number, event.payload))
                self.listen(number, event.payload)
        finally:
            await self.streams.unsubscribe(number, key)

    def store_all(self) -> None:
        """The events are in the database."""
        self.streams.confirm_persisted(self.seqs)
        self.seqs.clear()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def told(self, number: int) -> list[str]:
        return [payload["key"] for each, payload in self.events if each == number]
