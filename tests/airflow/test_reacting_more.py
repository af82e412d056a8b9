"""What restarts, freezes and pauses do to the watcher of an asset. It takes minutes: with all releases."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.airflow.reacting import Reacting
from tests.airflow.rig import Rig
from tests.airflow.test_reacting import WITH_ASSETS

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def reacting(rig: Rig) -> Reacting:
    return Reacting(rig)


@WITH_ASSETS
async def test_another_look_at_the_dag_file_leaves_the_watcher_as_it_is(reacting: Reacting) -> None:
    before = await reacting.until_watched()
    await reacting.airflow.parsed_again("reacting")
    assert await reacting.until_watched() == before


@WITH_ASSETS
async def test_one_that_was_frozen_tells_nothing_that_its_successor_told(reacting: Reacting) -> None:
    rig = reacting.rig
    await reacting.until_watched()
    rig.airflow.start("triggerer", "triggerer-events")
    rig.airflow.send("triggerer", signal.SIGSTOP)
    try:
        keys = await reacting.end("frozen-1", "frozen-2")
        await reacting.until_emitted(set(keys.values()))
    finally:
        rig.airflow.send("triggerer", signal.SIGCONT)
    later = await reacting.end("frozen-3")
    await reacting.until_emitted(set(later.values()))
    await asyncio.sleep(5)
    emitted = [key for key in reacting.emitted() if key in {*keys.values(), *later.values()}]
    assert sorted(emitted) == sorted({*keys.values(), *later.values()})
    await rig.airflow.kill("triggerer-events")


@WITH_ASSETS
async def test_what_ends_while_no_triggerer_is_there_comes_with_the_next(reacting: Reacting) -> None:
    await reacting.until_watched()
    await reacting.airflow.kill("triggerer")
    keys = await reacting.end("away-1", "away-2", job="failure")
    reacting.airflow.start("triggerer")
    began = time.monotonic()
    await reacting.until_emitted(set(keys.values()))
    assert time.monotonic() - began < 120
