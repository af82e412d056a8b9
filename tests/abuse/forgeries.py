"""Statuses that an administrator forges: each makes another one of what the object says now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dbtrun.api import MARKER_PREFIX, Phase
from tests.abuse.schema import TIMES, Maker
from tests.stack.dbt import JOBS

Status = dict[str, Any]


@dataclass(frozen=True)
class Forger:
    """Draws from one Random; `uids` and `runs` are what others have."""

    make: Maker
    uids: list[str]
    runs: list[int]

    def forge(self, status: Status) -> tuple[str, Status]:
        """A kind of forgery, and the whole status that it makes of this one."""
        name, forgery = self.make.random.choice(FORGERIES)
        return name, forgery(self, status)

    def random_status(self, _status: Status) -> Status:
        return self.make.status()

    def other_field(self, status: Status) -> Status:
        other = self.make.status() or {"message": ""}
        name = self.make.random.choice(sorted(other))
        return status | {name: other[name]}

    def other_phase(self, status: Status) -> Status:
        phase = self.make.random.choice(list(Phase)).value
        if self.make.random.random() < 0.5 and status.get("attempts"):
            status["attempts"][-1]["phase"] = phase
        return status | {"phase": phase}

    def marker_of_another(self, status: Status) -> Status:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        attempt = {
            "number": 1,
            "phase": "Submitting",
            "marker": f"{MARKER_PREFIX}{self.make.random.choice(self.uids)}/1",
            "claimTime": self.make.random.choice(["2026-01-01T00:00:00Z", now]),
        }
        return status | {"phase": "Submitting", "jobId": JOBS["success"], "attempts": [attempt]}

    def run_of_another(self, status: Status) -> Status:
        run = self.make.random.choice(self.runs)
        attempt = {"number": 1, "phase": "Running", "runId": run}
        return status | {"phase": "Running", "reason": "RunStarted", "runId": run, "attempts": [attempt]}

    def strange_times(self, status: Status) -> Status:
        moment = self.make.random.choice(TIMES)
        attempts = status.get("attempts", [])
        for told in (status, *attempts, *status.get("conditions", [])):
            told |= {key: moment for key in told if key.endswith(("Time", "At"))}
        for attempt in attempts:
            attempt[self.make.random.choice(["notBefore", "sweepAfter", "claimTime", "firstClaimTime"])] = moment
        return status | {self.make.random.choice(["startedAt", "queuedAt", "completionTime"]): moment}

    def nothing(self, _status: Status) -> Status:
        return {}

    def many_attempts(self, status: Status) -> Status:
        first = self.make.random.choice([1, 0, -30, 2**31 - 30])
        phase = status.get("phase", "Pending")
        attempts = [{"number": first + n, "phase": phase, "message": self.make.text(1_024)} for n in range(21)]
        return status | {"attempts": attempts}

    def much(self, status: Status) -> Status:
        counts = {f"{n}-{self.make.text(20)}": n for n in range(2_000)}
        failures = [{"uniqueId": "x" * 5_000, "status": self.make.text(500)} for _ in range(20)]
        return status | {"results": {"counts": counts, "failures": failures}}


FORGERIES: Final[tuple[tuple[str, Callable[[Forger, Status], Status]], ...]] = (
    ("at random", Forger.random_status),
    ("one field", Forger.other_field),
    ("the phase", Forger.other_phase),
    ("another's marker", Forger.marker_of_another),
    ("another's run", Forger.run_of_another),
    ("strange times", Forger.strange_times),
    ("nothing left", Forger.nothing),
    ("many attempts", Forger.many_attempts),
    ("too much", Forger.much),
)
