"""How much may be done now, as a token bucket: objects of a mirror, webhooks of a peer, looks that webhooks cause."""

from __future__ import annotations


class Bucket:
    """As many tokens a minute, and `burst` of them at once after a quiet time.

    Args:
        now: monotonic seconds.
        burst: by default a minute's worth.
    """

    def __init__(self, per_minute: float, now: float, burst: float | None = None) -> None:
        self._per_minute = per_minute
        self._burst = float(per_minute if burst is None else burst)
        self._level = self._burst
        self._at = now

    def resize(self, per_minute: float, burst: float | None = None) -> None:
        """The rate has changed, or how much may be done at once."""
        self._per_minute = per_minute
        self._burst = float(per_minute if burst is None else burst)
        self._level = min(self._level, self._burst)

    def left(self, now: float) -> int:
        """Tokens that may be taken at once."""
        passed = max(0.0, now - self._at)
        self._level = min(self._burst, self._level + passed * self._per_minute / 60)
        self._at = now
        return int(self._level + 1e-9)

    def take(self, now: float, tokens: int = 1) -> bool:
        """Takes tokens; False: there are not enough, and none is taken."""
        if self.left(now) < tokens:
            return False
        self._level -= tokens
        return True
