"""Mirrors at 80 and 120 columns, in a pipe, and in all that is known of one."""

from __future__ import annotations

from typing import Any

import click
import pytest

from dbtrun.api import Reason
from dbtrun.cli.kinds import Asked, asked
from dbtrun.cli.mirrors.description import described
from dbtrun.cli.mirrors.rows import table
from dbtrun.cli.mirrors.view import Mirror, read
from dbtrun.cli.sections import Event
from dbtrun.cli.view import UnreadableRun
from tests.unit.cli.builders import NOW, ago, conditions, mirror, shown

LONG = "every-run-of-finance-and-of-the-board-in-all-regions"
BEHIND = conditions(CaughtUp=("False", "Behind", "Runs wait for their DbtRuns: 60 a minute are created."))
MIRRORS = [
    mirror(accountId=12345, host="cloud.getdbt.com", lagSeconds=0),
    mirror(
        LONG,
        spec={"select": {"jobIds": [70403104000001 + n for n in range(9)], "environmentIds": [4]}},
        conditions=BEHIND,
        lagSeconds=3_700,
        lateRuns=2,
        prunedThrough=ago(hours=1),
    ),
    mirror("new", spec={"select": {"allJobs": True}}, conditions=[], created=ago(seconds=4)),
]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("namespaces", [False, True])
def test_every_line_fits_the_terminal(width: int, namespaces: bool) -> None:
    lines = shown(table(MIRRORS, NOW, width=width, namespaces=namespaces), width).splitlines()
    assert lines[0].split()[-7:] == ["NAME", "READY", "CAUGHT-UP", "REASON", "LAG", "SELECTS", "AGE"]
    assert len(lines) == 1 + len(MIRRORS), "no line is broken into two"
    assert max(map(len, lines)) <= width
    assert "True" in lines[2]
    assert "False" in lines[2]
    assert "1h1m" in lines[2]


def test_a_pipe_gets_every_word() -> None:
    lines = shown(table(MIRRORS, NOW, width=None)).splitlines()
    assert lines[1].split()[:5] == ["nightly", "True", "True", "Mirroring", "0s"]
    assert "jobs 98765; causes scheduled" in lines[1]
    assert LONG in lines[2]
    assert "Behind" in lines[2]
    assert "jobs 70403104000001, 70403104000002, 70403104000003 and 6 more; environments 4" in lines[2]
    assert lines[3].split() == ["new", "-", "-", "all", "jobs", "4s"]


def test_wide_has_what_kubectl_has() -> None:
    lines = shown(table(MIRRORS, NOW, width=80, wide=True)).splitlines()
    assert lines[0].split()[-4:] == ["REACHABLE", "ACCOUNT", "LATE", "PRUNED"]
    assert lines[1].split()[-3:] == ["True", "12345", "0"]
    assert lines[2].endswith("2     2026-11-26 11:00:00 UTC")


def text(which: Mirror, phases: list[str] | None = None, *events: Event) -> str:
    return shown(described(which, phases or [], events, NOW))


def test_a_mirror_that_works_is_described() -> None:
    told = text(
        mirror(
            accountId=12345,
            host="cloud.getdbt.com",
            cursor={"finishedAt": ago(seconds=9), "floor": ago(hours=2), "recent": []},
            lateRuns=1,
        ),
        ["Succeeded", "Failed", "Succeeded"],
        Event(reason="CaughtUp", note="Every run\nhas its DbtRun.", event_time=NOW),
    )
    for line in (
        "Name:        nightly",
        "Selects:     jobs 98765; causes scheduled",
        "Appear:      when they have finished",
        "Account:     12345 at cloud.getdbt.com",
        "Mirrored to: 2026-11-26 11:59:51 UTC (9s ago)",
        "Late runs:   1",
        "DbtRuns:     3 (1 Failed, 2 Succeeded)",
        "0s ago  CaughtUp  Every run has its DbtRun.",
    ):
        assert line in told
    assert "What to do" not in told
    assert "Ready" in told


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Ready": ("False", "CreateRefused", "A DbtRun is refused.")}, "ResourceQuota"),
        ({"Ready": ("False", Reason.INVALID_CONNECTION, "There is no Secret.")}, "Secret"),
        ({"Reachable": ("False", Reason.UNAUTHORIZED, "The token is refused.")}, "token"),
        ({"CaughtUp": ("False", "Behind", "Runs wait.")}, "spec.maxPerMinute"),
    ],
)
def test_the_way_out_is_told(changed: dict[str, tuple[str, str, str]], words: str) -> None:
    (line,) = [each for each in text(mirror(conditions=conditions(**changed))).splitlines() if "What to do" in each]
    assert words in line


def test_a_mirror_that_no_watcher_has_seen_says_so() -> None:
    assert "`dbtrun doctor` finds out why" in text(mirror(conditions=[]))


def test_a_mirror_of_another_release_is_one_sentence() -> None:
    with pytest.raises(UnreadableRun, match="The DbtRunMirror cannot be read"):
        read(b'{"metadata": {"name": 5}}')


WORDS: list[tuple[tuple[str, ...], Any]] = [
    ((), Asked(False, ())),
    (("nightly", "dr/other"), Asked(False, ("nightly", "other"))),
    (("mirrors",), Asked(True, ())),
    (("drm", "all"), Asked(True, ("all",))),
    (("mirror", "drm/all"), Asked(True, ("all",))),
    (("dbtrunmirrors.dbtrun.dev",), Asked(True, ())),
    (("dbtrunmirror.dbtrun.dev/all", "drm/other"), Asked(True, ("all", "other"))),
    (("dr/mirrors",), Asked(False, ("mirrors",))),
    (("nightly", "mirrors"), Asked(False, ("nightly", "mirrors"))),
]


@pytest.mark.parametrize(("words", "wanted"), WORDS)
def test_what_the_words_of_a_command_mean(words: tuple[str, ...], wanted: Asked) -> None:
    assert asked(words) == wanted


def test_both_kinds_at_once_are_refused() -> None:
    with pytest.raises(click.UsageError, match="not both"):
        asked(("nightly", "drm/all"))
