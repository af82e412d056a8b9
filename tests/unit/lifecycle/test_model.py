"""Whatever happens, in whatever order: what holds of every story that a DbtRun can live through.

The world checks each decision and each write where it happens; the stories here are made by hypothesis. For a longer
search: `DBTRUN_STORIES=20000 pytest tests/unit/lifecycle/test_model.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbtrun.api import (
    START_COPY_ANNOTATION,
    DbtRun,
    DeletionPolicy,
    Job,
    Reason,
    Retry,
    RetryStrategy,
    RetryWhen,
    Reuse,
)
from tests.unit.lifecycle.builders import MARK, POLICY, run
from tests.unit.lifecycle.world import LIST_LAG, Fate, Reply, World
from watcher.lifecycle.facts import RunState
from watcher.lifecycle.marker import marker

STORIES: Final = int(os.environ.get("DBTRUN_STORIES", "0"))
QUICK: Final = settings(
    max_examples=STORIES or 40,
    derandomize=not STORIES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

OTHER: Final = "00000000-0000-4000-8000-000000000000"
Move = Callable[[World], None]


def moved(name: str, act: Callable[..., object], *args: Any) -> Move:
    """A move that a failing story names."""

    def move(world: World) -> None:
        act(world, *args)

    move.__qualname__ = move.__name__ = f"{name}{args}"
    return move


def edit(world: World, field: str, value: object) -> None:
    world.api.edit(**{field: value})


def answer(world: World, reply: Reply) -> None:
    world.cloud.next_reply = reply


def outage(world: World, down: bool) -> None:
    world.cloud.down = down


def hide(world: World) -> None:
    for known in world.cloud.runs:
        known.hidden = True


def delete(world: World) -> None:
    world.api.delete()


def go_on(world: World, end: RunState) -> None:
    world.cloud.go_on(end)


def time_out(world: World) -> None:
    """dbt Cloud ends the first live run for its own limit: a cancel, and only the message says why."""
    live = next((run for run in world.cloud.runs if not run.state.over), None)
    if live is not None:
        live.message = "This run timed out after running for 1 day."
        world.cloud.go_on(RunState.CANCELLED)


def restore(world: World, back: int) -> None:
    world.restore(back)


def restore_at_once(world: World, back: int) -> None:
    """Under a watcher that goes on, and sees what it did be gone."""
    world.api.restore(back)
    world.leader.listen()


def redirect(world: World, away: bool) -> None:
    world.redirect(world.strangers if away else world.cloud)


def ask_others(world: World) -> None:
    world.cloud.create("somebody else's")


FATES: Final = [moved("tick", World.tick, fate) for fate in Fate if fate is not Fate.DONE]
RIVALS: Final = [moved("swap", World.swap), moved("duel", World.duel, 3), moved("duel", World.duel, 12)]
TIME: Final = [moved("wait", World.pass_time, pause) for pause in (1.0, 31.0, 90.0, 130.0, 700.0)]
REPLIES: Final = [moved("answer", answer, reply) for reply in Reply if reply is not Reply.ANSWERED]
DOWN: Final = moved("outage", outage, True)
CLOUD: Final = [
    *(moved("go_on", go_on, end) for end in (RunState.SUCCESS, RunState.ERROR, RunState.CANCELLED)),
    *REPLIES,
    DOWN,
    moved("outage", outage, False),
    moved("others", ask_others),
]
CANCEL: Final = moved("edit", edit, "cancel", True)
DELETE: Final = moved("delete", delete)
EDITS: Final = [
    CANCEL,
    moved("edit", edit, "suspend", True),
    moved("edit", edit, "suspend", False),
    moved("edit", edit, "active_deadline_seconds", 60),
    moved("edit", edit, "queue_deadline_seconds", 20),
]
RESTORES: Final = [moved("restore", restore, back) for back in (1, 2, 3, 5, 8, 99)]
AT_ONCE: Final = [moved("restore_at_once", restore_at_once, back) for back in (1, 2, 3, 5, 8, 99)]
AWAY: Final = moved("redirect", redirect, True)
PLAIN: Final = [*FATES, *RIVALS, *TIME, *CLOUD]
ALL: Final = [*PLAIN, *EDITS, DELETE, moved("hide", hide)]
ANYTHING: Final = [*EDITS, DELETE, *RESTORES, AWAY, moved("redirect", redirect, False)]
"""What people and clusters do, without answers that are late: a restore takes longer than those."""

Story = list[tuple[int, Move]]


def stories(moves: list[Move]) -> st.SearchStrategy[Story]:
    """What befalls a world, each after so many undisturbed steps."""
    kinds = st.one_of(*(st.sampled_from(kind) for kind in (FATES, RIVALS, TIME, CLOUD)), st.sampled_from(moves))
    return st.lists(st.tuples(st.integers(0, 7), kinds), max_size=8)


def objects(**spec: st.SearchStrategy[Any]) -> st.SearchStrategy[DbtRun]:
    """New objects that start a job, unless the spec says otherwise."""
    retry = st.builds(
        Retry,
        limit=st.integers(0, 2),
        strategy=st.sampled_from(RetryStrategy),
        backoff_seconds=st.sampled_from([0, 30]),
        when=st.just(tuple(RetryWhen)),
    )
    common = {
        "held": st.just(False),
        "retry": retry,
        "active_deadline_seconds": st.sampled_from([None, 600]),
        "artifacts": st.sampled_from([(), ("run_results.json", "compiled/shop/a.sql"), ("missing.json",)]),
    }
    return st.builds(run, **{**common, **spec})


def world_of(obj: DbtRun, ends: list[RunState], resumable: bool, **cloud: float) -> World:
    world = World.of(obj, POLICY, **cloud)
    world.cloud.ends, world.cloud.resumable = ends, resumable
    return world


def worlds(obj: st.SearchStrategy[DbtRun]) -> st.SearchStrategy[World]:
    return st.builds(
        world_of,
        obj,
        st.lists(st.sampled_from([RunState.SUCCESS, RunState.ERROR, RunState.CANCELLED]), max_size=4),
        st.booleans(),
        skew=st.sampled_from([0.0, 300.0, -300.0]),
        lag=st.sampled_from([0.0, 10.0, LIST_LAG]),
    )


JOBS: Final = st.sampled_from([Job(id=321), Job(name="nightly", project="shop", environment="prod")])
ANY: Final = objects(
    job=JOBS,
    reuse=st.sampled_from(Reuse),
    deletion_policy=st.sampled_from([None, *DeletionPolicy]),
    ttl_seconds_after_finished=st.sampled_from([None, 0, 3_600]),
)
CANCELLING: Final = objects(job=JOBS, deletion_policy=st.sampled_from([None, DeletionPolicy.CANCEL]))
ADOPTING: Final = objects(run_id=st.just(1_000), deletion_policy=st.sampled_from([None, *DeletionPolicy]))


def told(world: World, story: Story) -> None:
    """The story, and then a dbt Cloud that is well again."""
    for steps, move in story:
        for _ in range(steps):
            world.tick()
        world.leader.busy = 0
        move(world)
        world.cloud.commit_late()
    world.heal()
    world.settle()


@pytest.mark.parametrize(
    "move", [*FATES, *RIVALS, *REPLIES, *TIME[2:4], DOWN, *EDITS, DELETE], ids=lambda m: m.__name__
)
def test_one_blow_at_any_step_leaves_one_run_and_an_end(move: Move) -> None:
    for steps in range(12):
        world = World.of(run(held=False), POLICY, lag=LIST_LAG, skew=-300.0)
        told(world, [(steps, move), (3, TIME[0])])
        assert world.starts()[MARK] <= 1, f"after {steps} steps"
        assert world.ended, f"after {steps} steps"


@pytest.mark.parametrize("reply", REPLIES, ids=lambda m: m.__name__)
def test_a_lost_answer_and_a_rival_at_any_step_leave_one_run(reply: Move) -> None:
    for steps in range(2, 9):
        for rival in RIVALS:
            world = World.of(run(held=False), POLICY, lag=LIST_LAG)
            told(world, [(0, reply), (steps, rival), (6, RIVALS[0])])
            assert world.starts()[MARK] <= 1, f"{rival.__name__} after {steps} steps"


@pytest.mark.parametrize("move", RESTORES, ids=lambda m: m.__name__)
@pytest.mark.parametrize("dies", [False, True])
def test_a_cluster_restored_at_any_step_leaves_one_run_of_each_attempt(move: Move, dies: bool) -> None:
    for strategy in RetryStrategy:
        for steps in range(24):
            obj = run(held=False, retry=Retry(limit=2, strategy=strategy, backoff_seconds=0))
            world = world_of(obj, [RunState.SUCCESS, RunState.ERROR, RunState.ERROR], True)
            blows = [(0, moved("tick", World.tick, Fate.DIES_BEFORE))] if dies else []
            told(world, [(steps, move), *blows])
            assert all(runs == 1 for runs in world.starts().values()), (steps, strategy, world.starts())
            assert world.ended, f"after {steps} steps"


@pytest.mark.parametrize("move", AT_ONCE, ids=lambda m: m.__name__)
@pytest.mark.parametrize("lag", [0.0, LIST_LAG])
def test_a_running_watcher_whose_writes_are_undone_knows_what_it_started(move: Move, lag: float) -> None:
    for steps in range(24):
        obj = run(held=False, retry=Retry(limit=1, backoff_seconds=0))
        world = world_of(obj, [RunState.SUCCESS, RunState.ERROR], True, lag=lag)
        told(world, [(steps, move)])
        assert all(runs == 1 for runs in world.starts().values()), (steps, world.starts())
        assert world.ended, f"after {steps} steps"


@pytest.mark.parametrize("with_status", [True, False])
@pytest.mark.parametrize("ends", [RunState.SUCCESS, RunState.ERROR])
def test_a_copy_made_at_any_step_follows_what_is_live_and_starts_nothing(with_status: bool, ends: RunState) -> None:
    for steps in range(24):
        obj = run(held=False, retry=Retry(limit=1, backoff_seconds=0))
        world = world_of(obj, [RunState.SUCCESS, ends], True)
        for _ in range(steps):
            world.tick()
        before = world.starts()
        known_before = bool(world.api.stored and world.api.stored.metadata.annotations)
        ended = world.ended
        world.api.copy(OTHER, with_status=with_status)
        for watcher in world.watchers:
            watcher.listen()
        for _ in range(30):
            world.tick()
        assert world.api.stored is not None
        status = world.api.stored.status
        if known_before:
            assert world.starts() == before, f"after {steps} steps"
            assert world.ended or status.reason is Reason.COPIED, f"after {steps} steps: {status}"
            assert world.ended or not (ended and with_status)
        else:
            assert world.starts() == {marker(OTHER, 1): 1} or world.starts()[marker(OTHER, 1)] == 1


def test_a_copy_starts_once_somebody_says_so_and_no_copy_of_it() -> None:
    world = World.of(run(), POLICY)
    world.settle()
    world.api.copy(OTHER, with_status=False)
    world.leader.listen()
    for _ in range(5):
        world.tick()
    world.api.annotate({START_COPY_ANNOTATION: OTHER})
    world.settle()
    assert world.starts() == {MARK: 1, marker(OTHER, 1): 1}
    world.api.copy(OTHER.replace("0", "1"), with_status=False)
    world.leader.listen()
    for _ in range(30):
        world.tick()
    assert len(world.starts()) == 2


def test_a_connection_that_comes_to_mean_another_account_touches_nothing_there() -> None:
    for move in [TIME[2], CANCEL, DELETE, moved("tick", World.tick, Fate.DIES_BEFORE)]:
        for steps in range(24):
            obj = run(held=False, retry=Retry(limit=1, backoff_seconds=0), active_deadline_seconds=600)
            world = world_of(obj, [RunState.SUCCESS, RunState.ERROR], True)
            for _ in range(steps):
                world.tick()
            started = bool(world.cloud.runs)
            world.redirect(world.strangers)
            for _ in range(3):
                world.tick()
            move(world)
            for _ in range(20):
                world.tick()
            theirs = len(world.strangers.runs) - 4
            assert theirs == 0 or not started, f"{move} after {steps} steps"
            if not theirs:
                told(world, [])
                assert world.ended, f"{move} after {steps} steps"
            assert not world.touched, f"{move} after {steps} steps"
            assert all(runs == 1 for runs in world.starts().values()), (steps, world.starts())


@QUICK
@given(worlds(CANCELLING), st.lists(st.tuples(st.integers(0, 7), st.sampled_from(ANYTHING)), max_size=8))
def test_whatever_people_and_clusters_do_no_attempt_runs_twice(world: World, story: Story) -> None:
    for known in world.watchers:
        known.cloud.lag = 0.0
    told(world, [(2, TIME[0]), *story])
    assert all(runs == 1 for runs in world.starts().values()), world.starts()
    assert not world.touched


def test_a_watcher_that_was_paused_after_its_claim_does_not_send_it_when_it_wakes() -> None:
    world = World.of(run(held=False), POLICY)
    while not world.api.told:
        world.tick()
    world.swap()
    world.settle()
    world.swap()
    for _ in range(5):
        world.tick()
    assert world.starts() == {MARK: 1}


@QUICK
@given(worlds(ANY), stories(ALL))
def test_every_story_ends_and_starts_each_attempt_at_most_once(world: World, story: Story) -> None:
    told(world, story)
    assert all(runs == 1 for runs in world.starts().values()), world.starts()
    assert world.ended


@QUICK
@given(worlds(ADOPTING), stories(ALL), st.booleans())
def test_an_adopting_object_starts_nothing_and_ends(world: World, story: Story, exists: bool) -> None:
    if exists:
        world.cloud.create("by hand")
    told(world, story)
    assert not world.starts()
    assert world.ended


@QUICK
@given(worlds(CANCELLING), stories(PLAIN), st.sampled_from([CANCEL, DELETE]))
def test_a_run_that_nobody_wants_any_more_is_not_left_alive(world: World, story: Story, stop: Move) -> None:
    world.cloud.duration = math.inf
    told(world, [*story, (3, stop)])
    assert not world.alive
    assert world.ended


def test_a_story_without_faults_starts_one_run_and_succeeds() -> None:
    world = World.of(run(), POLICY)
    world.settle()
    assert world.starts() == {MARK: 1}
    assert world.phases == ["Submitting", "Queued", "Running", "Succeeded"]


@pytest.mark.parametrize("lateness", [125.0, 180.0, 220.0])
def test_a_start_that_arrives_later_than_assumed_is_ended_by_the_sweep(lateness: float) -> None:
    world = World.of(run(), POLICY, lateness=lateness)
    world.cloud.next_reply, world.cloud.duration = Reply.LATE, 600.0
    world.settle()
    assert world.starts() == {MARK: 2}, "the assumption was to break"
    assert [known.stopping for known in world.cloud.runs] == [False, True]


@pytest.mark.parametrize("stop", [CANCEL, DELETE])
def test_a_start_that_arrives_after_its_object_was_cancelled_is_ended_too(stop: Move) -> None:
    world = World.of(run(), POLICY, lateness=180.0)
    world.cloud.next_reply, world.cloud.duration = Reply.LATE, 600.0
    told(world, [(8, stop)])
    assert [known.stopping for known in world.cloud.runs] == [True]
