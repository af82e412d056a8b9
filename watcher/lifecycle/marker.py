"""The marker that makes a run ours: dbt Cloud has no idempotency key and echoes nothing but the cause."""

from __future__ import annotations

from typing import Final

from watcher.api import MARKER_PREFIX, DbtRun
from watcher.lifecycle.text import clean

MAX_CAUSE: Final = 255
"""Characters of a cause that dbt Cloud accepts."""


def marker(uid: str, number: int) -> str:
    """Names one attempt of one object."""
    return f"{MARKER_PREFIX}{uid}/{number}"


def marked_cause(run: DbtRun, mark: str) -> str:
    """The cause with the marker in front, where no truncation reaches it."""
    words = run.spec.cause or f"DbtRun {run.metadata.namespace}/{run.metadata.name}"
    return f"{mark} {clean(words, MAX_CAUSE - len(mark) - 1)}"
