"""The marker that makes a run ours: dbt Cloud has no idempotency key and echoes nothing but the cause."""

from __future__ import annotations

import re
from typing import Final

from dbtrun.api import MARKER_PREFIX, DbtRun
from dbtrun.text import clean

# Used with match(), which finds it only at the beginning: what follows is free text, and may quote the marker of
# another object.
MARK: Final = re.compile(re.escape(MARKER_PREFIX) + r"([0-9a-zA-Z-]{1,64})/[0-9]+(?![0-9A-Za-z])")
MAX_CAUSE: Final = 255
"""Characters of a cause that dbt Cloud accepts."""


def marker(uid: str, number: int) -> str:
    """Names one attempt of one object."""
    return f"{MARKER_PREFIX}{uid}/{number}"


def owner_of(cause: str) -> str | None:
    """The uid of the object whose marker opens the cause; None: the run carries no marker."""
    found = MARK.match(cause)
    return found[1] if found else None


def mark_of(cause: str) -> str | None:
    """The marker that opens the cause; None: the run carries none."""
    found = MARK.match(cause)
    return found[0] if found else None


def marked_cause(run: DbtRun, mark: str) -> str:
    """The cause with the marker in front, where no truncation reaches it."""
    words = run.spec.cause or f"DbtRun {run.metadata.namespace}/{run.metadata.name}"
    return f"{mark} {clean(words, MAX_CAUSE - len(mark) - 1)}"
