"""What a test asks afterwards: which requests came in, and which of them really started or cancelled something."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Literal

import msgspec

Action = Literal["start", "retry", "rerun", "cancel", "ui"]


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """Something that was committed. `time` is the wall's, in seconds since the epoch."""

    time: float
    action: Action
    run_id: int
    job_id: int
    cause: str
    retrying_run_id: int | None = None


class Journal:
    """Which runs were started and cancelled, in order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._unsaved: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Notes a request."""
        self.entries.append(entry)
        self._unsaved.append(entry)

    def take_unsaved(self) -> list[Entry]:
        """The entries since the last call."""
        unsaved, self._unsaved = self._unsaved, []
        return unsaved


class Requests:
    """Counts of requests by kind, and by kind and status code (`dropped` where no reply was sent)."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.codes: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def count(self, kind: str, code: str) -> None:
        """Counts a reply with this code."""
        self.codes[kind][code] += 1

    def clear(self) -> None:
        """Starts counting from zero."""
        self.kinds.clear()
        self.codes.clear()

    def report(self) -> dict[str, object]:
        """The counts for the control surface."""
        statuses: Counter[str] = Counter()
        for codes in self.codes.values():
            statuses.update(codes)
        return {"total": self.kinds.total(), "kinds": self.kinds, "codes": self.codes, "statuses": statuses}
