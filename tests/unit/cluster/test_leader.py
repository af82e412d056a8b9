"""The Lease at the API server in memory. That two processes never lead at once is tried in tests/cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.unit.cluster.world import World, world
from tests.unit.world.apiserver import Refused, until
from watcher.cluster import leader as leaders
from watcher.cluster.access import ClusterAccess
from watcher.cluster.leader import Leader, LeaseSettings
from watcher.cluster.leader_thread import LeaderThread

SETTINGS = LeaseSettings(duration=60, renew_deadline=40.0, retry=0.02)
"""Nobody loses a Lease because the machine is busy."""
SHORT = LeaseSettings(duration=2, renew_deadline=1.0, retry=0.02)


def elect(access: ClusterAccess, settings: LeaseSettings = SETTINGS, pod: str = "") -> Leader:
    return Leader(access, "ns", "watcher", settings=settings, pod=pod)


@asynccontextmanager
async def running(*candidates: Leader | LeaderThread) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(candidate.run()) for candidate in candidates]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def holder(at: World) -> str | None:
    spec = at.server.objects["leases", "ns", "watcher"]["spec"]
    held: str | None = spec.get("holderIdentity")
    return held


async def test_one_leads_and_the_other_follows_when_it_lets_go(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        first, second = elect(at.access, pod="one"), elect(at.access, pod="two")
        assert first.holder == ""
        async with running(first):
            await until(first.is_leader)
            async with running(second):
                await until(lambda: second.holder == first.identity)
                assert not second.is_leader()
        assert not first.is_leader()
        assert not holder(at), "it was released"
        async with running(second):
            await until(second.is_leader)
            assert holder(at) == second.identity
        assert at.server.objects["leases", "ns", "watcher"]["spec"]["leaseTransitions"] >= 1


async def test_the_lease_of_a_holder_that_is_gone_is_taken_when_it_has_expired(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        spec = {"holderIdentity": "gone", "leaseDurationSeconds": 1}
        await at.server.put("leases", "watcher", {"spec": spec})
        candidate = elect(at.access)
        async with running(candidate):
            await until(candidate.is_leader)
        assert at.server.objects["leases", "ns", "watcher"]["spec"]["leaseTransitions"] == 0


@pytest.mark.parametrize("refusal", [Refused(409, "Conflict"), Refused(500, "InternalError", "etcd is away")])
async def test_a_refused_renewal_is_tried_again(tmp_path: Path, refusal: Refused) -> None:
    async with world(tmp_path) as at:
        candidate = elect(at.access)
        async with running(candidate):
            await until(candidate.is_leader)
            at.server.plan("PUT", "leases", refusal, times=2)
            asked = len(at.server.asked)
            await until(lambda: len(at.server.asked) > asked + 6)
            await until(candidate.is_leader)


async def test_a_lease_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with world(tmp_path) as at:
        at.server.plan("POST", "leases", Refused(403, "Forbidden", "no right"), times=3)
        candidate = elect(at.access)
        async with running(candidate):
            await until(candidate.is_leader)
        assert sum("no right" in message for message in caplog.messages) == 1


async def test_without_answers_it_stops_leading_in_time(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        changes: list[bool] = []
        candidate = Leader(at.access, "ns", "watcher", settings=SHORT, on_change=changes.append)
        async with running(candidate):
            await until(candidate.is_leader)
            at.server.plan("PUT", "leases", Refused(500, "InternalError"), times=1000)
            at.server.plan("GET", "leases", Refused(500, "InternalError"), times=1000)
            await until(lambda: not candidate.is_leader())
            await until(lambda: changes[-1] is False)
            at.server.forget_plans()
            await until(candidate.is_leader)


async def test_a_release_that_is_not_accepted_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(leaders, "RELEASE_SECONDS", 0.2)
    async with world(tmp_path) as at:
        candidate = elect(at.access, LeaseSettings(duration=60, renew_deadline=40.0, retry=30.0))
        async with running(candidate):
            await until(candidate.is_leader)
            at.server.plan("PUT", "leases", asyncio.Event())
        assert "was not released" in caplog.text


def test_a_lease_that_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="duration > renew_deadline"):
        LeaseSettings(duration=5, renew_deadline=10.0)


# ── in a thread of its own ──


def threaded(at: World, told: Callable[[bool], None], elect: Callable[[ClusterAccess], Leader]) -> LeaderThread:
    return LeaderThread(at.access.another, elect, told)


async def test_the_thread_leads_and_reports_in_our_loop(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        told: list[tuple[bool, str]] = []
        thread = threaded(at, lambda leading: told.append((leading, threading.current_thread().name)), elect)
        assert not thread.is_leader()
        assert thread.holder == ""
        async with running(thread):
            await until(thread.is_leader)
            await until(lambda: told)
            assert thread.holder == holder(at)
        assert told[0] == (True, "MainThread")
        assert not holder(at), "it was released"


async def test_a_thread_that_fails_says_why(tmp_path: Path) -> None:
    def broken(_access: ClusterAccess) -> Leader:
        raise ZeroDivisionError

    async with world(tmp_path) as at:
        with pytest.raises(ZeroDivisionError):
            await threaded(at, lambda _leading: None, broken).run()


async def test_a_leader_that_ends_ends_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ends(_self: Leader) -> None:
        raise RuntimeError("as nothing should")

    monkeypatch.setattr(Leader, "run", ends)
    async with world(tmp_path) as at:
        with pytest.raises(RuntimeError, match="as nothing should"):
            await threaded(at, lambda _leading: None, elect).run()


async def test_an_end_that_is_no_exception_is_one_in_our_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def leaves(_self: Leader) -> None:
        raise GeneratorExit

    monkeypatch.setattr(Leader, "run", leaves)
    async with world(tmp_path) as at:
        with pytest.raises(RuntimeError):
            await threaded(at, lambda _leading: None, elect).run()


async def test_the_lease_says_where_its_holder_takes_webhooks_while_it_is_held(tmp_path: Path) -> None:
    async with world(tmp_path) as at:
        first = Leader(at.access, "ns", "watcher", settings=SETTINGS, pod="one", address="10.0.0.1:8081")
        second = Leader(at.access, "ns", "watcher", settings=SETTINGS, pod="two", address="10.0.0.2:8081")
        async with running(second):
            async with running(first):
                await until(lambda: first.is_leader() or second.is_leader())
                told = "10.0.0.1:8081" if first.is_leader() else "10.0.0.2:8081"
                await until(lambda: first.holder_address == second.holder_address == told)
            await until(lambda: second.holder_address == "10.0.0.2:8081")
        assert Leader(at.access, "ns", "watcher").holder_address == "", "it is not known before the first look"
