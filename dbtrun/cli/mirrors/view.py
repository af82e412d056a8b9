"""What the command line reads of a DbtRunMirror. Words stay plain strings, as for DbtRuns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from dbtrun.api import REASON_DOCS, Reason
from dbtrun.api.mirrors import MIRROR_KIND, Appear, MirrorCondition
from dbtrun.api.views import Condition, Reference, View
from dbtrun.cli.view import Meta, readable
from dbtrun.cli.words import one_line

SHOWN: Final = 3
"""Ids of a selection that are shown."""
REMEDIES: Final[Mapping[str, str]] = {
    "Behind": "Nothing, if the lag becomes smaller. Otherwise raise spec.maxPerMinute, or select fewer jobs.",
    "CreateRefused": "Correct what the message names: a ResourceQuota, an admission policy or the watcher's rights.",
    "Suspended": "Set spec.suspend to false. The mirror continues where it stopped.",
}
"""By the reason of a condition."""


class Select(View, frozen=True, kw_only=True):
    """Which runs appear."""

    job_ids: tuple[int, ...] = ()
    environment_ids: tuple[int, ...] = ()
    project_ids: tuple[int, ...] = ()
    causes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The selection in a few words."""
        fields = {
            "jobs": self.job_ids, "environments": self.environment_ids, "projects": self.project_ids,
            "causes": self.causes,
        }  # fmt: skip
        told = []
        for name, values in fields.items():
            if values:
                more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
                told.append(f"{name} {', '.join(one_line(str(value)) for value in values[:SHOWN])}{more}")
        return "; ".join(told) or "all jobs"


class MirrorSpec(View, frozen=True, kw_only=True):
    """What was asked for."""

    select: Select = Select()
    connection_ref: Reference | None = None
    appear: str = Appear.FINISHED
    max_per_minute: int = 60
    suspend: bool = False


class Cursor(View, frozen=True, kw_only=True):
    """How far it has come."""

    finished_at: datetime | None = None


class MirrorStatus(View, frozen=True, kw_only=True):
    """What the watcher says."""

    account_id: int | None = None
    host: str | None = None
    cursor: Cursor = Cursor()
    pruned_through: datetime | None = None
    lag_seconds: int | None = None
    late_runs: int = 0
    conditions: tuple[Condition, ...] = ()


class Mirror(View, frozen=True, kw_only=True):
    """One DbtRunMirror."""

    metadata: Meta
    spec: MirrorSpec = MirrorSpec()
    status: MirrorStatus = MirrorStatus()

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    def condition(self, kind: MirrorCondition) -> Condition | None:
        """The condition of that type, if the watcher has set it."""
        return next((found for found in self.status.conditions if found.type == kind), None)

    @property
    def trouble(self) -> Condition | None:
        """The first condition that is not True, of those that say whether it works; None: it does."""
        # In the order of the enum: if it is not Ready, the other conditions follow from that, and its reason is the one
        # to correct.
        told = (self.condition(kind) for kind in MirrorCondition)
        return next((one for one in told if one is not None and one.status != "True"), None)


MIRROR: Final = msgspec.json.Decoder(Mirror)


def remedy(mirror: Mirror) -> str:
    """What a person can do; empty if nothing is to be done."""
    if not mirror.status.conditions:
        return "No watcher has seen it yet. `dbtrun doctor` finds out why."
    told = mirror.trouble
    if told is None:
        return ""
    if told.reason in set(Reason):
        return REASON_DOCS[Reason(told.reason)].remedy.replace("`", "")
    return REMEDIES.get(told.reason, "")


def read(body: bytes | msgspec.Raw) -> Mirror:
    """A DbtRunMirror in JSON.

    Raises:
        UnreadableRun: a field has another type than here.
    """
    with readable(MIRROR_KIND):
        return MIRROR.decode(body)
