"""Which Events a DbtRunMirror gets: when it stops working or falls behind, when that is over, and what is pruned. Pure.

None is for a single run, and none comes often: a mirror that falls behind again and again says so every ten minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

from dbtrun.api.mirrors import MirrorCondition, MirrorConditionStatus
from dbtrun.api.status import ConditionStatus
from watcher.lifecycle.decisions import Event

AGAIN_SECONDS: Final = 600.0
"""The same problem is reported once in this time."""
PRUNED_SECONDS: Final = 3_600.0
"""Between two Events about what was pruned."""
SUSPENDED: Final = "Suspended"
"""The reason for which a mirror is not ready because somebody wants it so."""


class Teller:
    """What one mirror has reported.

    Args:
        conditions: of the stored status: what they say was told by the watcher that wrote them.
    """

    def __init__(self, conditions: Iterable[MirrorConditionStatus]) -> None:
        self._troubles = {told.type: told.reason for told in conditions if _is_trouble(told)}
        self._at: dict[tuple[MirrorCondition, str], float] = {}
        self._pruned = 0
        self._pruned_at: float | None = None

    def told(self, conditions: Iterable[MirrorConditionStatus], now: float) -> Iterator[Event]:
        """The Events for what the conditions say at `now`, in monotonic seconds."""
        for told in conditions:
            if _is_trouble(told):
                at = self._at.get((told.type, told.reason), -math.inf)
                if self._troubles.get(told.type) != told.reason and now - at >= AGAIN_SECONDS:
                    self._troubles[told.type], self._at[told.type, told.reason] = told.reason, now
                    yield Event("Warning", told.reason, told.message)
            elif told.status is ConditionStatus.TRUE and self._troubles.pop(told.type, None) is not None:
                yield Event("Normal", told.reason, told.message)

    def pruned(self, number: int, now: float) -> Iterator[Event]:
        """The Event for DbtRuns that were deleted, if it is time for one."""
        self._pruned += number
        if self._pruned and (self._pruned_at is None or now - self._pruned_at >= PRUNED_SECONDS):
            text = f"DbtRuns beyond spec.historyLimit were deleted: {self._pruned}."
            self._pruned, self._pruned_at = 0, now
            yield Event("Normal", "Pruned", text)


def _is_trouble(told: MirrorConditionStatus) -> bool:
    return told.status is ConditionStatus.FALSE and told.reason != SUSPENDED
