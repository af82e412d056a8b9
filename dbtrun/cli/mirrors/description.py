"""A DbtRunMirror in all that a person wants to know: whether it works, how far it has come, and what to do. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.text import Text

from dbtrun.cli import sections
from dbtrun.cli.mirrors.rows import STYLES
from dbtrun.cli.mirrors.view import Mirror, remedy
from dbtrun.cli.sections import Event, ago, field, indented, title
from dbtrun.cli.table import Cell, Column, lines
from dbtrun.cli.words import clock, duration, one_line


def described(mirror: Mirror, phases: Sequence[str], events: Sequence[Event], now: datetime) -> Iterator[Text]:
    """Line by line.

    Args:
        phases: of the DbtRuns that the mirror has created and that exist.
        events: of the mirror, in their order.
        now: what ages are counted to.
    """
    metadata, spec, status = mirror.metadata, mirror.spec, mirror.status
    yield from field("Name", mirror.name)
    yield from field("Namespace", metadata.namespace)
    yield from field("Created", "" if metadata.creation_timestamp is None else ago(metadata.creation_timestamp, now))
    yield from field("Selects", str(spec.select))
    yield from field("Appear", f"when they have {one_line(spec.appear).lower()}")
    yield from field("Suspended", "yes" if spec.suspend else "")
    connection = spec.connection_ref
    yield from field("Connection", "the watcher's default" if connection is None else f"Secret {connection.name}")
    yield from field("Account", f"{status.account_id} at {one_line(status.host or '?')}" if status.account_id else "")
    reached = status.cursor.finished_at
    yield from field("Mirrored to", "" if reached is None else f"{clock(reached)} ({ago(reached, now)})")
    yield from field("Lag", duration(status.lag_seconds) if status.lag_seconds else "")
    yield from field("Late runs", str(status.late_runs) if status.late_runs else "")
    yield from field("Pruned to", "" if status.pruned_through is None else clock(status.pruned_through))
    counts = ", ".join(f"{count} {one_line(phase)}" for phase, count in sorted(Counter(phases).items()))
    yield from field("DbtRuns", f"{len(phases)} ({counts})" if phases else "none")
    yield from field("What to do", remedy(mirror))
    yield from _conditions(mirror, now)
    yield from sections.events(events, now)


def _conditions(mirror: Mirror, now: datetime) -> Iterator[Text]:
    told = mirror.status.conditions
    if not told:
        return
    yield title("Conditions")
    columns = (Column("TYPE"), Column("STATUS"), Column("REASON"), Column("SINCE"), Column("MESSAGE"))
    rows = [
        [
            Cell(one_line(one.type)),
            Cell(one_line(one.status), STYLES.get(one.status, "")), Cell(one_line(one.reason)),
            Cell("" if one.last_transition_time is None else ago(one.last_transition_time, now)),
            Cell(one_line(one.message)),
        ]
        for one in told
    ]  # fmt: skip
    yield from indented(lines(columns, rows, None))
