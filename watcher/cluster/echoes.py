"""Whether a watch still works: every version that is known to exist must arrive on it, sooner or later.

A watch can die while its connection, its thread and its health endpoint look well.
"""

from __future__ import annotations

from watcher.cluster.mirror import version


class Echoes:
    """What the watch of one scope still owes. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._delivered: dict[str, int] = {}
        self._owed: dict[str, tuple[int, float]] = {}
        self._since: int | None = None
        self._opening = 0.0
        self._reached = -1
        """The newest version that arrived."""
        self._moved = False
        """Whether something arrived since `overdue` was last asked."""

    def begin(self, now: float) -> None:
        """A new watch is opened; until `opened` it owes its opening."""
        self._delivered.clear()
        self._owed.clear()
        self._since = None
        self._opening = now
        self._reached = -1

    def opened(self, resource_version: str, now: float) -> None:
        """It brings whatever is newer than this version of the whole."""
        self._since = version(resource_version) or 0
        self._opening = now

    def expect(self, uid: str, resource_version: str, now: float) -> None:
        """This version exists: our own write was answered with it, or a list has it."""
        number = version(resource_version)
        # A version that cannot be ordered proves nothing. Before its opening, the watch owes only that.
        if number is None or self._since is None:
            return
        # The watch begins after `_since`: older versions never arrive on it.
        if number <= max(self._since, self._delivered.get(uid, -1)):
            return
        # Since the first of them: an object that is written all the time would never be overdue.
        _, since = self._owed.get(uid, (number, now))
        self._owed[uid] = number, since

    def deliver(self, uid: str, resource_version: str, now: float) -> None:
        """The watch brought this version."""
        number = version(resource_version)
        if number is None:
            return
        self._reached = max(self._reached, number)
        self._moved = True
        owed = self._owed.get(uid)
        if owed is None or owed[0] <= number:
            self._owed.pop(uid, None)
            self._delivered[uid] = max(number, self._delivered.get(uid, -1))
        else:  # behind, but alive
            self._owed[uid] = owed[0], now

    def forget(self, uid: str) -> None:
        """The object is gone and owes nothing."""
        self._delivered.pop(uid, None)
        self._owed.pop(uid, None)

    def forget_all(self) -> None:
        """The versions that were known no longer count."""
        self._delivered.clear()
        self._owed.clear()
        self._reached = -1

    def overdue(self, now: float, limit: float) -> str | None:
        """What the watch has owed for more than `limit` seconds: a uid, or "" for its opening. None: nothing.

        Versions come by in their order. So a watch that still brings older ones is behind, as on a busy machine, and
        not dead: the time of what is newer than all that arrived starts again.
        """
        if self._since is None:
            return "" if now - self._opening > limit else None
        if self._moved:
            self._moved = False
            ahead = [uid for uid, (owed, _) in self._owed.items() if owed > self._reached]
            self._owed.update((uid, (self._owed[uid][0], now)) for uid in ahead)
        return next((uid for uid, (_, since) in self._owed.items() if now - since > limit), None)
