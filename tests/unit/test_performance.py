"""docs/performance.md shows what the benches recorded, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs import generate, performance
from tests.bench import bench_trigger, bench_watcher, record

AROUND = {"date": "2026-11-26", "cpus": 2, "python": "3.11.7"}
WATCHER: dict[str, dict[str, Any]] = {
    "starts_per_second": {"value": 46.1},
    "starts_of_what_the_api_server_takes": {"value": 0.69},
    "cpu_cores": {"value": 0.021},
    "memory_mb": {"value": 234.5},
    "dbt_requests_per_minute": {"value": 141.0},
    "end_to_status_p99_s": {"value": 5.06, "p50": 2.62},
}
TRIGGERS: dict[str, dict[str, Any]] = {
    "cpu_ratio": {"value": 0.01, "ours": 0.06, "peer": 6.0, "seconds": 60.0},
    "memory_ratio_in_turn": {"value": 0.5, "ours": 2**20, "peer": 2**21},
    "start_and_end_in_polls": {"value": 0.5},
    "status_to_event_p99_ms": {"value": 42.0},
    "api_server_watches": {"value": 1},
}


def printed(figures: dict[str, dict[str, Any]]) -> list[str]:
    return ["a line of a library", *(json.dumps({"bench": name} | figure) for name, figure in figures.items())]


def recorded(sizes: dict[int, dict[str, dict[str, Any]]], kind: str = "watcher") -> record.Record:
    found: record.Record = {}
    for size, figures in sizes.items():
        found = record.added(found, record.BENCHES[kind], size, AROUND, printed(figures))
    return found


def page(found: record.Record) -> str:
    return performance.page(found, generate.table)


def test_the_page_is_what_was_recorded() -> None:
    assert generate.PERFORMANCE.read_text() == page(record.read()), "run `make docs`"


def test_the_record_is_complete() -> None:
    """What is in the repository went through the recorder."""
    for kind, sizes in record.read().items():
        for each in sizes.values():
            assert record.BENCHES[kind].figures <= each["figures"].keys()
            assert {"date", "cpus", "load_before"} <= each["measured"].keys()


def test_without_a_record_the_page_claims_nothing() -> None:
    text = page({})
    assert text.endswith(performance.NOTHING)
    assert not re.search(r"^\|", text, re.MULTILINE)


def test_each_size_is_a_row_in_the_order_of_the_sizes() -> None:
    faster = WATCHER | {"starts_per_second": {"value": 50.0}}
    text = page(recorded({10_000: WATCHER, 100: faster}))
    rows = re.findall(r"^\| ([\d,]+) \| .*\| (\d+) \| 0\.69 \|$", text, re.MULTILINE)
    assert rows == [("100", "50"), ("10,000", "46")]


def test_what_is_measured_again_replaces_what_was() -> None:
    found = recorded({100: WATCHER, 1_000: WATCHER})
    again = record.added(
        found, record.BENCHES["watcher"], 100, AROUND, printed(WATCHER | {"memory_mb": {"value": 99.0}})
    )
    assert again["watcher"]["100"]["figures"]["memory_mb"]["value"] == 99.0
    assert again["watcher"]["1000"] == found["watcher"]["1000"]


def test_a_bench_that_broke_off_is_not_recorded() -> None:
    broken = {name: figure for name, figure in WATCHER.items() if name != "memory_mb"}
    with pytest.raises(ValueError, match="memory_mb"):
        record.added({}, record.BENCHES["watcher"], 100, AROUND, printed(broken))


def test_one_size_makes_no_plot_and_two_make_one_for_each_figure() -> None:
    assert "xychart" not in page(recorded({100: WATCHER}))
    text = page(recorded({100: WATCHER, 1_000: WATCHER}))
    assert text.count("xychart-beta") == sum(bool(column.plot) for column in performance.WATCHER_COLUMNS)
    assert '  x-axis "Live runs" ["100", "1,000"]\n  bar [234, 234]' in text


def test_triggers_stand_beside_the_providers() -> None:
    text = page(recorded({100: TRIGGERS, 1_000: TRIGGERS}, "triggers"))
    assert "| 100 | 60 | 0.00100 | 0.10000 | 1.0 | 2.0 | not recorded | not recorded | 42 | 1 |" in text


def test_the_machine_and_the_day_are_named() -> None:
    assert (
        "| 100 | 2026-11-26 | not recorded | 2 | not recorded | not recorded | not recorded | 3.11.7 | not recorded |"
        in page(recorded({100: WATCHER}))
    )


@pytest.mark.parametrize(("kind", "module"), [("watcher", bench_watcher), ("triggers", bench_trigger)])
def test_the_benches_print_what_the_record_needs(kind: str, module: Any) -> None:
    code = Path(module.__file__).read_text()
    assert [name for name in record.BENCHES[kind].figures if f'"{name}"' not in code] == []


@pytest.mark.parametrize("size", record.SIZES)
def test_so_many_triggers_start_together_as_fit_a_machine(size: int) -> None:
    command = record.BENCHES["triggers"].command(size, 60.0)
    assert ("--in-turn-only" in command) == (size > record.STARTED_TOGETHER_MOST)
    assert command[command.index("--triggers") + 1] == str(size)
