"""Whether the watcher still works: a part that hangs looks like one that has nothing to do.

Each part reports how long it has made no progress. The event loop that they all share is watched by a thread,
because a blocked loop cannot report anything, not even to the probes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NoReturn

logger = logging.getLogger(__name__)

BEAT_SECONDS: Final = 1.0
"""Between two beats of the loop, and two looks of the thread that listens to them."""
TOLD_AFTER: Final = 5
"""Beats missed before the log says where the loop is: a probe fails by then."""
ENDED_AFTER: Final = 60
"""Beats missed before the process ends: with Kubernetes' probes it has been restarted by then."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that must go on; seconds."""

    name: str
    limit: float
    """What no healthy part reaches, whatever dbt Cloud and the API server do."""
    silent: Callable[[], float]
    """How long it has made no progress; 0 if it has nothing to do."""


@dataclass(slots=True)
class Vitals:
    """The parts of one watcher, for the probe, the metrics and the log."""

    parts: list[Part] = field(default_factory=list)
    _told: frozenset[str] = field(default=frozenset(), init=False)

    def watch(self, name: str, limit: float, silent: Callable[[], float]) -> None:
        """Adds a part."""
        self.parts.append(Part(name, limit, silent))

    def __iter__(self) -> Iterator[tuple[Part, float]]:
        """Every part, and how long it has been silent."""
        return ((part, part.silent()) for part in self.parts)

    def late(self) -> dict[str, str]:
        """A sentence for each part that hangs, by its name."""
        return {
            part.name: f"The {part.name} has made no progress for {seconds:.0f} s (limit {part.limit:.0f} s)."
            for part, seconds in self
            if seconds > part.limit
        }

    def tell(self) -> None:
        """Logs each part once when it hangs, and once when it works again."""
        late = self.late()
        for name in late.keys() - self._told:
            logger.error("%s", late[name], extra={"part": name})
        for name in self._told - late.keys():
            logger.warning("The %s makes progress again.", name, extra={"part": name})
        self._told = frozenset(late)


class Heart:
    """Beats in the loop; a thread notices when it does not. Counted in the thread's own rounds.

    So a process that is stopped and continued, or a machine that sleeps, is not taken for a blocked loop.

    Args:
        on_beat: told the loop's lag in seconds at each beat.
        told_after, ended_after: missed beats.
        end: how the process ends; it does not return.
    """

    def __init__(
        self,
        on_beat: Callable[[float], None],
        *,
        beat: float = BEAT_SECONDS,
        told_after: int = TOLD_AFTER,
        ended_after: int = ENDED_AFTER,
        end: Callable[[str], object] | None = None,
    ) -> None:
        self._on_beat = on_beat
        self._beat = beat
        self._told_after = told_after
        self._ended_after = ended_after
        self._end = end or end_at_once
        self._beats = 0
        self._stopped = threading.Event()

    async def run(self) -> NoReturn:
        """Beats until it is cancelled."""
        loop = asyncio.get_running_loop()
        # A daemon, and not of asyncio's pool: it must neither need the loop nor keep the process from exiting.
        threading.Thread(target=self._listen, args=[threading.get_ident()], name="heart", daemon=True).start()
        try:
            while True:
                due = loop.time() + self._beat
                await asyncio.sleep(self._beat)
                self._beats += 1
                self._on_beat(max(0.0, loop.time() - due))
        finally:
            self._stopped.set()

    def _listen(self, thread: int) -> None:
        heard, missed = self._beats, 0
        while not self._stopped.wait(self._beat):
            missed = missed + 1 if self._beats == heard else 0
            heard = self._beats
            seconds = missed * self._beat
            if missed == self._told_after:
                told = "The event loop has been blocked for %.0f s %s."
                logger.error(told, seconds, place(thread), extra={"part": "loop"})
            elif missed >= self._ended_after:
                self._end(f"The event loop has been blocked for {seconds:.0f} s {place(thread)}.")


def place(thread: int) -> str:
    """Where a thread is: the innermost call, and ours that led there."""
    frame = sys._current_frames().get(thread)
    calls = traceback.extract_stack(frame) if frame else []
    ours = [call for call in calls if "watcher" in call.filename]
    shown = [*ours[-1:], *calls[-1:]]
    return ", ".join(dict.fromkeys(f"in {call.name} ({call.filename}:{call.lineno})" for call in shown)) or "nowhere"


def end_at_once(why: str) -> NoReturn:
    """Ends the process from any thread: nothing that the loop would have to do can be waited for.

    As safe as a crash, which the next watcher recovers from.
    """
    logger.critical("The watcher ends: %s", why)
    os.write(2, f"Error: {why}\n".encode())
    # sys.exit would end only this thread, and the handlers of a normal exit may wait for the loop.
    os._exit(1)
