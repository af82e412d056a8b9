"""The poller against an account in memory, under a clock that jumps: an hour of polling takes milliseconds."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx
import pytest

from dbtrun.api import Reason
from tests.unit.dbtcloud import account
from tests.unit.dbtcloud.heard import Heard
from tests.unit.virtual import JUMPING, NOON, clock, now
from tests.unit.world.dbtcloud import DbtCloud
from watcher.dbtcloud.poller import Poller
from watcher.lifecycle.facts import Observation, RunState, Trouble
from watcher.simulator.model import Status

pytestmark = JUMPING

USERS = ("everybody",)
"""The objects of the connection."""
PATIENCE: Final = 1_000_000.0
"""Seconds of a request: the client would give up one that hangs before the poller shows that it does."""
DOWN: Final = httpx.ConnectError("down")


@dataclass
class Scene:
    cloud: DbtCloud
    poller: Poller
    heard: Heard

    @property
    def troubles(self) -> list[tuple[float, Trouble]]:
        """Of the connection."""
        return [(at, trouble) for at, uids, trouble in self.heard.troubles if uids == USERS]

    @property
    def unreadables(self) -> list[tuple[str, Trouble]]:
        """Of single runs."""
        return [(uid, trouble) for _, uids, trouble in self.heard.troubles if uids != USERS for uid in uids]

    @property
    def answers(self) -> list[float]:
        assert {uids for _, uids in self.heard.answers} <= {USERS}
        return [at for at, _ in self.heard.answers]

    def follow(self, ids: Iterable[int], interval: float = 60.0) -> None:
        self.cloud.add(ids)
        for run_id in ids:
            self.poller.follow(str(run_id), run_id, interval)

    def seen(self, uid: str) -> list[float]:
        return [at for at, other, _ in self.heard.observations if other == uid]

    def ended_at(self, uid: str) -> float:
        return next(at for at, other, o in self.heard.observations if other == uid and o.run and o.run.state.over)


@asynccontextmanager
async def polling(jitter: float = 1.0) -> AsyncIterator[Scene]:
    cloud, heard = DbtCloud(latency=0.2), Heard()
    poller = Poller(cloud.client(total_seconds=PATIENCE), heard, lambda: USERS, clock=clock, jitter=lambda: jitter)
    heard.on_end = poller.unfollow
    task = asyncio.create_task(poller.run())
    try:
        yield Scene(cloud, poller, heard)
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_nothing_is_asked_while_nothing_is_followed() -> None:
    async with polling() as scene:
        await asyncio.sleep(3600)
        assert scene.cloud.asked == []
        scene.follow([1])
        await asyncio.sleep(30)
        scene.poller.unfollow("1")
        await asyncio.sleep(10)
        before = len(scene.cloud.asked)
        await asyncio.sleep(3600)
        assert len(scene.cloud.asked) == before > 0


async def test_a_run_is_polled_soon_after_it_is_followed_and_then_at_its_interval() -> None:
    async with polling() as scene:
        start = now()
        scene.follow([1], interval=30)
        await asyncio.sleep(100)
        assert [at - start for at in scene.seen("1")] == pytest.approx([1.2, 31.2, 61.2, 91.2])


async def test_a_slow_dbt_cloud_is_asked_at_the_interval_too() -> None:
    async with polling() as scene:
        scene.cloud.latency = 12.0
        scene.follow([1], interval=30)
        await asyncio.sleep(110)
        assert len(scene.seen("1")) == 4


async def test_a_run_may_be_followed_from_a_later_time_on() -> None:
    async with polling() as scene:
        scene.cloud.add([1])
        scene.poller.follow("a", 1, 30, due=now() + 20)
        start = now()
        await asyncio.sleep(25)
        assert [at - start for at in scene.seen("a")] == pytest.approx([20.2])


async def test_runs_that_come_together_are_polled_together() -> None:
    async with polling() as scene:
        scene.follow(range(1, 101))
        await asyncio.sleep(3)
        assert scene.cloud.requests("pk__in") == 1
        assert len(scene.heard.observations) == 100


async def test_runs_that_keep_coming_share_their_first_poll() -> None:
    async with polling() as scene:
        await asyncio.sleep(10)
        for run_id in range(1, 91):
            scene.follow([run_id])
            await asyncio.sleep(1 / 3)
        await asyncio.sleep(5.5)
        assert len({uid for _, uid, _ in scene.heard.observations}) == 90
        assert scene.cloud.requests("pk__in") <= 8


async def test_a_thousand_runs_cost_ten_batches_a_minute_and_the_feed() -> None:
    async with polling() as scene:
        scene.follow(range(1, 1001))
        await asyncio.sleep(120)
        start = now()
        await asyncio.sleep(180)
        assert scene.cloud.requests("pk__in", start) <= 30
        assert scene.cloud.requests("finished_at__range", start) <= 36
        assert scene.cloud.requests("run") == scene.cloud.requests("status__in") == 0
        last = max(scene.seen("1"))
        assert now() - last <= 61


async def test_runs_that_come_one_by_one_cost_no_more() -> None:
    async with polling() as scene:
        for run_id in range(1, 501):
            scene.follow([run_id])
            await asyncio.sleep(0.25)
        await asyncio.sleep(300)
        start = now()
        await asyncio.sleep(300)
        assert scene.cloud.requests("pk__in", start) <= 30


async def test_intervals_are_kept_for_everybody() -> None:
    async with polling() as scene:
        scene.follow(range(1, 151), interval=60)
        scene.follow([1000], interval=5)
        scene.follow([2000], interval=3600)
        await asyncio.sleep(600)
        for uid, interval in (("1", 60), ("150", 60), ("1000", 5)):
            seen = scene.seen(uid)
            assert max(b - a for a, b in itertools.pairwise(seen)) <= interval + 1
        assert len(scene.seen("2000")) < 5


async def test_an_end_is_seen_within_seconds_whatever_the_interval() -> None:
    async with polling() as scene:
        scene.follow(range(1, 501), interval=3600)
        await asyncio.sleep(100)
        ended = now()
        scene.cloud.end([7, 8], Status.ERROR)
        await asyncio.sleep(20)
        assert scene.ended_at("7") - ended < 6
        assert scene.ended_at("8") - ended < 6
        assert scene.cloud.requests("pk__in", ended) == 0


async def test_an_end_is_told_once_by_the_feed_though_its_windows_overlap() -> None:
    async with polling() as scene:
        scene.heard.on_end = lambda uid: None
        scene.follow([1], interval=3600)
        await asyncio.sleep(100)
        scene.cloud.end([1])
        await asyncio.sleep(100)
        assert sum(o.run is not None and o.run.state.over for _, _, o in scene.heard.observations) == 1


@pytest.mark.parametrize("ahead", [timedelta(minutes=-10), timedelta(minutes=10)])
async def test_the_feed_keeps_dbt_clouds_clock(ahead: timedelta) -> None:
    async with polling() as scene:
        scene.cloud.simulator.set_clock(None, ahead.total_seconds())
        scene.follow([1], interval=3600)
        await asyncio.sleep(100)
        ended = now()
        scene.cloud.end([1])
        await asyncio.sleep(20)
        assert scene.ended_at("1") - ended < 6


async def test_the_feed_waits_until_dbt_clouds_clock_is_known() -> None:
    async with polling() as scene:
        scene.cloud.latency = 7.0
        scene.follow([1], interval=3600)
        await asyncio.sleep(30)
        assert scene.cloud.requests("finished_at__range", since=8) == scene.cloud.requests("finished_at__range") > 0


async def test_an_end_that_appears_late_in_the_feed_is_seen_when_it_appears() -> None:
    async with polling() as scene:
        scene.follow([1], interval=3600)
        await asyncio.sleep(100)
        ended = now()
        scene.cloud.end([1], listed_after=12)
        await asyncio.sleep(30)
        assert 12 < scene.ended_at("1") - ended < 12 + 6


async def test_the_ends_of_other_peoples_runs_are_nobodys_business() -> None:
    async with polling() as scene:
        scene.follow([1])
        await asyncio.sleep(10)
        scene.cloud.end(range(100, 150))
        await asyncio.sleep(20)
        assert {uid for _, uid, _ in scene.heard.observations} == {"1"}


async def test_where_others_finish_more_than_we_follow_the_batches_take_the_feeds_part() -> None:
    async with polling() as scene:
        scene.follow([1], interval=3600)
        run_id = 1000

        async def bustle() -> None:
            nonlocal run_id
            while True:
                scene.cloud.end(range(run_id, run_id + 50))
                run_id += 50
                await asyncio.sleep(1)

        others = asyncio.create_task(bustle())
        await asyncio.sleep(100)
        start = now()
        await asyncio.sleep(300)
        assert scene.cloud.requests("finished_at__range", start) <= 11
        assert scene.cloud.requests("pk__in", start) <= 63
        ended = now()
        scene.cloud.end([1])
        await asyncio.sleep(20)
        assert scene.ended_at("1") - ended < 6
        others.cancel()


async def test_when_the_bustle_is_over_the_feed_is_used_again() -> None:
    async with polling() as scene:
        scene.follow([1], interval=3600)
        await asyncio.sleep(10)
        scene.cloud.end(range(1000, 2000))
        await asyncio.sleep(200)
        start = now()
        await asyncio.sleep(600)
        assert scene.cloud.requests("pk__in", start) <= 2
        assert scene.cloud.requests("finished_at__range", start) >= 110


async def test_ten_thousand_runs_after_a_restart_are_polled_within_a_minute_without_a_burst() -> None:
    async with polling() as scene:
        scene.follow(range(1, 10_001))
        await asyncio.sleep(60)
        assert {uid for _, uid, _ in scene.heard.observations} == {str(run_id) for run_id in range(1, 10_001)}
        by_second = Counter(int(at) for at, kind, _ in scene.cloud.asked if kind == "pk__in")
        assert max(by_second.values()) <= 5


async def test_a_slow_dbt_cloud_makes_ten_thousand_runs_hardly_late() -> None:
    async with polling() as scene:
        scene.cloud.latency = 2.0
        scene.follow(range(1, 10_001))
        await asyncio.sleep(60)
        assert len({uid for _, uid, _ in scene.heard.observations}) == 10_000


async def test_a_run_that_is_not_listed_is_asked_for_alone() -> None:
    async with polling() as scene:
        scene.follow([1, 2])
        scene.cloud.hide([2])
        await asyncio.sleep(3)
        assert scene.cloud.requests("run") == 1
        assert [o.run and o.run.run_id for _, uid, o in scene.heard.observations if uid == "2"] == [2]


async def test_a_run_that_is_gone_is_told_as_gone() -> None:
    async with polling() as scene:
        scene.poller.follow("a", 404, 30)
        await asyncio.sleep(3)
        assert [o.run for _, _, o in scene.heard.observations] == [None]
        assert scene.cloud.requests("run") == 1


async def test_a_run_that_cannot_be_read_is_its_own_trouble() -> None:
    async with polling() as scene:
        scene.follow([1, 2], interval=30)
        scene.cloud.shown[2] = {"status": 77, "in_progress": None}
        await asyncio.sleep(40)
        assert {(uid, trouble.reason) for uid, trouble in scene.unreadables} == {("2", Reason.SERVER_ERROR)}
        assert len({trouble.since for _, trouble in scene.unreadables}) == 1
        assert scene.troubles == []
        assert len(scene.seen("1")) == 2


async def test_a_run_that_the_token_may_not_see_is_its_own_trouble() -> None:
    async with polling() as scene:
        scene.follow([1, 2], interval=30)
        scene.cloud.hide([2])
        scene.cloud.broken["run"] = account.refusal(403, "no")
        await asyncio.sleep(3)
        assert [(uid, trouble.reason) for uid, trouble in scene.unreadables] == [("2", Reason.FORBIDDEN)]
        assert scene.troubles == []


async def test_without_the_filter_by_id_live_runs_are_listed_and_the_others_asked_for_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with polling() as scene:
        scene.cloud.ignore("pk__in")
        scene.follow(range(1, 251), interval=60)
        scene.cloud.add(range(1000, 1100))
        scene.cloud.end([7])
        await asyncio.sleep(600)
        assert scene.cloud.requests("pk__in") == 1
        assert scene.cloud.requests("status__in") <= 4 * 11 + 4
        assert scene.cloud.requests("run") <= 1
        assert scene.ended_at("7") < 10
        seen = scene.seen("100")
        assert max(b - a for a, b in itertools.pairwise(seen)) <= 62
        assert scene.poller.fallbacks == ("pk__in",)
        assert caplog.text.count("ignores the filter pk__in") == 1


async def test_without_any_filter_runs_are_asked_for_one_by_one() -> None:
    async with polling() as scene:
        scene.cloud.ignore("pk__in", "status__in", "finished_at__range")
        # Lists that ignore their filter show these: they are newer by their ids, and ended first.
        scene.cloud.add(range(1000, 1100), Status.SUCCESS, finished=NOON - timedelta(hours=1))
        scene.follow(range(1, 6), interval=60)
        await asyncio.sleep(125)
        assert [len(scene.seen(str(run_id))) for run_id in range(1, 6)] == [3] * 5
        assert scene.poller.fallbacks == ("finished_at__range", "pk__in", "status__in")
        assert (scene.cloud.requests("status__in"), scene.cloud.requests("finished_at__range")) == (1, 1)


async def test_an_ignored_filter_is_tried_again_after_an_hour() -> None:
    async with polling() as scene:
        scene.cloud.ignore("pk__in")
        scene.cloud.add([1000])
        scene.follow([1])
        await asyncio.sleep(10)
        assert list(scene.poller.fallbacks) == ["pk__in"]
        scene.cloud.simulator.faults.clear()
        await asyncio.sleep(3700)
        assert scene.poller.fallbacks == ()


async def test_a_list_by_id_that_always_fails_is_given_up_for_the_other_ways() -> None:
    async with polling() as scene:
        scene.cloud.broken["pk__in"] = httpx.Response(500)
        scene.follow([1, 2])
        await asyncio.sleep(30)
        assert {uid for _, uid, _ in scene.heard.observations} == {"1", "2"}
        assert scene.poller.fallbacks == ("pk__in",)


async def test_silence_is_told_since_when_and_asked_again_with_backoff() -> None:
    async with polling(jitter=1.0) as scene:
        scene.follow(range(1, 301), interval=5)
        await asyncio.sleep(20)
        for kind in ("pk__in", "run", "status__in", "finished_at__range"):
            scene.cloud.broken[kind] = DOWN
        start = now()
        await asyncio.sleep(600)
        tries = [at for at, _ in scene.troubles]
        waits = [b - a for a, b in itertools.pairwise(tries)]
        assert waits[:5] == pytest.approx([2.2, 4.2, 8.2, 16.2, 32.2])
        assert waits[5:] == pytest.approx([60.2] * len(waits[5:]))
        assert len({trouble.since for _, trouble in scene.troubles}) == 1
        assert scene.troubles[0][1].since.mono - start < 6
        assert {trouble.reason for _, trouble in scene.troubles} == {Reason.UNREACHABLE}
        assert scene.cloud.requests(since=start) <= 20


async def test_batches_that_fail_together_are_one_failure() -> None:
    async with polling(jitter=1.0) as scene:
        scene.cloud.latency = 3.0
        scene.cloud.broken["pk__in"] = DOWN
        scene.follow(range(1, 401))
        await asyncio.sleep(9.5)
        assert [at for at, _ in scene.troubles] == pytest.approx([4.0, 9.0])


async def test_recovery_is_told_once_and_everything_is_polled_at_once() -> None:
    async with polling() as scene:
        scene.follow(range(1, 301), interval=30)
        scene.cloud.broken["pk__in"] = DOWN
        await asyncio.sleep(300)
        assert scene.answers == []
        scene.cloud.broken.clear()
        start = now()
        await asyncio.sleep(70)
        assert len(scene.answers) == 1
        answered = scene.answers[0]
        assert answered - start < 62
        assert len({uid for at, uid, _ in scene.heard.observations if at < answered + 2}) == 300


async def test_a_feed_that_fails_alone_is_no_trouble() -> None:
    async with polling() as scene:
        scene.follow([1], interval=30)
        scene.cloud.broken["finished_at__range"] = httpx.Response(500)
        await asyncio.sleep(600)
        assert scene.troubles == []
        assert scene.cloud.requests("finished_at__range") < 15
        assert scene.cloud.requests("pk__in") < 40


async def test_a_failing_feed_makes_a_silence_known_long_before_the_next_poll() -> None:
    async with polling() as scene:
        scene.follow([1], interval=3600)
        await asyncio.sleep(10)
        scene.cloud.broken = {"finished_at__range": DOWN, "pk__in": DOWN}
        start = now()
        await asyncio.sleep(20)
        assert scene.troubles[0][0] - start < 7


@pytest.mark.parametrize("kind", ["pk__in", "finished_at__range"])
async def test_a_rate_limit_silences_the_poller_for_its_time(kind: str) -> None:
    async with polling() as scene:
        scene.follow(range(1, 11), interval=5)
        scene.cloud.broken[kind] = account.refusal(429, "slow down", **{"retry-after": "300"})
        await asyncio.sleep(10)
        trouble = scene.troubles[0][1]
        limited = scene.troubles[0][0]
        assert (trouble.reason, trouble.retry_at) == (Reason.RATE_LIMITED, limited + 300)
        scene.cloud.broken.clear()
        quiet = scene.cloud.requests(since=limited + 0.1)
        await asyncio.sleep(280)
        assert scene.cloud.requests(since=limited + 0.1) == quiet == 0
        await asyncio.sleep(20)
        assert scene.answers[-1] > limited + 300


async def test_hurry_polls_at_once() -> None:
    async with polling() as scene:
        scene.follow([1], interval=3600)
        await asyncio.sleep(100)
        start = now()
        scene.poller.hurry("1")
        await asyncio.sleep(5)
        assert scene.seen("1")[-1] - start == pytest.approx(0.2)


async def test_hurry_during_a_poll_polls_again_since_its_answer_may_be_from_before() -> None:
    async with polling() as scene:
        scene.follow([1], interval=3600)
        await asyncio.sleep(1.1)
        scene.poller.hurry("1")
        await asyncio.sleep(5)
        assert len(scene.seen("1")) == 2


async def test_hurrying_for_nobody_is_no_error() -> None:
    async with polling() as scene:
        scene.poller.hurry("nobody")
        scene.poller.unfollow("nobody")
        await asyncio.sleep(1)
        assert scene.cloud.asked == []


async def test_several_objects_may_follow_one_run() -> None:
    async with polling() as scene:
        scene.cloud.add([1])
        scene.poller.follow("a", 1, 60)
        scene.poller.follow("b", 1, 10)
        await asyncio.sleep(35)
        assert len(scene.seen("a")) == len(scene.seen("b")) == 4
        scene.poller.unfollow("b")
        start = now()
        await asyncio.sleep(125)
        assert len([at for at in scene.seen("a") if at > start]) in (2, 3)
        assert scene.poller.following == 1


async def test_an_object_that_follows_another_run_leaves_the_first() -> None:
    async with polling() as scene:
        scene.cloud.add([1, 2])
        scene.poller.follow("a", 1, 30)
        await asyncio.sleep(5)
        scene.poller.follow("a", 2, 30)
        await asyncio.sleep(65)
        runs = [o.run.run_id for _, _, o in scene.heard.observations if o.run]
        assert (runs, scene.poller.following) == ([1, 2, 2, 2], 1)


async def test_following_again_changes_nothing() -> None:
    async with polling() as scene:
        scene.cloud.add([1])
        for _ in range(100):
            scene.poller.follow("a", 1, 60)
            await asyncio.sleep(1)
        assert len(scene.seen("a")) == 2


async def test_a_shorter_interval_counts_at_once() -> None:
    async with polling() as scene:
        scene.follow([1], interval=3600)
        await asyncio.sleep(10)
        scene.poller.follow("1", 1, 5)
        await asyncio.sleep(21)
        assert len(scene.seen("1")) == 5


async def test_an_answer_that_was_overtaken_is_not_told() -> None:
    async with polling() as scene:
        scene.heard.on_end = lambda uid: None
        scene.follow([1], interval=3600)
        await asyncio.sleep(9.9)
        scene.cloud.latency = 4.0
        scene.poller.hurry("1")  # asks at 9.9, is answered at 13.9 with what was true at 9.9
        await asyncio.sleep(0.1)
        scene.cloud.end([1])
        scene.cloud.latency = 0.1
        await asyncio.sleep(20)
        states = [o.run.state for _, _, o in scene.heard.observations if o.run]
        assert states == [RunState.RUNNING, RunState.SUCCESS]


async def test_a_poll_that_does_not_begin_is_noticed() -> None:
    cloud = DbtCloud()
    poller = Poller(cloud.client(), Heard(), lambda: USERS, clock=clock)
    assert poller.silent() == 0
    poller.follow("a", 1, 30)
    await asyncio.sleep(31)
    assert poller.silent() == pytest.approx(30)


async def test_a_poll_that_does_not_come_back_is_noticed() -> None:
    async with polling() as scene:
        scene.follow([1], interval=30)
        scene.cloud.latency = 10_000
        await asyncio.sleep(400)
        assert scene.poller.silent() == pytest.approx(400, abs=10)


async def test_a_look_at_the_feed_that_does_not_come_back_is_noticed() -> None:
    async with polling() as scene:
        scene.cloud.hung = "finished_at__range"
        scene.follow([1], interval=30)
        await asyncio.sleep(400)
        assert scene.cloud.requests("pk__in", since=350), "batches go on"
        assert scene.poller.silent() == pytest.approx(390, abs=10)


async def test_a_poll_of_many_pages_is_not_taken_for_a_stuck_one() -> None:
    cloud = DbtCloud(latency=10_000)
    poller = Poller(
        cloud.client(total_seconds=PATIENCE), Heard(), lambda: USERS, clock=clock, heard_at=lambda: now() - 20
    )
    task = asyncio.create_task(poller.run())
    poller.follow("a", 1, 30)
    await asyncio.sleep(3600)
    assert poller.silent() <= 20
    task.cancel()


async def test_an_hour_of_quiet_polling_is_never_silent_for_long() -> None:
    async with polling() as scene:
        scene.follow([1], interval=3600)
        for _ in range(360):
            await asyncio.sleep(10)
            assert scene.poller.silent() <= 1


async def test_a_fault_of_our_own_ends_the_task_instead_of_hiding() -> None:
    class Faulty(Heard):
        def observed(self, uid: str, run_id: int, observation: Observation) -> None:
            raise RuntimeError("bug")

    cloud = DbtCloud()
    cloud.add([1])
    poller = Poller(cloud.client(), Faulty(), lambda: USERS, clock=clock)
    poller.follow("a", 1, 30)
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(poller.run(), 60)


async def test_what_others_started_is_told_when_it_has_finished_and_costs_nothing() -> None:
    async with polling() as scene:
        told: list[int] = []
        scene.poller._elsewhere = lambda run: told.append(run.run_id)
        scene.follow([1])
        await asyncio.sleep(20)
        scene.cloud.end([2])
        await asyncio.sleep(40)
        scene.cloud.end([1])
        await asyncio.sleep(10)
        assert set(told) == {2}
        assert {kind for _, kind, _ in scene.cloud.asked} == {"finished_at__range", "pk__in"}


async def test_runs_are_looked_at_together_when_somebody_hints_at_their_end() -> None:
    async with polling() as scene:
        scene.follow(range(1, 51), interval=600)
        await asyncio.sleep(70)
        assert scene.poller.awaited([1, 2, 99]) == [1, 2]
        scene.cloud.end([1, 2])
        asked, start = scene.cloud.requests("pk__in"), now()
        scene.poller.look_at([1, 2, 99])
        await asyncio.sleep(0.5)
        assert scene.cloud.requests("pk__in") == asked + 1
        assert [scene.ended_at("1"), scene.ended_at("2")] == pytest.approx([start + 0.2, start + 0.2])
        assert scene.poller.awaited([1, 2]) == []


async def test_a_hint_does_not_shorten_the_backoff() -> None:
    async with polling() as scene:
        scene.follow([1])
        await asyncio.sleep(70)
        scene.cloud.broken = dict.fromkeys(("pk__in", "finished_at__range", "run"), DOWN)
        await asyncio.sleep(300)
        before = scene.cloud.requests()
        for _ in range(100):
            scene.poller.look_at([1])
            await asyncio.sleep(0.2)
        assert scene.cloud.requests() - before <= 2


async def test_the_last_of_many_runs_is_not_forgotten_when_the_others_were_seen_before_the_feed() -> None:
    """Then a hundred runs are cheaper to poll than to find among all that has finished: somebody must poll them."""
    async with polling() as scene:
        scene.follow(range(1, 301), interval=60)
        await asyncio.sleep(70)
        scene.cloud.end(range(1, 151))
        await asyncio.sleep(6)
        scene.cloud.end(range(151, 300))
        scene.poller.look_at(range(151, 300))
        await asyncio.sleep(12)
        ended = now()
        scene.cloud.end([300])
        await asyncio.sleep(60)
        assert scene.ended_at("300") - ended < 10
