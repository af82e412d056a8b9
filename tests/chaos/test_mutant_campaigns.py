"""A campaign finds what is wrong: without a part of the protocol, watchers that die start a run twice, or lose one.

`make soak` takes each part away. `test_mutations.py`, which `make test` runs, does the same in virtual time.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.arena import CURSOR
from tests.chaos.campaign import campaign
from tests.controlplane import ControlPlane

KILLS = 100
SEED = 8
"""Of ten that were tried the one that takes least; others took up to 52 kills."""
PARTS = os.environ.get("MUTANTS", "precondition").split()


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("part", PARTS)
async def test_without_a_part_of_the_protocol_a_run_is_started_twice_or_lost(
    stormy_plane: ControlPlane, tmp_path: Path, part: str
) -> None:
    figures = await campaign(stormy_plane, tmp_path, kills=KILLS, seed=SEED, seconds=600, without=part)
    print(f"without the {part}: {figures.kills} kills, {figures.seconds} s")
    assert figures.mirrors_lost if part == CURSOR else figures.duplicates
