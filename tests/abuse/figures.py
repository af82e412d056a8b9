"""What a campaign counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.abuse.lives import Complaint, Ledger


@dataclass
class Figures:
    """Counted over one campaign."""

    ledger: Ledger
    objects: int = 0
    seconds: float = 0.0
    phases: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    reconciles: int = 0
    failed: int = 0
    idle: float = 0.0
    """Reconciles a second while nobody did anything."""
    decisions: Counter[str] = field(default_factory=Counter)
    """Decisions that were carried out, by object."""
    versions: Counter[str] = field(default_factory=Counter)
    """Versions that there were, by object: each is a write."""

    @property
    def writes(self) -> int:
        """Changes that the API server took from those who mistreat."""
        return sum(self.ledger.accepted.values())

    @property
    def broken(self) -> list[Complaint]:
        """What should not be."""
        return self.ledger.complaints

    def told(self) -> dict[str, Any]:
        """The figures, for one line of JSON."""
        return {
            "seed": self.ledger.seed,
            "objects": self.objects,
            "seconds": round(self.seconds),
            "accepted": dict(self.ledger.accepted.most_common()),
            "refused": dict(self.ledger.refused.most_common()),
            "edited_at": dict(self.ledger.edited_at.most_common()),
            "phases": dict(self.phases.most_common()),
            "reasons": dict(self.reasons.most_common()),
            "runs": self.runs,
            "reconciles": self.reconciles,
            "reconciles_per_write": round(self.reconciles / max(1, self.writes), 2),
            "decisions_per_object": _spread(self.decisions),
            "writes_per_object": _spread(self.versions),
            "failed_reconciles": self.failed,
            "idle_reconciles_per_second": round(self.idle, 1),
            "broken": len(self.broken),
        }


def _spread(counted: Mapping[str, int]) -> dict[str, float]:
    return {
        "mean": round(sum(counted.values()) / max(1, len(counted)), 1),
        "most": max(counted.values(), default=0),
    }
