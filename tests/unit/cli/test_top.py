"""What `dbtrun top` shows."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from click.testing import CliRunner

from dbtrun.api import PLURAL
from dbtrun.cli.main import main
from dbtrun.cli.runs import keep_steps_fresh
from dbtrun.cli.top import KEPT, State
from dbtrun.cli.view import read
from dbtrun.kube.watch import Added, Removed
from tests.unit.cli.builders import body, shown
from tests.unit.world.apiserver import ApiServer, Direct

NOW = datetime.now(UTC)


def raw(name: str, **more: Any) -> msgspec.Raw:
    made = body(name, **more)
    made["metadata"]["uid"] = name
    return msgspec.Raw(json.dumps(made).encode())


def screen(state: State, width: int = 80, height: int | None = None, now: datetime = NOW) -> list[str]:
    return shown(state.lines(now, width, height), width).splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_thousand_runs_fit_the_screen(width: int) -> None:
    state = State()
    state.reset([
        raw(f"a-rather-long-name-of-a-dbt-run-in-a-team-{number}", phase="Running", reason="RunStarted",
            job="Revenue of every region and of every shop", progress="3/12")
        for number in range(1000)
    ])  # fmt: skip
    lines = screen(state, width, 30)
    assert len(lines) == 30
    assert max(map(len, lines)) <= width
    assert lines[0] == "1000 DbtRuns: 1000 Running"
    assert lines[1].split()[:3] == ["NAMESPACE", "NAME", "PHASE"]
    assert lines[-1] == "… and 973 more"


def test_what_changes_is_shown_and_what_is_over_goes_after_a_minute() -> None:
    state = State()
    state.reset([raw("a", phase="Running"), raw("b", phase="Pending", reason="WaitingForSlot")])
    assert [line.split()[1:3] for line in screen(state)[2:]] == [["a", "Running"], ["b", "Pending"]]
    state.change(Added(read(raw("a", phase="Succeeded")), "2"))
    state.change(Added(read(raw("c", phase="Running")), "2"))
    assert [line.split()[1:3] for line in screen(state)[2:]] == [["c", "Running"], ["b", "Pending"], ["a", "Succeeded"]]
    later = datetime.now(UTC) + KEPT + timedelta(seconds=1)
    assert [line.split()[1] for line in screen(state, now=later)[2:]] == ["c", "b"]
    state.change(Removed(read(raw("b", phase="Pending")), "2"))
    assert [line.split()[1] for line in screen(state)[2:]] == ["c"]


def test_what_was_over_before_is_not_shown() -> None:
    state = State()
    state.reset([raw("old", phase="Succeeded", completionTime="2024-01-01T00:00:00Z"), raw("odd", phase="Failed")])
    assert screen(state)[0] == "0 DbtRuns: none"


def test_a_list_after_a_gap_drops_what_is_gone() -> None:
    state = State()
    state.reset([raw("a", phase="Running"), raw("b", phase="Running")])
    state.trouble = "The API server does not answer"
    assert screen(state)[0] == "The API server does not answer"
    state.reset([raw("b", phase="Running")])
    assert [line.split()[1] for line in screen(state)[2:]] == ["b"]


def test_what_cannot_be_read_hides_nothing_else() -> None:
    state = State()
    state.reset(
        [msgspec.Raw(b'{"metadata": {"name": 1}}'), raw("a", phase="Running"), raw("b", phase="OfALaterRelease")]
    )
    assert [line.split()[1] for line in screen(state)[2:]] == ["a", "b"]


def test_the_time_left_is_shown_where_it_is_known() -> None:
    state = State()
    ends = (NOW + timedelta(minutes=5, seconds=30)).isoformat()
    state.reset([raw("a", phase="Running", progress="1/2", estimatedCompletionTime=ends)])
    assert screen(state)[2].split()[4:6] == ["1/2", "5m30s"]


class Api(Direct):
    """An API server with a clock."""

    now = NOW


@pytest.mark.parametrize(("running", "asked"), [(100, 9), (3, 3)])
async def test_fresh_steps_are_asked_for_of_the_running_runs_on_the_screen_alone(running: int, asked: int) -> None:
    state, api = State(), Api(ApiServer())
    state.reset([raw(f"run-{number}", phase="Running") for number in range(running)] + [raw("waits", phase="Pending")])
    for number in range(running):
        api.server.store(PLURAL, f"run-{number}", namespace="data")
    screen(state, height=12)
    asking = asyncio.create_task(keep_steps_fresh(cast(Any, api), lambda: state.shown))
    for _ in range(100):
        await asyncio.sleep(0)
    asking.cancel()
    patched = [path for method, path in api.server.writes() if method == "PATCH"]
    assert len(patched) == asked
    assert not any("waits" in path for path in patched)


def test_the_time_that_is_left_is_shown_of_live_runs() -> None:
    state = State()
    soon = (NOW + timedelta(minutes=5, seconds=30)).isoformat()
    # The age has minutes, too: here it has none.
    now = {"created": NOW.isoformat(), "estimatedCompletionTime": soon}
    state.reset([raw("a", phase="Running", **now)])
    assert "5m" in screen(state)[-1]
    state.change(Added(read(raw("a", phase="Failed", **now)), "2"))
    assert "5m" not in screen(state)[-1]


def test_a_program_that_calls_the_command_logs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []

    def running(shown: Coroutine[Any, Any, None]) -> None:
        shown.close()
        levels.append(logging.root.manager.disable)

    monkeypatch.setattr("dbtrun.cli.top.running", running)
    assert CliRunner().invoke(main, ["top"]).exit_code == 0
    assert levels == [logging.WARNING]
    assert logging.root.manager.disable == logging.NOTSET
