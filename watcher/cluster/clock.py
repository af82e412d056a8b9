"""One clock for every watcher: the API server's, taken from the Date of its replies.

Statuses hold instants (an end, a claim, the time of a retry) from which another watcher counts on. If each wrote its
own machine's time, a clock that is wrong by minutes would move deadlines and TTLs by as much.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

from dbtrun.values import Instant
from watcher.clock import Clock, clock_offset, system_clock

logger = logging.getLogger(__name__)

WORTH_TELLING: Final = timedelta(seconds=5)


class ClusterClock:
    """Calling it gives the present instant. The wall goes at the pace of the monotonic clock and follows `heard`.

    So a jump of this machine's own clock is no jump of ours.
    """

    def __init__(self, source: Clock = system_clock) -> None:
        self._source = source
        self._base = source()

    def __call__(self) -> Instant:
        mono = self._source().mono
        return Instant(self._wall(mono), mono)

    @property
    def offset(self) -> timedelta:
        """The API server's clock minus this machine's, as far as they are known to differ."""
        now = self._source()
        return self._wall(now.mono) - now.wall

    def heard(self, date: str | None, sent: float, received: float) -> None:
        """Takes the Date of a reply to a request that was sent and received at these monotonic seconds."""
        wrong = clock_offset(date, self._wall(sent), self._wall(received))
        if wrong:
            self._base = Instant(self._base.wall + wrong, self._base.mono)
            if abs(wrong) > WORTH_TELLING:
                ahead = self.offset.total_seconds()
                logger.warning(
                    "The API server's clock differs by %+.0f s from this machine's; the watcher uses the API server's.",
                    ahead,
                )

    def _wall(self, mono: float) -> datetime:
        return self._base.wall + timedelta(seconds=mono - self._base.mono)
