"""How many objects a mirror may create or prune now: a token bucket."""

from __future__ import annotations


class Bucket:
    """As many tokens a minute, and as many at once after a quiet time.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def resize(self, per_minute: int) -> None:
        """The rate has changed."""
        self._per_minute = per_minute
        self._level = min(self._level, float(per_minute))

    def left(self, now: float) -> int:
        """Tokens that may be taken at once."""
        passed = max(0.0, now - self._at)
        self._level = min(float(self._per_minute), self._level + passed * self._per_minute / 60)
        self._at = now
        return int(self._level + 1e-9)

    def take(self, now: float) -> bool:
        """Takes a token; False: there is none."""
        if self.left(now) < 1:
            return False
        self._level -= 1
        return True
