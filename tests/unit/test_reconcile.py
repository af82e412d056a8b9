"""The loop, with a performer that does as it is told: who is looked at, and what a bad one costs the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest
from msgspec.structs import replace as changed

from dbtrun.api import DbtRun, Job, Metadata, Phase, Reason, Spec, Status
from tests.unit.lifecycle.builders import RUN, UID, facts, following, live, next_step, run, seen
from tests.unit.virtual import NOON, clock
from watcher.knowledge import Knowledge
from watcher.lifecycle.decide import Interest
from watcher.lifecycle.decisions import Connect, Decision, Event, Write
from watcher.lifecycle.facts import Observation, RunFacts, RunState, Trouble
from watcher.lifecycle.known import Known
from watcher.lifecycle.policy import Policy
from watcher.reconcile import BEGUN_AT_ONCE, CALM_SECONDS, FINISHED_AT_ONCE, STUCK_SECONDS, Reconciler
from watcher.telemetry.metrics import Metrics

pytestmark = pytest.mark.looptime


def suspended(name: str) -> DbtRun:
    """An object that settles with one connection-free write."""
    metadata = Metadata(name=name, namespace="n", uid=name, resource_version="1")
    return DbtRun(metadata=metadata, spec=Spec(job=Job(id=1), suspend=True))


def ready(name: str) -> DbtRun:
    """An object that wants a connection first."""
    run = suspended(name)
    return changed(run, spec=changed(run.spec, suspend=False))


@dataclass
class World:
    """The mirror and the performer in one."""

    runs: dict[str, DbtRun] = field(default_factory=dict)
    done: list[tuple[str, str]] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)
    restless: set[str] = field(default_factory=set)
    forgotten: list[str] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    stray: set[str] = field(default_factory=set)
    pause: float = 0.0
    rush: bool = False
    """Starts wait for others."""
    knowledge: Knowledge = field(init=False)

    def get(self, uid: str) -> DbtRun | None:
        return self.runs.get(uid)

    def rested(self, _uid: str) -> int:
        return 0

    def __len__(self) -> int:
        return len(self.runs)

    async def perform(self, decision: Decision, run: DbtRun, known: Known) -> Known:
        assert run.uid not in self.busy, "two at once for one object"
        self.busy.add(run.uid)
        try:
            await asyncio.sleep(self.pause)
            self.done.append((run.uid, type(decision).__name__))
            if run.uid in self.poison:
                raise RuntimeError("poison")
            if run.uid in self.stray:
                raise asyncio.CancelledError
            return self._carry_out(decision, run, known)
        finally:
            self.busy.discard(run.uid)

    def _carry_out(self, decision: Decision, run: DbtRun, known: Known) -> Known:
        match decision:
            case Write(status) if run.uid not in self.restless:
                self.runs[run.uid] = changed(self.runs[run.uid], status=status)
            case Connect():
                now = clock()
                trouble = Trouble(reason=Reason.UNREACHABLE, message="away", since=now, retry_at=now.mono + 60)
                return replace(known, trouble=replace(trouble, since=(known.trouble or trouble).since))
        return known

    def emit(self, run: DbtRun, event: Event) -> None:
        self.events.append((run.uid, event.reason, event.message))

    def follow(self, run: DbtRun, wanted: Interest | None) -> None:
        pass

    def interrupt(self, uid: str) -> None:
        self.interrupted.append(uid)

    def crowded(self, _uid: str) -> bool:
        return self.rush

    def forget(self, uid: str) -> None:
        self.forgotten.append(uid)


Loops = Callable[[World], Reconciler]


@pytest.fixture
async def loop_of() -> AsyncIterator[Loops]:
    """Makes the loop of a world; it is stopped at the end."""
    made: list[Reconciler] = []

    def make(world: World) -> Reconciler:
        knowledge = world.knowledge = Knowledge(clock, lambda uid: loop.wake(uid), lambda _uid, _reason: None)
        loop = Reconciler(world, knowledge, world, clock, Policy(), world.metrics, emit=world.emit)
        made.append(loop)
        return loop

    yield make
    for loop in made:
        await loop.stop(10)


async def test_a_transition_is_one_line_that_says_what_and_why(
    loop_of: Loops, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world = World({"a": suspended("a")})
    loop = loop_of(world)
    for _ in range(2):
        loop.wake("a")
        await asyncio.sleep(1)
    (line,) = caplog.records
    assert line.message == "Pending (Suspended): spec.suspend is true."
    assert (vars(line)["run"], vars(line)["phase"], vars(line)["reason"]) == ("n/a", "Pending", "Suspended")


async def test_an_object_is_worked_on_until_it_can_wait(loop_of: Loops) -> None:
    world = World({"a": suspended("a")})
    loop_of(world).wake("a")
    await asyncio.sleep(1)
    assert world.done == [("a", "Write")]
    assert world.runs["a"].status.phase is Phase.PENDING


async def test_an_object_whose_connection_was_mended_connects_without_waiting(loop_of: Loops) -> None:
    world = World({"a": ready("a")})
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(30)
    assert world.done.count(("a", "Connect")) == 1
    world.knowledge.mended(["a", "unknown"])
    await asyncio.sleep(1)
    assert world.done.count(("a", "Connect")) == 2


async def test_waking_during_work_looks_again_and_never_twice_at_once(loop_of: Loops) -> None:
    world = World({"a": suspended("a")}, pause=1)
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(0.5)
    world.runs["a"] = changed(world.runs["a"], metadata=changed(world.runs["a"].metadata, generation=2))
    loop.wake("a")
    await asyncio.sleep(5)
    assert world.runs["a"].status.observed_generation == 2


async def test_only_a_change_by_its_owner_interrupts_what_is_done_for_an_object(loop_of: Loops) -> None:
    world = World({"a": suspended("a")}, pause=5)
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(1)
    loop.wake("a")
    assert world.interrupted == []
    touched(world, "a", generation=2)
    loop.wake("a")
    assert world.interrupted == ["a"]


async def test_one_poison_object_does_not_slow_a_thousand_others(loop_of: Loops) -> None:
    names = [f"run-{n}" for n in range(1000)]
    world = World({name: suspended(name) for name in names}, poison={"run-7"})
    loop = loop_of(world)
    for name in names:
        loop.wake(name)
    await asyncio.sleep(300)
    assert all(world.runs[name].status.phase is Phase.PENDING for name in names if name != "run-7")
    assert 4 <= tries(world, "run-7") <= 20, "it is tried again, ever more rarely"


def touched(world: World, uid: str, generation: int = 1) -> None:
    """Somebody wrote the object; a higher generation: its owner changed what is wanted."""
    world.runs[uid] = changed(world.runs[uid], metadata=changed(world.runs[uid].metadata, generation=generation))


def tries(world: World, uid: str = "a") -> int:
    return [done for done, _ in world.done].count(uid)


async def test_others_who_write_a_failing_object_all_the_time_do_not_make_it_hot(loop_of: Loops) -> None:
    world = World({"a": suspended("a")}, poison={"a"})
    loop = loop_of(world)
    for _ in range(600):
        touched(world, "a")
        loop.wake("a")
        await asyncio.sleep(0.5)
    assert 4 <= tries(world) <= 20


async def test_a_failing_object_is_looked_at_at_once_when_its_owner_changes_it(loop_of: Loops) -> None:
    world = World({"a": suspended("a")}, poison={"a"})
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(200)
    before = tries(world)
    touched(world, "a", generation=2)
    loop.wake("a")
    await asyncio.sleep(0.01)
    assert tries(world) == before + 1


async def test_each_failure_is_one_line_that_names_the_object_and_when_it_is_tried_again(
    loop_of: Loops, caplog: pytest.LogCaptureFixture
) -> None:
    world = World({"a": suspended("a")}, poison={"a"})
    loop_of(world).wake("a")
    await asyncio.sleep(100)
    told = [vars(record) for record in caplog.records if record.levelname == "WARNING"]
    assert [line["failures"] for line in told] == list(range(1, tries(world) + 1))
    assert {line["run"] for line in told} == {"n/a"}
    assert told[0]["again_in"] <= 1 < told[3]["again_in"]


async def test_failing_objects_are_counted_until_they_are_well(loop_of: Loops) -> None:
    world = World({"a": suspended("a"), "b": suspended("b")}, poison={"a"})
    loop = loop_of(world)
    loop.wake("a")
    loop.wake("b")
    await asyncio.sleep(20)
    assert world.metrics.registry.get_sample_value("dbtrun_reconciles_failing") == 1
    world.poison.clear()
    await asyncio.sleep(120)
    assert world.metrics.registry.get_sample_value("dbtrun_reconciles_failing") == 0
    assert world.metrics.registry.get_sample_value("dbtrun_reconcile_failures_total") == tries(world) - 1


async def test_the_owner_of_a_failing_object_gets_an_event_now_and_then(loop_of: Loops) -> None:
    world = World({"a": suspended("a")}, poison={"a"})
    loop_of(world).wake("a")
    await asyncio.sleep(1_800)
    assert world.events[0] == (
        "a", "ReconcileFailed", "It failed 3 times in a row and is retried: RuntimeError"
    )  # fmt: skip
    assert 2 <= len(world.events) <= 6


async def test_a_task_that_is_cancelled_from_within_does_not_leave_its_object_alone(loop_of: Loops) -> None:
    world = World({"a": suspended("a")}, stray={"a"})
    loop_of(world).wake("a")
    await asyncio.sleep(30)
    assert tries(world) > 2
    world.stray.clear()
    await asyncio.sleep(60)
    assert world.runs["a"].status.phase is Phase.PENDING


async def test_steps_that_do_not_come_back_are_noticed_and_named(
    loop_of: Loops, caplog: pytest.LogCaptureFixture
) -> None:
    world = World({"a": suspended("a")}, pause=10_000)
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(STUCK_SECONDS + 1)
    for _ in range(2):
        loop.tell_stuck()
    assert loop.silent() == loop.oldest() == pytest.approx(STUCK_SECONDS + 1)
    assert [vars(record)["run"] for record in caplog.records] == ["n/a"]


async def test_one_step_that_does_not_come_back_is_no_reason_to_restart_all(loop_of: Loops) -> None:
    world = World({"a": suspended("a"), "b": ready("b")}, pause=10_000)
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(1)
    world.pause = 0.0
    for _ in range(600):
        loop.wake("b")
        await asyncio.sleep(1)
    assert loop.oldest() > STUCK_SECONDS
    assert loop.silent() < 100


async def test_nothing_to_do_is_not_silence(loop_of: Loops) -> None:
    world = World({"a": suspended("a")})
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(3_600)
    assert loop.silent() == 0


async def test_an_object_that_never_settles_is_paused(loop_of: Loops) -> None:
    world = World({"a": suspended("a")}, restless={"a"})
    loop_of(world).wake("a")
    await asyncio.sleep(60)
    assert len(world.done) < 40 * 10


async def test_a_vanished_object_is_forgotten(loop_of: Loops) -> None:
    world = World()
    loop_of(world).wake("a")
    await asyncio.sleep(1)
    assert world.forgotten == ["a"]


async def test_a_wait_ends_by_itself(loop_of: Loops) -> None:
    world = World({"a": ready("a")})
    loop_of(world).wake("a")
    await asyncio.sleep(200)
    assert world.done.count(("a", "Connect")) >= 2


async def test_stopping_waits_for_what_is_under_way_and_begins_nothing(loop_of: Loops) -> None:
    world = World({"a": suspended("a"), "b": suspended("b")}, pause=3)
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(1)
    await loop.stop(10)
    loop.wake("b")
    await asyncio.sleep(10)
    assert world.done == [("a", "Write")]


async def test_what_is_told_of_another_run_is_not_taken_for_news(loop_of: Loops) -> None:
    world = World({"a": suspended("a")})
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(1)
    facts = RunFacts(run_id=2, account_id=1, job_id=1, state=RunState.SUCCESS)
    world.knowledge.observed("a", 2, Observation(run=facts, at=clock()))
    await asyncio.sleep(1)
    assert world.done == [("a", "Write")]


def edited(name: str) -> DbtRun:
    """A finished object that was edited, so that its conditions have to be stamped again."""
    run = suspended(name)
    ended = Status(phase=Phase.CANCELLED, reason=Reason.DELETED, message="Over.", completion_time=NOON)
    return changed(run, status=ended, metadata=changed(run.metadata, generation=2))


async def test_finished_objects_are_written_in_portions_and_new_ones_first(loop_of: Loops) -> None:
    world = World({f"{n}": edited(f"{n}") for n in range(500)}, pause=1)
    loop = loop_of(world)
    for uid in tuple(world.runs):
        loop.wake(uid)
    await asyncio.sleep(0.5)
    assert len(world.busy) == FINISHED_AT_ONCE
    world.runs["new"] = suspended("new")
    loop.wake("new")
    await asyncio.sleep(0.1)
    assert "new" in world.busy
    await asyncio.sleep(500 / FINISHED_AT_ONCE + 5)
    assert {uid for uid, _ in world.done} == set(world.runs), "all are written in the end"


async def test_thousands_that_wake_together_let_the_loop_do_other_things(loop_of: Loops) -> None:
    world = World({f"{n}": suspended(f"{n}") for n in range(2_000)})
    loop = loop_of(world)
    for uid in tuple(world.runs):
        loop.wake(uid)
    most, before = 0, 0
    while len(world.done) < 2_000:
        await asyncio.sleep(0)
        most, before = max(most, len(world.busy)), len(world.done)
    assert 0 < most <= 2 * BEGUN_AT_ONCE
    assert before


async def test_a_status_that_cannot_be_written_is_remembered_until_one_is(loop_of: Loops) -> None:
    world = World({"a": suspended("a")}, poison={"a"})
    loop = loop_of(world)
    loop.wake("a")
    await asyncio.sleep(0.1)
    assert world.knowledge.of("a").unwritten
    world.poison.clear()
    await asyncio.sleep(5)
    assert not world.knowledge.of("a").unwritten


def begun(loop_of: Loops, *, rush: bool) -> World:
    """A run that dbt Cloud has begun, of which the status says that it is queued."""
    told = changed(live(Phase.QUEUED), observed_generation=1)
    world = World({UID: run(told)}, rush=rush)
    loop_of(world).wake(UID)
    world.knowledge.keep(UID, following(world.runs[UID], seen(facts(started_at=NOON))))
    return world


async def test_that_a_run_has_begun_is_told_at_once(loop_of: Loops) -> None:
    world = begun(loop_of, rush=False)
    await asyncio.sleep(0.1)
    assert world.runs[UID].status.phase is Phase.RUNNING


async def test_that_a_run_has_begun_is_told_in_time_while_starts_wait(loop_of: Loops) -> None:
    world = begun(loop_of, rush=True)
    await asyncio.sleep(Policy().news_grace - 0.1)
    assert world.done == []
    await asyncio.sleep(0.2)
    assert world.runs[UID].status.phase is Phase.RUNNING


async def test_that_a_run_has_begun_is_told_as_soon_as_no_starts_wait(loop_of: Loops) -> None:
    world = begun(loop_of, rush=True)
    await asyncio.sleep(3)
    world.rush = False
    await asyncio.sleep(CALM_SECONDS + 0.1)
    assert world.runs[UID].status.phase is Phase.RUNNING


async def test_an_object_with_nothing_to_tell_any_more_is_left_alone(loop_of: Loops) -> None:
    world = begun(loop_of, rush=True)
    await asyncio.sleep(0.1)
    told = next_step(world.runs[UID], world.knowledge.of(UID), 0)
    assert isinstance(told, Write)
    world.runs[UID] = changed(world.runs[UID], status=told.status)
    world.rush = False
    await asyncio.sleep(CALM_SECONDS + 0.1)
    looked = world.metrics.reconciles._value.get()
    await asyncio.sleep(10)
    assert world.metrics.reconciles._value.get() == looked
    assert world.done == []


async def test_an_end_is_told_at_once_while_starts_wait(loop_of: Loops) -> None:
    world = begun(loop_of, rush=True)
    await asyncio.sleep(0.1)
    ended = facts(RunState.SUCCESS, started_at=NOON, finished_at=NOON)
    world.knowledge.observed(UID, RUN, seen(ended, 30))
    await asyncio.sleep(0.1)
    assert world.done.count((UID, "Write")) == 1
    assert world.runs[UID].status.phase is Phase.SUCCEEDED
