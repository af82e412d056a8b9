"""Whether the watch still lives: every version that is known to exist must come by on it, sooner or later.

A watch can die while its connection, its thread and its health endpoint look well.
"""

from __future__ import annotations

from collections.abc import Iterable

from watcher.cluster.mirror import version


class Echoes:
    """What the watch delivered, and what it still owes. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._delivered: dict[str, int] = {}
        self._owed: dict[str, tuple[int, float]] = {}
        self._first: set[str] = set()
        self._progress = 0.0

    def begin(self, known: Iterable[tuple[str, str]], now: float) -> None:
        """A new watch owes everything that is known, as (uid, resourceVersion), for as long as it makes progress."""
        self._delivered.clear()
        self._owed.clear()
        for uid, resource_version in known:
            self.expect(uid, resource_version, now)
        self._first = set(self._owed)
        self._progress = now

    def expect(self, uid: str, resource_version: str, now: float) -> None:
        """This version exists: our own write was answered with it, or a list has it."""
        number = version(resource_version)
        if number is None or self._delivered.get(uid, -1) >= number:
            return
        _, since = self._owed.get(uid, (number, now))
        self._owed[uid] = number, since

    def deliver(self, uid: str, resource_version: str, now: float) -> None:
        """The watch brought this version."""
        number = version(resource_version)
        if number is None:
            return
        if uid in self._first:
            self._first.remove(uid)
            self._progress = now
        self._delivered[uid] = max(number, self._delivered.get(uid, -1))
        owed, _ = self._owed.get(uid, (number, now))
        if owed <= number:
            self._owed.pop(uid, None)
        else:  # behind, but alive
            self._owed[uid] = owed, now

    def knows(self, uid: str) -> bool:
        """Whether this watch has brought the object before."""
        return uid in self._delivered

    def forget(self, uid: str) -> None:
        """The object is gone and owes nothing."""
        self._first.discard(uid)
        self._delivered.pop(uid, None)
        self._owed.pop(uid, None)

    def overdue(self, now: float, limit: float) -> str | None:
        """A uid that the watch has owed for more than `limit` seconds, if there is one."""
        if self._first and now - self._progress <= limit:
            return None  # it still lists, which takes long when there is much
        return next((uid for uid, (_, since) in self._owed.items() if now - since > limit), None)
