# ruff: noqa: INP001 - docs is a folder of pages, not a package
"""What the benches measured at several sizes, as a page: tables and plots of docs/data/performance.json.

Without a record of a size, the page says nothing about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from tests.bench.record import Record

HEAD: Final = """\
# Performance

`docs/generate.py` generates this page from `docs/data/performance.json`. To update the figures, run
`make setup controlplane` and `.venv/bin/python -m tests.bench.record` in a checkout instead of editing this page.
[Benches](../tests/bench/README.md) explains how each figure is measured. All processes of a bench, including etcd, the
API server and the simulated dbt Cloud, share one machine, which the last table of each section describes.

"""
NOTHING: Final = "Nothing is recorded yet.\n"
MISSING: Final = "not recorded"
WATCHER: Final = """\
## The watcher

One watcher process, while this many dbt Cloud runs are live. CPU, memory and requests are measured for a minute in
which no run starts or ends, with `pollIntervalSeconds: 60`. *End → status* is the time from the end of a run in
dbt Cloud until a watch delivers the final status. *Starts per second* is measured while many DbtRuns are created at
once, where the API server is the limit. The last column divides it by the rate at which a client that only writes could
make the same writes on this API server. While DbtRuns wait to be started, the watcher makes some of these writes later
or not at all. So it may start runs faster than that client, and the ratio is then above 1.

"""
TRIGGERS: Final = """\
## Waiting in Airflow's triggerer

One process with this many waiting `DbtRunTrigger`s, and one with as many `DbtCloudRunJobTrigger`s of Airflow's
dbt Cloud provider, at the same time on the same machine. For each trigger, the provider asks dbt Cloud once per poll
interval. CPU is measured while the triggers only wait. Memory is what all triggers except the first add to the process.
It is measured twice: when they are deferred one after the other, and when a triggerer starts all of them at once, as
after a restart.

"""
Figures = dict[str, dict[str, Any]]


class Column(NamedTuple):
    """One figure: its head in the table, how it is read and shown; `plot` is the title of its plot."""

    head: str
    read: Callable[[Figures], float]
    form: str
    plot: str = ""


WATCHER_COLUMNS: Final = (
    Column("CPU, cores", lambda each: each["cpu_cores"]["value"], ".3f", "CPU of the watcher, cores"),
    Column("Memory, MiB", lambda each: each["memory_mb"]["value"], ".0f", "Memory of the watcher, MiB"),
    Column(
        "Requests to dbt Cloud per minute",
        lambda each: each["dbt_requests_per_minute"]["value"],
        ".0f",
        "Requests to dbt Cloud per minute",
    ),
    Column("End → status, median, s", lambda each: each["end_to_status_p99_s"]["p50"], ".1f"),
    Column(
        "End → status, p99, s",
        lambda each: each["end_to_status_p99_s"]["value"],
        ".1f",
        "From the end of a run to its status, 99th percentile, seconds",
    ),
    Column("Starts per second", lambda each: each["starts_per_second"]["value"], ".0f"),
    Column(
        "Starts, relative to the API server alone",
        lambda each: each["starts_of_what_the_api_server_takes"]["value"],
        ".2f",
    ),
)
TRIGGER_COLUMNS: Final = (
    Column("Poll interval of the provider, s", lambda each: each["cpu_ratio"]["seconds"], ".0f"),
    Column(
        "CPU, cores",
        lambda each: each["cpu_ratio"]["ours"] / each["cpu_ratio"]["seconds"],
        ".5f",
        "CPU of waiting with DbtRunTrigger, cores",
    ),
    Column(
        "CPU of the provider, cores",
        lambda each: each["cpu_ratio"]["peer"] / each["cpu_ratio"]["seconds"],
        ".5f",
        "CPU of waiting with the provider's trigger, cores",
    ),
    Column(
        "Memory, one after the other, MiB",
        lambda each: each["memory_ratio_in_turn"]["ours"] / 2**20,
        ".1f",
        "Memory of DbtRunTriggers, MiB",
    ),
    Column(
        "Memory of the provider, MiB",
        lambda each: each["memory_ratio_in_turn"]["peer"] / 2**20,
        ".1f",
        "Memory of the provider's triggers, MiB",
    ),
    Column("Memory, all at once, MiB", lambda each: each["memory_ratio"]["ours"] / 2**20, ".1f"),
    Column("Memory of the provider, all at once, MiB", lambda each: each["memory_ratio"]["peer"] / 2**20, ".1f"),
    Column("Status → event, p99, ms", lambda each: each["status_to_event_p99_ms"]["value"], ".0f"),
    Column("Watches on the API server", lambda each: each["api_server_watches"]["value"], ".0f"),
)
MEASURED: Final[dict[str, str]] = {
    "date": "Date",
    "commit": "Commit",
    "cpus": "CPUs",
    "processor": "Processor",
    "memory_gb": "Memory, GiB",
    "load_before": "Load before",
    "python": "Python",
    "kubernetes": "Kubernetes",
}
Table = Callable[[Iterable[str], Iterable[Iterable[str]]], str]


def page(record: Record, table: Table) -> str:
    """The page; `table` makes a Markdown table."""
    sections = [
        *section(WATCHER, "Live runs", WATCHER_COLUMNS, record.get("watcher", {}), table),
        *section(TRIGGERS, "Triggers", TRIGGER_COLUMNS, record.get("triggers", {}), table),
    ]
    return HEAD + ("\n\n".join(sections) + "\n" if sections else NOTHING)


def section(
    head: str, size: str, columns: Sequence[Column], sizes: dict[str, dict[str, Any]], table: Table
) -> Iterator[str]:
    """One kind of bench: its figures, their plots, and where they were measured; nothing without a record."""
    if not sizes:
        return
    counts = [f"{int(count):,}" for count in sizes]
    figures = [each["figures"] for each in sizes.values()]
    rows = [[count, *(shown(column, each) for column in columns)] for count, each in zip(counts, figures, strict=True)]
    yield head + table([size, *(column.head for column in columns)], rows)
    for column in columns:
        values = [value(column, each) for each in figures]
        known = [(count, each) for count, each in zip(counts, values, strict=True) if each is not None]
        if column.plot and len(known) > 1:
            yield plot(column.plot, size, known, column.form)
    measured = [each["measured"] for each in sizes.values()]
    places = [
        [count, *(str(each.get(key, MISSING)) for key in MEASURED)]
        for count, each in zip(counts, measured, strict=True)
    ]
    yield table([size, *MEASURED.values()], places)


def value(column: Column, figures: Figures) -> float | None:
    """A figure, or None if this size was measured without it."""
    try:
        return column.read(figures)
    except KeyError:
        return None


def shown(column: Column, figures: Figures) -> str:
    """A figure as the table has it."""
    found = value(column, figures)
    return MISSING if found is None else format(found, column.form)


def plot(title: str, size: str, points: Sequence[tuple[str, float]], form: str) -> str:
    """A bar for each size; each is ten times the one before, so the bars of what grows in proportion do, too."""
    names = ", ".join(f'"{count}"' for count, _ in points)
    heights = ", ".join(format(height, form) for _, height in points)
    lines = ["```mermaid", "xychart-beta", f'  title "{title}"', f'  x-axis "{size}" [{names}]']
    return "\n".join([*lines, f"  bar [{heights}]", "```"])
