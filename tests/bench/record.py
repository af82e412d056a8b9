"""Runs benches at several sizes and records their figures in docs/data/performance.json, for docs/performance.md.

What is measured replaces what the file has of this size; the rest stays. The file is written after each size. A missed
target is recorded like any other figure. The exit code is 1 if a bench did not print all of its figures.

    python -m tests.bench.record                        everything
    python -m tests.bench.record --watcher 100 1000     these sizes only
    python -m tests.bench.record --triggers 1000

Afterwards, `python -m docs.generate` writes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from tests.controlplane import build

ROOT: Final = Path(__file__).resolve().parents[2]
RECORD: Final = ROOT / "docs/data/performance.json"
SIZES: Final = (100, 1_000, 10_000)
STARTED_TOGETHER_MOST: Final = 1_000
"""More connections of the provider at once, each with TLS, take more memory than a laptop has."""


@dataclass(frozen=True)
class Bench:
    """One kind of bench, and the figures without which its record is not complete."""

    kind: str
    module: str
    figures: frozenset[str]

    def command(self, size: int, seconds: float) -> list[str]:
        """The bench at one size."""
        if self.kind == "watcher":
            arguments = ["--objects", str(min(size, 2_000)), "--live", str(size)]
        else:
            arguments = ["--triggers", str(size)]
            arguments += ["--in-turn-only"] if size > STARTED_TOGETHER_MOST else []
        return [sys.executable, "-m", self.module, *arguments, "--seconds", str(seconds)]


BENCHES: Final = {
    "watcher": Bench(
        "watcher",
        "tests.bench.bench_watcher",
        frozenset({
            "starts_per_second", "starts_of_what_the_api_server_takes", "cpu_cores", "memory_mb",
            "dbt_requests_per_minute", "end_to_status_p99_s",
        }),
    ),
    "triggers": Bench(
        "triggers",
        "tests.bench.bench_trigger",
        frozenset({
            "cpu_ratio", "memory_ratio_in_turn", "start_and_end_in_polls", "status_to_event_p99_ms",
            "api_server_watches",
        }),
    ),
}  # fmt: skip

Record = dict[str, dict[str, dict[str, Any]]]
"""Kind of bench, size as text, then where and when it was measured, and the figures by name."""


def read(path: Path = RECORD) -> Record:
    """The record; an empty one if there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def surroundings() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "cpus": os.cpu_count(),
        "processor": processor(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "kubernetes": build.TOOLS["kube-apiserver"].version(),
    }


def processor() -> str:
    """The model of the processor, if the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def figures(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The JSON lines of a bench, by name."""
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    return {row.pop("bench"): row for row in rows}


def added(record: Record, bench: Bench, size: int, around: dict[str, Any], lines: Iterable[str]) -> Record:
    """The record with the figures of one size.

    Raises ValueError if a figure is missing.
    """
    found = figures(lines)
    if missing := sorted(bench.figures - found.keys()):
        raise ValueError(f"{bench.module} at {size} did not print {', '.join(missing)}.")
    sizes = record.get(bench.kind, {}) | {str(size): {"measured": around, "figures": found}}
    return record | {bench.kind: dict(sorted(sizes.items(), key=lambda item: int(item[0])))}


def write(record: Record, path: Path = RECORD) -> None:
    """Stores the record."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def measure(bench: Bench, size: int, seconds: float, path: Path) -> bool:
    """Runs one bench and records it: whether it printed all of its figures."""
    around = surroundings()
    command = bench.command(size, seconds)
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    answer = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(answer.stdout, end="", flush=True)
    try:
        write(added(read(path), bench, size, around, answer.stdout.splitlines()), path)
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
        return False
    return True


def main() -> None:
    """Measures what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watcher", type=int, nargs="*", metavar="N", help="numbers of live runs")
    parser.add_argument("--triggers", type=int, nargs="*", metavar="N", help="numbers of waiting triggers")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each state is measured")
    parser.add_argument("--file", type=Path, default=RECORD, help="where the figures are recorded")
    args = parser.parse_args()
    everything = args.watcher is None and args.triggers is None
    wanted = {kind: list(SIZES) if everything else getattr(args, kind) or [] for kind in BENCHES}
    met = [measure(BENCHES[kind], size, args.seconds, args.file) for kind, sizes in wanted.items() for size in sizes]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
