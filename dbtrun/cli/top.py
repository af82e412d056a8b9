"""`dbtrun top`: the live runs of every namespace, as they change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from dbtrun.api import Phase
from dbtrun.cli.cluster import Place, connected
from dbtrun.cli.options import cluster_options, running
from dbtrun.cli.rows import NAMESPACE, style
from dbtrun.cli.runs import PAUSES, Change, Runs, keep_steps_fresh
from dbtrun.cli.screen import screen, write
from dbtrun.cli.table import Cell, Column, lines
from dbtrun.cli.view import Run, UnreadableRun, read
from dbtrun.cli.words import duration, one_line
from dbtrun.kube.errors import Expired, Unreachable
from dbtrun.kube.watch import Progress, Removed
from dbtrun.values import backoff

KEPT: Final = timedelta(minutes=1)
"""How long a run that is over stays on the screen."""
COLUMNS: Final = (
    NAMESPACE, Column("NAME", 16), Column("PHASE"), Column("REASON", 8), Column("JOB", 6), Column("PROGRESS"),
    Column("LEFT"), Column("AGE"),
)  # fmt: skip
ORDER: Final = (Phase.CANCELLING, Phase.RUNNING, Phase.QUEUED, Phase.SUBMITTING, Phase.PENDING)
"""Live phases as they follow on the screen; what is over comes last."""


@click.command()
@click.option(
    "--interval", type=click.FloatRange(0.5, 60), default=2.0, show_default=True, help="Seconds between screens."
)
@cluster_options
def top(interval: float, place: Place) -> None:
    """Show the live runs of every namespace, or of the one that -n names, as they change. To stop, press Ctrl-C.

    During this time, the watcher reads the steps of these runs every few seconds, if you may patch DbtRuns. Without a
    terminal, `top` prints the runs once.
    """
    out = screen()
    logging.disable(logging.WARNING)  # an object that cannot be read is not worth a broken screen
    try:
        with suppress(click.exceptions.Exit):  # Ctrl-C is how it ends
            running(_shown(place, out, interval))
    finally:
        logging.disable(logging.NOTSET)  # the process may be another program's, which calls the command


async def _shown(place: Place, out: Console, interval: float) -> None:
    state = State()
    async with connected(place) as (api, _):
        runs = Runs(api, place.namespace)
        if not out.is_terminal:
            found = await runs.list()
            state.reset(found.items)
            write(out, state.lines(datetime.now(UTC), None, None))
            return
        feeding = asyncio.create_task(_feed(runs, state))
        asking = asyncio.create_task(keep_steps_fresh(api, lambda: state.shown))
        try:
            # With auto_refresh, rich would draw in a thread of its own while the state changes.
            with Live(console=out, screen=True, auto_refresh=False) as live:
                while not feeding.done():
                    shown = state.lines(datetime.now(UTC), out.width, out.height - 1)
                    live.update(Group(*shown), refresh=True)
                    await asyncio.wait([feeding], timeout=interval)
        finally:
            feeding.cancel()
            asking.cancel()
        await feeding  # why it ended


async def _feed(runs: Runs, state: State) -> None:
    """Keeps the state true until it is cancelled."""
    tries = 0
    while True:
        began = time.monotonic()
        try:
            found = await runs.list()
            state.reset(found.items)
            async for change in runs.changes(found.version):
                state.change(change)
        except Expired:
            continue
        except Unreachable as error:
            state.trouble = str(error)
            # After a watch that worked for a minute, this is a new trouble and not the next failure of the old one.
            tries = 1 if time.monotonic() - began > 60 else tries + 1
            await asyncio.sleep(backoff(tries, *PAUSES))


class State:
    """The runs that are shown."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._over: dict[str, datetime] = {}
        self.trouble = ""
        """Why the screen is out of date; empty if it is not."""
        self.shown: list[Run] = []
        """The runs on the screen."""

    def reset(self, items: Iterable[msgspec.Raw]) -> None:
        """A whole list."""
        before, self._runs, self.trouble = self._runs, {}, ""
        for item in items:
            with suppress(UnreadableRun):
                self._take(read(item))
        for uid in before.keys() - self._runs.keys():
            self._over.pop(uid, None)

    def change(self, change: Change) -> None:
        """One object was added, changed or deleted."""
        if not isinstance(change, Progress):
            self._take(change.run, deleted=isinstance(change, Removed))

    def _take(self, run: Run, *, deleted: bool = False) -> None:
        uid = run.metadata.uid
        known = uid in self._runs
        ended = run.status.completion_time
        long_over = run.final and (ended is None or datetime.now(UTC) - ended > KEPT)
        if deleted or (long_over and not known):
            self._runs.pop(uid, None)
            self._over.pop(uid, None)
            return
        self._runs[uid] = run
        if run.final:
            self._over.setdefault(uid, datetime.now(UTC))

    def lines(self, now: datetime, width: int | None, height: int | None) -> list[Text]:
        """The screen: a line of counts, and as many runs as fit."""
        for uid in [uid for uid, at in self._over.items() if now - at > KEPT]:
            del self._over[uid]
            self._runs.pop(uid, None)
        runs = sorted(self._runs.values(), key=_place)
        head = [Text(self.trouble, style="red")] if self.trouble else []
        phases = Counter(run.phase for run in runs).most_common()
        counts = ", ".join(f"{count} {phase}" for phase, count in phases) or "none"
        head.append(Text(f"{len(runs)} DbtRuns: {counts}", no_wrap=True, overflow="ellipsis"))
        room = len(runs) if height is None else max(height - len(head) - 2, 1)
        self.shown = runs[:room]
        rows = []
        for run in self.shown:
            estimate, created = run.status.estimated_completion_time, run.metadata.creation_timestamp
            left = "" if estimate is None or run.final else duration((estimate - now).total_seconds())
            age = "" if created is None else duration((now - created).total_seconds())
            rows.append([
                Cell(run.metadata.namespace), Cell(run.name), Cell(run.phase, style(run)),
                Cell(one_line(run.status.reason)), Cell(one_line(run.job)), Cell(one_line(run.status.progress or "")),
                Cell(left), Cell(age),
            ])  # fmt: skip
        told = lines(COLUMNS, rows, width)
        rest = [Text(f"… and {len(runs) - room} more", style="dim")] if len(runs) > room else []
        return [*head, *told, *rest]


def _place(run: Run) -> tuple[int, datetime, str]:
    phase = run.status.phase
    rank = ORDER.index(Phase(phase)) if phase in ORDER else len(ORDER) if run.final else len(ORDER) - 1
    return rank, run.metadata.creation_timestamp or datetime.max.replace(tzinfo=UTC), run.name
