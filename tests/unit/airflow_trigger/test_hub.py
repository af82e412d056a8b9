from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from airflow_trigger.shared.objects import Denied, Gone, Seen, State
from airflow_trigger.waiting.hub import Hub, Listener, Pace, Subscription
from airflow_trigger.waiting.runs import Listing, Runs, read
from dbtrun.kube.errors import Expired, Forbidden, Rejected, Unreachable
from dbtrun.kube.watch import Added, Progress, Removed
from tests.unit.airflow_trigger.fakes import FakeRuns, dbtrun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.looptime]

ADOPTING = {"metadata": {"name": "run-5"}, "spec": {"runId": 5}}


@pytest.fixture
def cluster() -> FakeRuns:
    return FakeRuns()


@asynccontextmanager
async def watching(cluster: FakeRuns, pace: Pace = Pace()) -> AsyncIterator[Hub]:  # noqa: B008 - immutable
    @asynccontextmanager
    async def source() -> AsyncIterator[Runs]:
        yield cluster

    hub = Hub(source, pace)
    try:
        yield hub
    finally:
        await hub.close()


def waiter(hub: Hub, name: str = "nightly") -> Subscription:
    subscription = Subscription(hub, name)
    hub.join(subscription)
    return subscription


async def told(subscription: Subscription, seconds: float = 60.0) -> State:
    async with asyncio.timeout(seconds):
        return await anext(subscription)


async def phase(subscription: Subscription) -> str:
    state = await told(subscription)
    assert isinstance(state, Seen), state
    return state.run.status.phase


async def told_nothing(subscription: Subscription, seconds: float = 5.0) -> bool:
    try:
        await told(subscription, seconds)
    except TimeoutError:
        return True
    return False


async def test_a_waiter_is_told_how_it_is_and_then_each_change(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Queued"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        assert await phase(states) == "Queued"
        cluster.put(dbtrun(version=6, phase="Running"))
        assert await phase(states) == "Running"


async def test_a_late_waiter_is_told_from_memory(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Succeeded"))
    async with watching(cluster) as hub:
        await phase(waiter(hub))
        requests = cluster.lists, cluster.gets
        assert await phase(waiter(hub)) == "Succeeded"
        assert (cluster.lists, cluster.gets) == requests


async def test_a_slow_reader_is_told_the_newest_state(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Queued"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.put(dbtrun(version=6, phase="Running"))
        cluster.put(dbtrun(version=7, phase="Succeeded"))
        await asyncio.sleep(1)
        assert await phase(states) == "Succeeded"
        assert await told_nothing(states)


async def test_a_change_that_no_waiter_reads_wakes_nobody(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running", progress="1/5"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.put(dbtrun(version=6, phase="Running", progress="2/5"))
        assert await told_nothing(states)
        cluster.put(dbtrun(version=7, phase="Running", deleting=True))
        assert isinstance(await told(states), Seen)


async def test_nobody_is_told_of_another_object(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Queued"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.put(dbtrun("other", version=6, phase="Failed"))
        assert await told_nothing(states)


async def test_an_object_that_the_watch_has_not_told_of_yet_is_found(cluster: FakeRuns) -> None:
    async with watching(cluster) as hub:
        assert await told(waiter(hub, "other")) == Gone()
        cluster.put(dbtrun(version=9, phase="Running"), told=False)
        assert await phase(waiter(hub)) == "Running"


async def test_an_answer_from_the_past_does_not_revive_a_deleted_object(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Succeeded"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        before = cluster.objects["nightly"]
        cluster.remove("nightly")
        assert isinstance(await told(states), Gone)
        assert hub.observe(before) == Gone(before)


async def test_one_deleted_in_the_middle_is_gone_after_the_next_look(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.remove("nightly", told=False)
        assert isinstance(await told(states, hub.pace.recheck + 1), Gone)


async def test_one_made_again_in_the_middle_is_told_after_the_next_look(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, uid="old", phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.remove("nightly", told=False)
        cluster.put(dbtrun(version=8, uid="new", phase="Running"), told=False)
        state = await told(states, hub.pace.recheck + 1)
        assert isinstance(state, Seen)
        assert state.run.metadata.uid == "new"


async def test_one_that_is_no_longer_live_is_asked_for_before_it_is_called_gone(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.put(dbtrun(version=6, phase="Succeeded"), told=False)
        state = await told(states, hub.pace.recheck + 1)
        assert isinstance(state, Seen)
        assert state.run.final


async def test_one_that_only_left_the_selection_is_not_gone(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Paused"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.put(dbtrun(version=6, phase="Running"), told=False)
        cluster.say(Removed(dbtrun(version=6, phase="Paused"), "6"))
        assert await phase(states) == "Running"


async def test_looks_that_find_nothing_new_wake_nobody(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        assert await told_nothing(states, 10 * hub.pace.recheck)
        assert (cluster.looks, cluster.gets) == (9, 0)


async def test_what_a_look_finds_the_same_is_in_memory_once(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running", progress="1/5"))
    async with watching(cluster) as hub:
        first = await told(waiter(hub))
        cluster.put(dbtrun(version=6, phase="Running", progress="2/5"), told=False)
        await asyncio.sleep(hub.pace.recheck + 1)
        later = await told(waiter(hub))
        assert isinstance(first, Seen)
        assert isinstance(later, Seen)
        assert (first.run.metadata.version, later.run.metadata.version) == (5, 6)
        assert later.run.status is first.run.status


async def test_a_look_that_fails_is_no_news(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    cluster.fail("live", Unreachable("timeout"), Forbidden("cannot list"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        assert await told_nothing(states, 2.5 * hub.pace.recheck)
        cluster.remove("nightly", told=False)
        assert isinstance(await told(states), Gone)


async def test_a_look_from_the_past_does_not_undo_an_end(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        before = Listing(dict(cluster.objects), "5")
        cluster.put(dbtrun(version=6, phase="Succeeded"))
        assert await phase(states) == "Succeeded"
        await hub._compare(before)
        assert await phase(waiter(hub)) == "Succeeded"
        assert await told_nothing(states)


async def test_an_old_event_does_not_undo_what_an_answer_said(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, uid="old", phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        hub.observe(dbtrun(version=9, uid="new", phase="Queued"))
        assert await phase(states) == "Queued"
        cluster.say(Added(dbtrun(version=7, uid="old", phase="Failed"), "7"))
        assert await told_nothing(states)


async def test_an_old_answer_does_not_undo_what_the_watch_said(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.put(dbtrun(version=6, phase="Succeeded"))
        assert await phase(states) == "Succeeded"
        assert hub.observe(dbtrun(version=5, phase="Running")) == Seen(cluster.objects["nightly"])
        assert await told_nothing(states)


async def test_a_deletion_is_told_with_the_last_words(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Cancelled"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.remove("nightly")
        state = await told(states)
        assert isinstance(state, Gone)
        assert state.last is not None
        assert state.last.status.phase == "Cancelled"


async def test_a_deletion_that_the_watch_missed_is_told_after_the_next_list(cluster: FakeRuns) -> None:
    last = dbtrun(version=5, phase="Running")
    cluster.put(last)
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.remove("nightly", told=False)
        cluster.say(Expired("too old resource version"))
        assert await told(states) == Gone(last)


async def test_an_object_created_during_a_list_is_not_taken_for_deleted(cluster: FakeRuns) -> None:
    cluster.lagging = True
    async with watching(cluster) as hub:
        states = waiter(hub, "run-5")
        assert await told(states) == Gone()
        await states.create(ADOPTING)
        assert isinstance(await told(states), Seen)
        run = cluster.objects.pop("run-5")
        cluster.version = run.metadata.version - 1  # the list was taken just before the creation
        cluster.say(Unreachable("cut"))
        assert isinstance(await told(states), Seen)


async def test_an_api_server_restored_from_a_backup_is_believed(cluster: FakeRuns) -> None:
    cluster.lagging = True
    async with watching(cluster) as hub:
        states = waiter(hub, "run-5")
        await told(states)
        await states.create(ADOPTING)
        await told(states)
        run = cluster.objects["run-5"]
        cluster.say(Added(dbtrun("run-5", version=50, uid=run.metadata.uid), "50"))
        await told(states)
        del cluster.objects["run-5"]
        cluster.version = 3
        cluster.say(Unreachable("restored"))
        assert isinstance(await told(states), Gone)


@pytest.mark.parametrize("trouble", [Expired("410"), Unreachable("cut"), None])
async def test_a_change_during_trouble_is_told_after_it(
    cluster: FakeRuns, trouble: Expired | Unreachable | None
) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.say(trouble)
        await asyncio.sleep(0)
        cluster.put(dbtrun(version=6, phase="Succeeded"), told=trouble is None)
        if trouble is None:
            cluster.say(Added(dbtrun(version=6, phase="Succeeded"), "6"))
        while await phase(states) != "Succeeded":
            pass


async def test_a_watch_that_the_server_ends_in_peace_goes_on_without_a_list(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.say(None)
        await asyncio.sleep(1)
        assert (cluster.watches, cluster.lists) == (2, 1)


async def test_outages_are_no_news_and_do_not_become_a_hot_loop(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.fail("list", *(Unreachable("connection refused") for _ in range(10_000)))
        cluster.say(Unreachable("cut"))
        assert await told_nothing(states, 600.0)
        assert cluster.lists < 60


async def test_after_an_outage_the_next_trouble_is_met_quickly_again(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    cluster.fail("list", *(Unreachable("connection refused") for _ in range(20)))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await told(states, 3600.0)
        for _ in range(3):
            cluster.say(Unreachable("cut"))
            await told(states, 0.5)
            await asyncio.sleep(0.1)


async def test_watches_that_end_without_a_word_do_not_become_a_hot_loop(cluster: FakeRuns) -> None:
    cluster.mute = True
    async with watching(cluster):
        await asyncio.sleep(600.0)
        assert 2 < cluster.watches < 60


async def test_a_server_that_asks_for_a_pause_gets_it(cluster: FakeRuns) -> None:
    cluster.fail("list", Unreachable("HTTP 429", retry_after=20.0))
    async with watching(cluster) as hub:
        await told(waiter(hub))
        assert asyncio.get_running_loop().time() >= 20.0


async def test_a_refusal_is_told_to_all_and_again_until_it_is_mended(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    cluster.fail("list", Forbidden("cannot list"), Forbidden("cannot list"))
    async with watching(cluster) as hub:
        one, two = waiter(hub), waiter(hub)
        for states in (one, two):
            assert await told(states) == Denied("cannot list")
        assert await told(one) == Denied("cannot list")
        assert await told(waiter(hub)) == Denied("cannot list")
        assert await phase(one) == "Running"
        assert await phase(waiter(hub)) == "Running"


async def test_a_refusal_of_the_single_look_is_told_too(cluster: FakeRuns) -> None:
    cluster.fail("get", Forbidden("cannot get"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        assert await told(states) == Denied("cannot get")
        assert await told(states) == Gone()


async def test_an_outage_during_the_single_look_does_not_end_the_wait(cluster: FakeRuns) -> None:
    cluster.fail("get", Unreachable("timeout"), Unreachable("timeout"))
    async with watching(cluster) as hub:
        assert await told(waiter(hub)) == Gone()
        assert cluster.gets == 3


async def test_an_outage_of_the_single_look_does_not_become_a_hot_loop(cluster: FakeRuns) -> None:
    cluster.fail("get", *(Unreachable("timeout") for _ in range(10_000)))
    async with watching(cluster) as hub:
        assert await told_nothing(waiter(hub), 600.0)
        assert 2 < cluster.gets < 60


async def test_an_absent_object_is_asked_for_once(cluster: FakeRuns) -> None:
    async with watching(cluster) as hub:
        states = waiter(hub)
        assert await told(states) == Gone()
        assert await told_nothing(states, 30.0)
        assert cluster.gets == 1


async def test_a_created_object_is_the_next_state(cluster: FakeRuns) -> None:
    cluster.lagging = True
    async with watching(cluster) as hub:
        states = waiter(hub, "run-5")
        await told(states)
        await states.create(ADOPTING)
        state = await told(states)
        assert isinstance(state, Seen)
        assert state.run.spec.run_id == 5


async def test_two_who_create_the_same_object_share_it(cluster: FakeRuns) -> None:
    cluster.lagging = True
    async with watching(cluster) as hub:
        one, two = waiter(hub, "run-5"), waiter(hub, "run-5")
        await told(one)
        await told(two)
        await asyncio.gather(one.create(ADOPTING), two.create(ADOPTING))
        assert await told(one) == await told(two) == Seen(cluster.objects["run-5"])


async def test_creating_what_somebody_else_created_is_joining_it(cluster: FakeRuns) -> None:
    async with watching(cluster) as hub:
        states = waiter(hub, "run-5")
        await told(states)
        cluster.put(dbtrun("run-5", version=9, spec={"runId": 5}), told=False)
        await states.create(ADOPTING)
        assert await told(states) == Seen(cluster.objects["run-5"])


async def test_a_creation_without_an_answer_is_tried_again(cluster: FakeRuns) -> None:
    cluster.fail("create", Unreachable("timeout"))
    async with watching(cluster) as hub:
        states = waiter(hub, "run-5")
        await told(states)
        await states.create(ADOPTING)
        assert await told(states) == Gone()
        await states.create(ADOPTING)
        assert isinstance(await told(states), Seen)


async def test_a_refused_creation_is_told_and_may_be_tried_again(cluster: FakeRuns) -> None:
    cluster.fail("create", Forbidden("cannot create"))
    async with watching(cluster) as hub:
        states = waiter(hub, "run-5")
        await told(states)
        await states.create(ADOPTING)
        assert await told(states) == Denied("cannot create")
        assert await told(states) == Gone()


async def test_an_object_that_breaks_the_schema_is_the_callers_error(cluster: FakeRuns) -> None:
    cluster.fail("create", Rejected("spec.runId: Invalid value"))
    async with watching(cluster) as hub:
        states = waiter(hub, "run-5")
        await told(states)
        with pytest.raises(Rejected, match=r"spec\.runId"):
            await states.create(ADOPTING)


async def test_a_client_that_cannot_be_made_is_told_and_tried_again(
    cluster: FakeRuns, caplog: pytest.LogCaptureFixture
) -> None:
    broken = True

    @asynccontextmanager
    async def source() -> AsyncIterator[Runs]:
        if broken:
            raise RuntimeError("Could not determine home directory.")
        yield cluster

    cluster.put(dbtrun(version=5, phase="Queued"))
    hub = Hub(source, Pace())
    try:
        states = waiter(hub)
        assert await told(states) == Denied(
            "the Kubernetes client cannot be used (RuntimeError): see this process's log"
        )
        assert "Could not determine home directory." in caplog.text
        broken = False
        assert await phase(states) == "Queued"
    finally:
        await hub.close()


async def test_the_unforeseen_is_logged_and_survived(cluster: FakeRuns, caplog: pytest.LogCaptureFixture) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        states = waiter(hub)
        await phase(states)
        cluster.say(Progress("not a number"))
        with caplog.at_level(logging.ERROR):
            assert await phase(states) == "Running"
        assert "nexpected error" in caplog.text


async def test_the_watch_runs_outside_of_the_first_waiters_context(cluster: FakeRuns) -> None:
    task_log: contextvars.ContextVar[str] = contextvars.ContextVar("task_log", default="none")
    seen: list[str] = []

    @asynccontextmanager
    async def source() -> AsyncIterator[Runs]:
        seen.append(task_log.get())
        yield cluster

    task_log.set("the first task's log")
    hub = Hub(source)
    await told(waiter(hub))
    await hub.close()
    assert seen == ["none"]


# ── listeners: all ends of a namespace ──


def listener(hub: Hub) -> Listener:
    found = Listener(hub)
    hub.join_listener(found)
    return found


async def ended(reader: Listener, seconds: float = 5.0) -> list[str]:
    return [run.metadata.name for run in await reader.take(seconds)]


async def test_a_listener_is_told_each_end_once_whatever_is_written_after_it(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        reader = listener(hub)
        assert await ended(reader) == []
        cluster.put(dbtrun(version=6, phase="Succeeded"))
        assert await ended(reader) == ["nightly"]
        cluster.put(dbtrun(version=7, phase="Succeeded", results={"counts": {"pass": 1}}))
        assert await ended(reader) == []


async def test_an_object_of_the_same_name_that_ends_again_is_another_one(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, uid="u1", phase="Failed"))
    async with watching(cluster) as hub:
        reader = listener(hub)
        await ended(reader)
        cluster.put(dbtrun(version=6, uid="u2", phase="Succeeded"))
        assert await ended(reader) == ["nightly"]


async def test_a_listener_is_told_what_ended_while_the_watch_was_cut(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        reader = listener(hub)
        await ended(reader)
        cluster.put(dbtrun(version=6, phase="Succeeded"), told=False)
        cluster.put(dbtrun("other", version=7, uid="u2", phase="Failed"), told=False)
        cluster.say(Expired("too old"))
        assert await ended(reader) == ["nightly", "other"]


async def test_a_listener_is_told_an_end_that_came_with_the_deletion(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        reader = listener(hub)
        await ended(reader)
        cluster.put(dbtrun(version=6, phase="Succeeded"), told=False)
        cluster.remove("nightly")
        assert await ended(reader) == ["nightly"]


async def test_a_listener_sees_what_was_over_before_it_joined(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Succeeded"))
    cluster.put(dbtrun("live", version=6, phase="Running"))
    async with watching(cluster) as hub:
        await asyncio.sleep(1)
        reader = listener(hub)
        assert reader.synced
        assert [run.metadata.name for run in reader.finished()] == ["nightly"]


async def test_two_hundred_listeners_and_a_waiter_share_one_watch(cluster: FakeRuns) -> None:
    cluster.put(dbtrun(version=5, phase="Running"))
    async with watching(cluster) as hub:
        readers, states = [listener(hub) for _ in range(200)], waiter(hub)
        await phase(states)
        for reader in readers:
            await reader.take(1)
        cluster.put(dbtrun(version=6, phase="Succeeded"))
        assert await phase(states) == "Succeeded"
        assert all([await ended(reader) == ["nightly"] for reader in readers])
        assert (cluster.lists, cluster.watches, cluster.gets) == (1, 1, 0)


async def test_a_listener_that_left_is_told_nothing(cluster: FakeRuns) -> None:
    async with watching(cluster) as hub:
        reader = listener(hub)
        await ended(reader)
        hub.leave_listener(reader)
        cluster.put(dbtrun(version=6, phase="Succeeded"))
        assert await ended(reader) == []


def test_labels_that_tell_the_tries_of_a_task_apart_are_not_kept_and_others_are_in_memory_once() -> None:
    labels = {"team": "finance", "airflow.dbtrun.dev/dag-id": "nightly", "airflow.dbtrun.dev/task-id": "run"}

    def read_with(**more: str) -> dict[str, str]:
        metadata = {"name": "n", "uid": "u", "resourceVersion": "1", "labels": labels | more}
        return read(json.dumps({"metadata": metadata, "spec": {}}).encode()).metadata.labels

    first = read_with(**{"airflow.dbtrun.dev/try": "1", "airflow.dbtrun.dev/run-id": "a"})
    assert first == labels
    assert read_with(**{"airflow.dbtrun.dev/try": "2", "airflow.dbtrun.dev/run-id": "b"}) is first
