"""What readers of a DbtRun share: tolerant views of the parts that several of them show.

A view reads what any release of the watcher writes. So words are plain strings, because a newer watcher may know phases
and reasons that this program does not, every field has a default, and what a view does not name is skipped.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


# `gc=False`: a triggerer keeps thousands of these, and frozen structs of plain values form no cycles to collect.
class View(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """A partial view of an API object; what it does not name is skipped undecoded."""


class Reference(View, frozen=True, kw_only=True):
    """An object by its name."""

    name: str = ""


class Condition(View, frozen=True, kw_only=True):
    """A condition, as of every Kubernetes object."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None


class Step(View, frozen=True, kw_only=True):
    """One command of the run."""

    index: int = 0
    name: str = ""
    status: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class FailedStep(View, frozen=True, kw_only=True):
    """The step at which the run ended, with the end of its log."""

    index: int = 0
    name: str = ""
    log_tail: str = ""


class FailedNode(View, frozen=True, kw_only=True):
    """A model, test or source that did not pass."""

    unique_id: str = ""
    status: str = ""
    message: str = ""
