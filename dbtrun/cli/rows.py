"""DbtRuns as rows of a table. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from rich.text import Text

from dbtrun.api import ConditionType, Phase, Reason
from dbtrun.cli.table import Cell, Column, Row, lines
from dbtrun.cli.view import Run
from dbtrun.cli.words import duration, one_line

STYLES: Final[dict[str, str]] = {
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.ERROR: "red",
    Phase.TIMED_OUT: "red",
    Phase.CANCELLED: "yellow",
    Phase.CANCELLING: "yellow",
    Phase.RUNNING: "cyan",
}
TROUBLE: Final = frozenset(
    {Reason.INVALID_CONNECTION, Reason.UNAUTHORIZED, Reason.FORBIDDEN, Reason.OTHER_ACCOUNT, Reason.COPIED}
)
"""Reasons for which an object that waits needs a person."""
NAMESPACE: Final = Column("NAMESPACE", 9)
COLUMNS: Final = (
    Column("NAME", 16),
    Column("PHASE"),
    Column("REASON", 8),
    Column("JOB", 6),
    Column("PROGRESS"),
    Column("AGE"),
)
WIDE: Final = (Column("RUN"), Column("ATTEMPT"), Column("REACHABLE"), Column("URL"))


def table(
    runs: Iterable[Run], now: datetime, *, width: int | None, namespaces: bool = False, wide: bool = False
) -> list[Text]:
    """A line for each DbtRun, and the head.

    Args:
        runs: in the order of their lines.
        now: what ages are counted to.
        width: of the terminal; None: whatever it takes.
        namespaces: whether the first column is the namespace.
        wide: whether run, attempt, reachability and URL follow.
    """
    columns = [*([NAMESPACE] if namespaces else []), *COLUMNS, *(WIDE if wide else [])]
    return lines(columns, [row(run, now, namespaces=namespaces, wide=wide) for run in runs], None if wide else width)


def row(run: Run, now: datetime, *, namespaces: bool = False, wide: bool = False) -> Row:
    """One DbtRun."""
    created = run.metadata.creation_timestamp
    cells = [
        *([Cell(run.metadata.namespace)] if namespaces else []),
        Cell(run.name),
        Cell(run.phase, style(run)),
        Cell(one_line(run.status.reason)),
        Cell(one_line(run.job)),
        Cell(one_line(run.status.progress or "")),
        Cell("" if created is None else duration((now - created).total_seconds())),
    ]
    if wide:
        reachable = run.condition(ConditionType.REACHABLE)
        attempts = run.status.attempts
        cells += [
            Cell("" if run.run_id is None else str(run.run_id)),
            Cell(str(attempts[-1].number) if attempts else ""),
            Cell("" if reachable is None else one_line(reachable.status)),
            Cell(one_line(run.status.url or "")),
        ]
    return cells


def style(run: Run) -> str:
    """The colour of its phase."""
    return "red" if run.status.reason in TROUBLE else STYLES.get(run.status.phase, "")
