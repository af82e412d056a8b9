"""`dbtrun wait`, and what every command that waits for runs shows."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from dbtrun.cli.cluster import Api, Place, connected
from dbtrun.cli.ends import Exit, exit_code
from dbtrun.cli.options import cluster_options, duration_option, names_argument, running
from dbtrun.cli.rows import style
from dbtrun.cli.runs import Runs, follow, keep_steps_fresh
from dbtrun.cli.screen import screen
from dbtrun.cli.view import Run
from dbtrun.cli.words import one_line
from dbtrun.kube.errors import KubeError
from dbtrun.text import natural

SHOWN_FAILURES: Final = 10


class Display(Protocol):
    """Tells people what happens while they wait."""

    steps: bool
    """Whether it shows the steps of runs, so that fresh ones are worth a request."""

    def show(self, name: str, run: Run | None) -> None: ...

    def say(self, text: str) -> None: ...


@click.command()
@names_argument
@duration_option("--timeout", "Stop waiting after this time. The runs continue.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing; the exit code depends on the results.")
@cluster_options
@click.pass_context
def wait(ctx: click.Context, names: Sequence[str], timeout: float | None, quiet: bool, place: Place) -> None:
    """Wait until DbtRuns have ended. The exit code is 0 if every run succeeded.

    During this time, the watcher reads the steps of running runs every few seconds, if you may patch DbtRuns.
    """
    ctx.exit(running(waited(place, names, timeout, quiet=quiet)))


async def waited(place: Place, names: Collection[str], timeout: float | None = None, *, quiet: bool = False) -> Exit:
    """Follows the DbtRuns to their ends, and shows how they get on.

    Raises:
        KubeError: they cannot be followed.
    """
    async with connected(place) as (api, namespace):
        with display(quiet=quiet) as shown:
            return await _ends(api, namespace, names, timeout, shown)


async def _ends(api: Api, namespace: str, names: Collection[str], timeout: float | None, shown: Display) -> Exit:
    now: dict[str, Run] = {}
    ends: dict[str, str | None] = {}

    def trouble(error: KubeError) -> None:
        shown.say(f"{error}. Trying again.")

    # A quiet wait does not ask: each renewal of the annotation is a write to the API server, for steps that nobody
    # sees.
    asking = asyncio.create_task(keep_steps_fresh(api, now.values)) if shown.steps else None
    try:
        async with asyncio.timeout(timeout):
            async for name, run in follow(Runs(api, namespace), names, trouble):
                shown.show(name, run)
                if run is not None:
                    now[name] = run
                if run is None or run.final:
                    ends[name] = None if run is None else run.phase
    except TimeoutError:
        shown.say(f"Not ended after {timeout:g} s: {', '.join(sorted(set(names) - ends.keys()))}.")
        return Exit.WAITED_LONG_ENOUGH
    finally:
        if asking is not None:
            asking.cancel()
    return exit_code(ends.get(name) for name in names)


@contextmanager
def display(*, quiet: bool = False) -> Iterator[Display]:
    """Progress bars on a terminal, a line for each change elsewhere. On standard error: the output is for results."""
    console = screen(stderr=True)
    if quiet:
        yield _Quiet()
    elif console.is_terminal:
        with bars(console) as live:
            yield live
    else:
        yield Lines(console)


class _Quiet:
    """Only what went wrong."""

    steps = False

    def show(self, name: str, run: Run | None) -> None:
        del name, run

    def say(self, text: str) -> None:
        click.echo(text, err=True)


class Lines:
    """A line for each change."""

    steps = True

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, str] = {}

    def show(self, name: str, run: Run | None) -> None:
        """Tells what is new of a DbtRun."""
        news = "deleted"
        if run is not None:
            reason = f"({one_line(run.status.reason)})" if run.status.reason else ""
            why = f"{reason}: {one_line(run.status.message)}" if run.status.message else reason
            news = " ".join(filter(None, (run.phase, why, _progress(run))))
        # A status is written more often than its summary changes, and without a terminal each line stays.
        if self._told.get(name) == news:
            return
        self._told[name] = news
        self.say(f"{name}: {news}", "" if run is None else style(run))
        if run is not None and run.final:
            for line in failures(run):
                self.say(f"  {line}")

    def say(self, text: str, colour: str = "") -> None:
        """A line with the time."""
        now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
        # Without soft_wrap, rich breaks lines at 80 columns where there is no terminal, and a search in a CI log misses
        # them.
        self._console.print(Text(f"{now} {text}", style=colour), soft_wrap=True)


@contextmanager
def bars(console: Console) -> Iterator[Display]:
    """A bar for each DbtRun under the lines of what changed."""
    columns = (
        SpinnerColumn(finished_text=" "), TextColumn("{task.description}"), TextColumn("{task.fields[phase]}"),
        BarColumn(20), TextColumn("{task.fields[progress]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bars(progress)


class _Bars:
    steps = True

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lines = Lines(progress.console)
        self._tasks: dict[str, TaskID] = {}

    def show(self, name: str, run: Run | None) -> None:
        self._lines.show(name, run)
        phase, (done, total) = ("Deleted", (0, None)) if run is None else (run.phase, steps_done(run))
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, phase=phase, progress="")
        over = run is None or run.final
        told = "" if total is None else f"{done}/{total} steps"
        # A run that fails at its second step of five has ended: a bar that stops short looks like one that still goes
        # on.
        completed = total if over and total else done
        self._progress.update(self._tasks[name], total=total, completed=completed, phase=phase, progress=told)
        if over:
            # The others may take hours: the time of this one would go on counting beside theirs.
            self._progress.stop_task(self._tasks[name])

    def say(self, text: str) -> None:
        self._lines.say(text)


def steps_done(run: Run) -> tuple[int, int | None]:
    """Steps done and in all, as `3/5` says; None: not known yet."""
    done, _, total = (natural(part) for part in (run.status.progress or "").partition("/"))
    return (0, None) if done is None or total is None else (done, total)


def failures(run: Run) -> Iterator[str]:
    """Why the run failed, besides its message."""
    results = run.status.results
    for node in (results.failures if results else ())[:SHOWN_FAILURES]:
        yield f"{one_line(node.unique_id)} ({one_line(node.status)}): {one_line(node.message)}"
    if run.status.url and not run.succeeded:
        yield one_line(run.status.url)


def _progress(run: Run) -> str:
    step = next((step for step in run.status.steps if step.status == "Running"), None)
    if run.final or not run.status.progress:
        return ""
    return f"[{one_line(run.status.progress)}{f' {one_line(step.name)}' if step else ''}]"
