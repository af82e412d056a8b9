"""Tables at 80 and 120 columns, and in a pipe."""

from __future__ import annotations

import pytest

from dbtrun.cli.rows import table
from tests.unit.cli.builders import NOW, ago, run, shown

LONG = "daily-revenue-and-orders-of-all-regions-for-the-board-x7k2p"
RUNS = [
    run("nightly-x7k2p", phase="Succeeded", reason="RunSucceeded", job="nightly", jobId=98765, progress="5/5"),
    run(
        LONG,
        phase="TimedOut",
        reason="ActiveDeadlineExceeded",
        job="Revenue and orders of every region, for the board and for finance",
        progress="3/12",
        runId=70403103922125,
        url="https://cloud.getdbt.com/deploy/1/projects/2/runs/70403103922125/",
        attempts=[{"number": 2, "phase": "TimedOut", "runId": 70403103922125}],
        conditions=[{"type": "Reachable", "status": "True"}],
    ),
    run("new", created=ago(seconds=4)),
]


@pytest.mark.parametrize("width", [80, 120])
def test_every_line_fits_the_terminal_and_name_and_phase_stay(width: int) -> None:
    text = shown(table(RUNS, NOW, width=width), width)
    head, *rows = text.splitlines()
    assert head.split() == ["NAME", "PHASE", "REASON", "JOB", "PROGRESS", "AGE"]
    assert len(rows) == len(RUNS), "no line is broken into two"
    assert max(map(len, text.splitlines())) <= width
    assert rows[0].split() == ["nightly-x7k2p", "Succeeded", "RunSucceeded", "nightly", "5/5", "2h"]
    assert rows[1].startswith(LONG[:15])
    assert "TimedOut" in rows[1]
    assert "3/12" in rows[1]
    assert rows[2].split() == ["new", "-", "98765", "4s"]


def test_at_120_columns_less_is_shortened_than_at_80() -> None:
    narrow, broad = (shown(table(RUNS, NOW, width=width), width).splitlines()[2] for width in (80, 120))
    assert "ActiveDeadlineExceeded" in broad
    assert "ActiveDeadlineExceeded" not in narrow
    assert "…" in narrow


@pytest.mark.parametrize("width", [80, 120])
def test_with_namespaces_it_still_fits(width: int) -> None:
    text = shown(table(RUNS, NOW, width=width, namespaces=True), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.splitlines()[1].startswith("data ")
    assert "Succeeded" in text


def test_a_pipe_gets_every_word_on_one_line_and_no_colour() -> None:
    text = shown(table(RUNS, NOW, width=None))
    assert LONG in text
    assert "Revenue and orders of every region, for the board and for finance" in text
    assert "\x1b" not in text
    assert len(text.splitlines()) == len(RUNS) + 1
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_wide_adds_run_attempt_reachability_and_url() -> None:
    text = shown(table(RUNS, NOW, width=80, wide=True))
    assert text.splitlines()[0].split()[-4:] == ["RUN", "ATTEMPT", "REACHABLE", "URL"]
    assert text.splitlines()[2].split()[-4:] == ["70403103922125", "2", "True", RUNS[1].status.url]


def test_a_terminal_gets_colours_by_phase() -> None:
    text = shown(table(RUNS, NOW, width=80), 80, colour=True)
    assert "\x1b[32mSucceeded" in text
    assert "\x1b[31mTimedOut" in text


def test_a_terminal_obeys_nothing_that_stands_in_an_object() -> None:
    text = shown(table([run(job="\x1b]0;owned\x07\x1b[31mred‮")], NOW, width=None))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "‮" not in text
    assert " red " in text


def test_a_job_of_wide_characters_takes_its_place() -> None:
    text = shown(table([run(job="売上レポート" * 6, phase="Running", progress="1/2")], NOW, width=80), 80)
    assert len(text.splitlines()) == 2
    assert text.splitlines()[1].split()[-2:] == ["1/2", "2h"]
