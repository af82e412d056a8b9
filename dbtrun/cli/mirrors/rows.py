"""DbtRunMirrors as rows of a table. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from rich.text import Text

from dbtrun.api.mirrors import MirrorCondition
from dbtrun.cli.mirrors.view import Mirror
from dbtrun.cli.table import Cell, Column, Row, lines
from dbtrun.cli.words import clock, duration, one_line

NAMESPACE: Final = Column("NAMESPACE", 9)
COLUMNS: Final = (
    Column("NAME", 16),
    Column("READY"),
    Column("CAUGHT-UP"),
    Column("REASON", 8),
    Column("LAG"),
    Column("SELECTS", 8),
    Column("AGE"),
)
WIDE: Final = (Column("REACHABLE"), Column("ACCOUNT"), Column("LATE"), Column("PRUNED"))
STYLES: Final = {"True": "green", "False": "red"}


def table(
    mirrors: Iterable[Mirror], now: datetime, *, width: int | None, namespaces: bool = False, wide: bool = False
) -> list[Text]:
    """A line for each mirror, and the head; the arguments are those of the table of DbtRuns."""
    columns = [*([NAMESPACE] if namespaces else []), *COLUMNS, *(WIDE if wide else [])]
    rows = [row(mirror, now, namespaces=namespaces, wide=wide) for mirror in mirrors]
    return lines(columns, rows, None if wide else width)


def row(mirror: Mirror, now: datetime, *, namespaces: bool, wide: bool) -> Row:
    """One mirror."""
    status, created, told = mirror.status, mirror.metadata.creation_timestamp, mirror.trouble
    told = told or mirror.condition(MirrorCondition.READY)
    cells = [
        *([Cell(mirror.metadata.namespace)] if namespaces else []),
        Cell(mirror.name),
        says(mirror, MirrorCondition.READY),
        says(mirror, MirrorCondition.CAUGHT_UP),
        Cell("" if told is None else one_line(told.reason)),
        Cell("" if status.lag_seconds is None else duration(status.lag_seconds)),
        Cell(str(mirror.spec.select)),
        Cell("" if created is None else duration((now - created).total_seconds())),
    ]
    if wide:
        pruned = status.pruned_through
        cells += [
            says(mirror, MirrorCondition.REACHABLE),
            Cell("" if status.account_id is None else str(status.account_id)),
            Cell(str(status.late_runs)),
            Cell("" if pruned is None else clock(pruned)),
        ]
    return cells


def says(mirror: Mirror, kind: MirrorCondition) -> Cell:
    """Whether the condition holds; a dash if no watcher has said so."""
    condition = mirror.condition(kind)
    return Cell("-") if condition is None else Cell(one_line(condition.status), STYLES.get(condition.status, ""))
