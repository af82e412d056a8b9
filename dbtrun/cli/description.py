"""A DbtRun in all that a person wants to know: how it stands, why, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from rich.text import Text

from dbtrun.api import REASON_DOCS, ConditionType, Reason
from dbtrun.cli import sections
from dbtrun.cli.rows import style
from dbtrun.cli.sections import Event, ago, field, indented, title
from dbtrun.cli.table import Cell, Column, lines
from dbtrun.cli.view import Run
from dbtrun.cli.words import between, clock, one_line
from dbtrun.text import plain

ALL_WELL: Final = frozenset({Reason.ANSWERING, Reason.RUN_SUCCEEDED})
MARKS: Final = {
    "Success": ("✓", "green"),
    "Error": ("✗", "red"),
    "Cancelled": ("✗", "yellow"),
    "Running": ("▶", "cyan"),
}
"""Of a step, by dbt Cloud's word for its state."""


def described(run: Run, events: Sequence[Event], now: datetime) -> Iterator[Text]:
    """The lines, from what matters most."""
    yield from _head(run, now)
    yield from _when(run, now)
    yield from _steps(run, now)
    failed = run.status.failed_step
    if failed is not None:
        yield title(f"Log of the failed step {failed.index}, {one_line(failed.name)}")
        yield from indented(Text(line) for line in plain(failed.log_tail).splitlines())
    yield from _results(run)
    if len(run.status.attempts) > 1:
        yield title("Attempts")
        columns = (Column("#"), Column("PHASE"), Column("REASON"), Column("RUN"), Column("TOOK"))
        rows = [
            [
                Cell(str(one.number)), Cell(one_line(one.phase)), Cell(one_line(one.reason)),
                Cell(str(one.run_id or "")), Cell(between(one.started_at, one.finished_at)),
            ]
            for one in run.status.attempts
        ]  # fmt: skip
        yield from indented(lines(columns, rows, None))
    if run.status.artifacts:
        yield title("Artifacts")
    for one in run.status.artifacts:
        kept = f"ConfigMap {one.config_map}, key {one.key}" if one.config_map else f"not kept: {one.problem or '?'}"
        yield Text(f"  {one_line(one.path)}: {one_line(kept)}")
    yield from sections.events(events, now)


def _head(run: Run, now: datetime) -> Iterator[Text]:
    status = run.status
    yield from field("Name", run.name)
    yield from field("Namespace", run.metadata.namespace)
    if run.metadata.deletion_timestamp is not None:
        yield from field(
            "Deleted", f"{ago(run.metadata.deletion_timestamp, now)}; it is removed when its run has ended"
        )
    reason = f" ({one_line(status.reason)})" if status.reason else ""
    yield from field("Phase", f"{run.phase}{reason}", style(run))
    unseen = "" if status.phase else "No watcher has seen it yet. `dbtrun doctor` finds out why."
    yield from field("Message", one_line(status.message) or unseen)
    yield from field("What to do", remedy(run))
    ids = {status.job_id, run.spec.job.id if run.spec.job else None} - {None}
    # Two ids that differ come of a forged status: neither is shown, as nobody knows which one was started.
    number = f" (id {ids.pop()})" if len(ids) == 1 and run.job not in map(str, ids) else ""
    yield from field("Job", f"{one_line(run.job)}{number}")
    yield from field("Run", "" if run.run_id is None else str(run.run_id))
    yield from field("URL", one_line(status.url or ""))
    connection = run.spec.connection_ref
    yield from field("Connection", "the watcher's default" if connection is None else f"Secret {connection.name}")
    yield from field("Account", f"{status.account_id} at {one_line(status.host or '?')}" if status.account_id else "")
    reachable = run.condition(ConditionType.REACHABLE)
    if reachable is not None and reachable.status != "True":
        why = f"{reachable.status} ({one_line(reachable.reason)}): {one_line(reachable.message)}"
        yield from field("Reachable", why, "red" if reachable.status == "False" else "")


def remedy(run: Run) -> str:
    """What a person can do; empty if nothing is to be done, or the reason is of a later release."""
    status = run.status
    if status.reason not in set(Reason) or status.reason in ALL_WELL:
        return ""
    text = REASON_DOCS[Reason(status.reason)].remedy
    return "" if text.startswith("Nothing") else text.replace("`", "")


def _when(run: Run, now: datetime) -> Iterator[Text]:
    status = run.status
    created = run.metadata.creation_timestamp
    for name, moment in (
        ("Created", created), ("Queued", status.queued_at), ("Started", status.started_at),
        ("Finished", status.finished_at),
    ):  # fmt: skip
        yield from field(name, "" if moment is None else f"{clock(moment)} ({ago(moment, now)})")
    yield from field("Took", between(status.started_at, status.finished_at))
    estimate = status.estimated_completion_time
    if estimate is not None and not run.final:
        yield from field("Ends about", clock(estimate))
    yield from field("Progress", one_line(status.progress or ""))


def _steps(run: Run, now: datetime) -> Iterator[Text]:
    if not run.status.steps:
        return
    yield title("Steps")
    columns = (Column(""), Column("#"), Column("STEP"), Column("STATE"), Column("TOOK"))
    rows = []
    for step in run.status.steps:
        mark, colour = MARKS.get(step.status, ("·", ""))
        # A step that has no end, of a run that has one, must not count on for days.
        end = step.finished_at or (now if not run.final else None)
        rows.append([
            Cell(mark, colour), Cell(str(step.index)), Cell(one_line(step.name)), Cell(one_line(step.status), colour),
            Cell(between(step.started_at, end)),
        ])  # fmt: skip
    yield from indented(lines(columns, rows, None))


def _results(run: Run) -> Iterator[Text]:
    results = run.status.results
    if results is None:
        return
    counts = ", ".join(f"{count} {one_line(word)}" for word, count in results.counts.items())
    yield from field("Results", counts or "none")
    for node in results.failures:
        what = f"{one_line(node.unique_id)} ({one_line(node.status)})"
        yield Text.assemble("  ", (what, "red"), f": {one_line(node.message)}" if node.message else "")
    if results.unread_steps:
        steps = ", ".join(map(str, results.unread_steps))
        yield Text(f"  The results of these steps could not be read: {steps}.")
