"""Whatever happens, in whatever order: what holds of every story that a DbtRun can live through.

The world checks each decision and each write where it happens; the stories here are made by hypothesis. For a longer
search: `DBTRUN_STORIES=20000 pytest tests/unit/lifecycle/test_model.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.lifecycle.builders import MARK, POLICY, run
from tests.unit.lifecycle.world import LIST_LAG, Fate, Reply, World
from watcher.api import DbtRun, DeletionPolicy, Job, Retry, RetryWhen, RetryStrategy, Reuse
from watcher.lifecycle.facts import RunState

STORIES: Final = int(os.environ.get("DBTRUN_STORIES", "0"))
QUICK: Final = settings(
    max_examples=STORIES or 50,
    derandomize=not STORIES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

Move = Callable[[World], None]


def moved(name: str, act: Callable[..., object], *args: Any) -> Move:
    """A move that a failing story names."""

    def move(world: World) -> None:
        act(world, *args)

    move.__qualname__ = move.__name__ = f"{name}{args}"
    return move


def step(world: World, who: int, fate: Fate) -> None:
    world.one_step(who, fate)


def work(world: World, who: int) -> None:
    world.watchers[who].work()


def hear(world: World, who: int) -> None:
    world.watchers[who].listen()
    world.watchers[who].poll()


def go_round(world: World, who: int) -> None:
    hear(world, who)
    work(world, who)


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


def ask_others(world: World) -> None:
    world.cloud.create("somebody else's")


PEOPLE: Final = (0, 1)
STEPS: Final = st.sampled_from([moved("step", step, who, Fate.DONE) for who in PEOPLE])
FATES: Final = st.sampled_from([moved("step", step, who, fate) for who in PEOPLE for fate in Fate])
WORK: Final = st.sampled_from(
    [moved("work", work, who) for who in PEOPLE] + [moved("hear", hear, who) for who in PEOPLE]
)
TIME: Final = st.sampled_from(
    [moved("wait", World.pass_time, pause) for pause in (1.0, 5.0, 20.0, 31.0, 90.0, 130.0, 700.0)]
)
CLOUD: Final = st.sampled_from(
    [moved("go_on", go_on, end) for end in (RunState.SUCCESS, RunState.ERROR, RunState.CANCELLED)]
    + [moved("answer", answer, reply) for reply in Reply]
    + [moved("outage", outage, True), moved("outage", outage, False), moved("others", ask_others)]
)
EDITS: Final = [
    moved("edit", edit, "cancel", True),
    moved("edit", edit, "suspend", True),
    moved("edit", edit, "suspend", False),
    moved("edit", edit, "active_deadline_seconds", 60),
    moved("edit", edit, "queue_deadline_seconds", 20),
]
WISHES: Final = st.sampled_from([*EDITS, moved("delete", delete), moved("hide", hide)])
ROUND: Final = st.sampled_from([moved("go_round", go_round, who) for who in PEOPLE])
PLAIN: Final = st.one_of(STEPS, WORK, ROUND, ROUND, FATES, FATES, TIME, CLOUD, CLOUD)
MOVES: Final = st.lists(PLAIN | WISHES, max_size=40)


def objects(**spec: st.SearchStrategy[Any]) -> st.SearchStrategy[DbtRun]:
    """New objects that start a job, unless the spec says otherwise."""
    retry = st.builds(
        Retry,
        limit=st.integers(0, 2),
        strategy=st.sampled_from(RetryStrategy),
        backoff_seconds=st.sampled_from([0, 30]),
        when=st.just(tuple(RetryWhen)),
    )
    common = {"held": st.just(False), "retry": retry, "active_deadline_seconds": st.sampled_from([None, 600])}
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


def told(world: World, moves: list[Move]) -> None:
    """The story, and then a dbt Cloud that is well again."""
    for move in moves:
        move(world)
        world.cloud.commit_late()
    world.heal()
    world.settle()


@QUICK
@given(worlds(ANY), MOVES)
def test_every_story_ends_and_starts_each_attempt_at_most_once(world: World, moves: list[Move]) -> None:
    told(world, moves)
    assert all(runs == 1 for runs in world.starts().values()), world.starts()
    assert world.ended


@QUICK
@given(worlds(ADOPTING), MOVES, st.booleans())
def test_an_adopting_object_starts_nothing_and_ends(world: World, moves: list[Move], exists: bool) -> None:
    if exists:
        world.cloud.create("by hand")
    told(world, moves)
    assert not world.starts()
    assert world.ended


@QUICK
@given(worlds(CANCELLING), st.lists(PLAIN, max_size=30), st.sampled_from([moved("delete", delete), EDITS[0]]))
def test_a_run_that_nobody_wants_any_more_is_not_left_alive(world: World, moves: list[Move], stop: Move) -> None:
    told_until_stop = [*moves, stop]
    told(world, told_until_stop)
    assert not world.alive
    assert world.ended


@pytest.mark.parametrize("lateness", [125.0, 180.0, 220.0])
def test_a_start_that_arrives_later_than_assumed_is_ended_by_the_sweep(lateness: float) -> None:
    world = World.of(run(), POLICY, lateness=lateness)
    world.cloud.next_reply = Reply.LATE
    world.cloud.duration = 600.0
    world.settle()
    assert world.starts() == {MARK: 2}, "the assumption was to break"
    assert [known.stopping for known in world.cloud.runs] == [False, True]


@pytest.mark.parametrize("stop", [EDITS[0], moved("delete", delete)])
def test_a_start_that_arrives_after_its_object_was_cancelled_is_ended_too(stop: Move) -> None:
    world = World.of(run(), POLICY, lateness=180.0)
    world.cloud.next_reply, world.cloud.duration = Reply.LATE, 600.0
    world.watchers[0].work()
    stop(world)
    world.settle()
    assert [known.stopping for known in world.cloud.runs] == [True]
