"""A short campaign; `make soak` is the long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.campaign import campaign
from tests.controlplane import ControlPlane

KILLS = 15
ROUNDS = 6
ENOUGH = KILLS / 4
"""Runs, and faults met: the watchers must live long enough to do something."""


@pytest.mark.timeout(1_800)
async def test_no_kill_and_no_fault_loses_a_run_or_starts_it_twice(own_plane: ControlPlane, tmp_path: Path) -> None:
    figures = await campaign(own_plane, tmp_path, kills=KILLS, rounds=ROUNDS, seed=11, seconds=900)
    print(json.dumps(figures.told()))
    assert figures.broken == []
    assert figures.kills >= KILLS
    assert figures.runs > ENOUGH
    assert figures.started_elsewhere > ENOUGH
    assert sum(figures.faults_hit.values()) > ENOUGH
