"""What restarts, freezes and pauses do to the watcher of an asset. It takes minutes: with all releases."""

from __future__ import annotations

import asyncio
import signal
import time
from itertools import pairwise

import pytest

from airflow_trigger.event_trigger import AFTER_FAILURE_SECONDS
from tests.airflow.reacting import ASSET, Reacting
from tests.airflow.reaction_times import reactions
from tests.airflow.rig import WATCHERS, Rig
from tests.airflow.test_reacting import WITH_ASSETS
from tests.patience import patience
from tests.stack import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(1500)]


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
        # What is emitted and not yet stored is told again, by a successor as by a twin.
        await reacting.until_stored(set(keys.values()))
    finally:
        rig.airflow.send("triggerer", signal.SIGCONT)
    try:
        later = await reacting.end("frozen-3")
        await reacting.until_emitted(set(later.values()))
        await asyncio.sleep(5)
    finally:
        await rig.airflow.kill("triggerer-events")
    # Not the last one: in the second until Airflow ends the twin, both tell what ends then.
    emitted = [key for key in reacting.emitted() if key in keys.values()]
    assert sorted(emitted) == sorted(keys.values())


@WITH_ASSETS
async def test_what_ends_while_no_triggerer_is_there_comes_with_the_next(reacting: Reacting) -> None:
    await reacting.until_watched()
    await reacting.airflow.kill("triggerer")
    keys = await reacting.end("away-1", "away-2", job="failure")
    reacting.airflow.start("triggerer")
    began = time.monotonic()
    await reacting.until_emitted(set(keys.values()))
    assert time.monotonic() - began < 120


@WITH_ASSETS
async def test_a_worker_that_is_killed_at_every_point_has_emitted_nothing_and_its_retry_everything_once(
    reacting: Reacting,
) -> None:
    """Before the first event, within the events, after the last one, and after the operator has returned."""
    rig = reacting.rig
    run_id = await reacting.end_with_models("models-2")
    run = await rig.airflow.trigger("models_killed", {"name": "models-2"})
    for killed in range(1, 5):
        await rig.airflow.until_state("models_killed", run, "emit", "up_for_retry", "queued", "running", tries=killed)
        assert reacting.models("models_killed") == []
    await rig.airflow.until_state("models_killed", run, "emit", "success", seconds=480, tries=5)
    assert reacting.models("models_killed") == reacting.expected_models(run_id)
    assert reacting.kills("models_killed") == ["1", "2", "3", "4"]
    last = rig.airflow.task("models_killed", run, "emit")
    assert (last["end_date"] - last["start_date"]).total_seconds() < patience(60)


@WITH_ASSETS
async def test_two_schedulers_give_each_run_to_one_dag_run(reacting: Reacting) -> None:
    await reacting.until_watched()
    reacting.airflow.start("scheduler", "scheduler-more")
    try:
        keys: dict[str, str] = {}
        for number in range(5):
            keys |= await reacting.end(*(f"two-{number}-{each}" for each in range(4)))
        given = await reacting.until_given(set(keys.values()))
    finally:
        await reacting.airflow.kill("scheduler-more")
    assert sorted(key for key in given if key in keys.values()) == sorted(keys.values())


@WITH_ASSETS
async def test_what_ends_while_all_consumers_are_paused_comes_when_one_is_unpaused(reacting: Reacting) -> None:
    airflow = reacting.airflow
    await reacting.until_watched()
    before = await reacting.end("paused-before")
    await reacting.until_given(set(before.values()))
    await airflow.desk.pause(ASSET)
    await airflow.parsed_again(ASSET)
    await reacting.until_unwatched()
    keys = await reacting.end("paused-1", "paused-2")
    await airflow.desk.unpause(ASSET)
    await airflow.parsed_again(ASSET)
    given = await reacting.until_given(set(keys.values()))
    assert sorted(key for key in given if key in keys.values()) == sorted(keys.values())


@WITH_ASSETS
async def test_a_watcher_whose_arguments_cannot_be_used_disturbs_no_other(reacting: Reacting) -> None:
    """As a newer release or a typing error leaves it: Airflow makes a trigger that raises again each second."""
    await reacting.until_watched()
    log = reacting.airflow.programs["triggerer"].log

    async def told() -> int:
        return log.read_text().count("The watcher of asset 'unusable' cannot work: job_id")

    before = await until(told, 60, "the triggerer says what is wrong")
    keys = await reacting.end("beside-1", "beside-2")
    await reacting.until_emitted(set(keys.values()))
    assert await told() == before
    assert len(reacting.triggers("unusable")) == 1


@WITH_ASSETS
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("constructor", "Trigger failed to inflate"),
        ("run", "exited with error the run of a test"),
        ("store", "The watcher of asset 'faulty' starts again in 10 s"),
    ],
    ids=["constructor", "run", "store"],
)
async def test_a_trigger_that_raises_disturbs_no_other_and_loses_nothing(
    reacting: Reacting, place: str, said: str
) -> None:
    """The runs that ended meanwhile come when it works. Airflow makes it again until it does.

    But for a constructor that raises a TypeError: Airflow makes it again when a triggerer starts.
    """
    await reacting.until_watched()
    async with reacting.failing(place):
        await reacting.until_logged(said)
        keys = await reacting.end(f"beside-{place}-1", f"beside-{place}-2")
        missed = await reacting.end(f"missed-{place}", asset="faulty")
        await reacting.until_emitted(set(keys.values()))
        if place == "store":
            # Two pauses: the first may be long because the triggerer has just started.
            pauses = [later - earlier for earlier, later in pairwise(await reacting.until_logged(said, 3))]
            assert min(pauses).total_seconds() >= AFTER_FAILURE_SECONDS
        assert not set(missed.values()) & set(reacting.emitted("faulty"))
    if place == "constructor":
        await reacting.airflow.kill("triggerer")
        reacting.airflow.start("triggerer")
    await reacting.until_emitted(set(missed.values()), asset="faulty")


@WITH_ASSETS
async def test_a_constructor_that_ends_the_triggerer_loses_nothing(reacting: Reacting) -> None:
    """Airflow before 3.4 takes only a TypeError; the constructor of DbtRunEventTrigger raises nothing."""
    await reacting.until_watched()
    async with reacting.failing("constructor, otherwise"):
        await reacting.until_logged("another failure of a test")
        await reacting.airflow.programs["triggerer"].wait(120)
        keys = await reacting.end("meanwhile-1", "meanwhile-2")
        missed = await reacting.end("meanwhile-3", asset="faulty")
    await reacting.until_emitted(set(keys.values()))
    await reacting.until_emitted(set(missed.values()), asset="faulty")


@WITH_ASSETS
async def test_an_end_is_in_airflows_database_and_has_queued_the_dag_soon(reacting: Reacting) -> None:
    await reacting.until_watched()
    told = await reactions(reacting, [f"soon-{number}" for number in range(10)], pause=0.2)
    assert max(each.event for each in told) < patience(2.5)
    assert max(each.queued for each in told) < patience(10)


@WITH_ASSETS
async def test_all_watchers_share_one_watch(reacting: Reacting) -> None:
    await reacting.until_watched()
    await reacting.until_many_watched(WATCHERS)

    async def one() -> bool:
        return await reacting.rig.watches() == 1

    await until(one, 60, "there is one watch", pause=1)
