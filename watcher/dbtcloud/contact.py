"""Whether dbt Cloud answers on a connection, since when it does not, and when to ask again. Pure but for the jitter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dbtrun.values import Instant, backoff
from watcher.dbtcloud.errors import DbtCloudError
from watcher.lifecycle.facts import Trouble

FIRST_WAIT: Final = 1.0
"""Seconds at least between two tries while dbt Cloud does not answer."""
LONGEST_WAIT: Final = 60.0
"""Seconds at most: how late a recovery may be noticed."""


class Contact:
    """Backs off with full jitter, so that many watchers do not return at once.

    Args:
        jitter: a number from 0 to 1, drawn for each wait.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self.retry_at = 0.0
        """Monotonic seconds before which no request is worth sending."""
        self._jitter = jitter
        self._failures = 0
        self._since: Instant | None = None
        self._answered = False

    @property
    def troubled(self) -> bool:
        """Whether the last thing heard was a failure."""
        return self._since is not None

    def failed(self, error: DbtCloudError, now: Instant) -> Trouble | None:
        """Notes a failure; None if it is of requests sent before the last one was noted."""
        # Requests that are under way together fail together. They count once, or the wait would grow with their number.
        if self.troubled and now.mono < self.retry_at:
            return None
        self._failures += 1
        self._since = self._since or now
        self._answered = False
        longest = backoff(self._failures, 2 * FIRST_WAIT, LONGEST_WAIT)
        wait = FIRST_WAIT + self._jitter() * (longest - FIRST_WAIT)
        self.retry_at = now.mono + max(wait, error.retry_after or 0.0)
        return error.trouble(now, since=self._since)

    def answered(self) -> bool:
        """Notes an answer; True if that is news."""
        news = not self._answered
        self._answered, self._since, self._failures, self.retry_at = True, None, 0, 0.0
        return news
