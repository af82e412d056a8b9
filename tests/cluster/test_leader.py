"""The Lease on the real API server: never two at once, and soon another when one is gone."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.cluster.objects import until
from tests.controlplane import ControlPlane
from tests.patience import patience
from tests.stack import Program
from tests.stack.proxy import Proxy
from watcher.cluster.access import ClusterAccess
from watcher.cluster.leader import Leader, LeaseSettings
from watcher.cluster.leader_thread import LeaderThread

ROOT = Path(__file__).parents[2]
QUICK = LeaseSettings(duration=3, renew_deadline=2.0, retry=0.3)
NOISE = 3.0
"""Seconds that a busy machine may add."""


def quick() -> LeaseSettings:
    """QUICK, on this machine as busy as it is now: a holder that gets no processor for long loses its Lease."""
    return LeaseSettings(
        duration=math.ceil(patience(QUICK.duration)),
        renew_deadline=patience(QUICK.renew_deadline),
        retry=QUICK.retry,
    )


class Candidate(Program):
    """A process of its own, which can be stopped as a whole."""

    @property
    def led(self) -> list[float]:
        """When it believed to lead; a line that is being written does not count."""
        return [float(line) for line in self.text().splitlines(keepends=True) if line.endswith("\n")]


@asynccontextmanager
async def candidates(plane: ControlPlane, namespace: str, folder: Path, count: int) -> AsyncIterator[list[Candidate]]:
    argv = [*forked.COMMAND[:2], "tests.cluster.candidate", str(plane.kubeconfig), namespace]
    names = [f"candidate-{number}" for number in range(count)]
    started = [Candidate(name, argv, {"PYTHONPATH": str(ROOT)}, folder / name) for name in names]
    try:
        for each in started:
            each.start()
        yield started
    finally:
        for each in started:
            if each.running:
                await each.kill()


async def first_of(candidates: list[Candidate]) -> tuple[Candidate, Candidate]:
    await until(lambda: any(candidate.led for candidate in candidates))
    one, other = candidates
    return (one, other) if one.led else (other, one)


async def lease(plane: ControlPlane, namespace: str) -> dict[str, Any]:
    found = await plane.read(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/watcher")
    assert found is not None
    spec: dict[str, Any] = found["spec"]
    return spec


async def test_a_paused_leader_never_leads_beside_its_successor(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with candidates(plane, namespace, tmp_path, 2) as both:
        first, second = await first_of(both)
        first.send(signal.SIGSTOP)
        paused = time.monotonic()
        await until(lambda: second.led)
        assert second.led[0] - paused > QUICK.renew_deadline
        resumed = time.monotonic()
        first.send(signal.SIGCONT)
        await until(lambda: second.led[-1] > resumed + 1.0)
        assert [when for when in first.led if when > second.led[0]] == []


async def test_a_clean_stop_hands_over_at_once(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    async with candidates(plane, namespace, tmp_path, 2) as both:
        first, second = await first_of(both)
        await first.stop()
        stopped = time.monotonic()
        await until(lambda: second.led)
        assert second.led[0] - stopped < patience(QUICK.renew_deadline)
        assert second.led[0] > first.led[-1]
        assert (await lease(plane, namespace))["leaseTransitions"] == 1


async def test_a_killed_leader_is_followed_after_its_lease(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    async with candidates(plane, namespace, tmp_path, 2) as both:
        first, second = await first_of(both)
        await first.kill()
        killed = time.monotonic()
        await until(lambda: second.led)
        assert second.led[0] - killed < patience(QUICK.duration + 2 * QUICK.retry + NOISE)
        assert second.led[0] > first.led[-1]


@asynccontextmanager
async def competing(leader: Leader) -> AsyncIterator[Leader]:
    task = asyncio.create_task(leader.run())
    try:
        yield leader
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_leader_that_cannot_renew_stops_leading_and_leads_again(
    plane: ControlPlane, namespace: str, proxy: Proxy, through: Path
) -> None:
    access, settings = await ClusterAccess.load(through), quick()
    changes: list[bool] = []
    async with competing(Leader(access, namespace, "watcher", settings=settings, on_change=changes.append)) as leader:
        await until(leader.is_leader)
        proxy.refuse()
        await until(lambda: not leader.is_leader(), settings.renew_deadline + 1)
        await until(lambda: changes == [True, False])
        await proxy.accept()
        await until(leader.is_leader)
    assert changes == [True, False, True, False]
    await access.close()


async def test_a_renewal_on_a_dead_connection_is_tried_again_on_another(
    plane: ControlPlane, namespace: str, proxy: Proxy, through: Path
) -> None:
    access = await ClusterAccess.load(through)
    changes: list[bool] = []
    async with competing(Leader(access, namespace, "watcher", settings=quick(), on_change=changes.append)) as leader:
        await until(leader.is_leader)
        renewed = (await lease(plane, namespace))["renewTime"]
        proxy.freeze()
        deadline = time.monotonic() + patience(10)
        while (await lease(plane, namespace))["renewTime"] == renewed:
            assert time.monotonic() < deadline
        assert changes == [True]
        assert leader.is_leader()
    await access.close()


async def test_a_lease_that_somebody_took_is_not_led_any_more(
    plane: ControlPlane, namespace: str, admin: ClusterAccess
) -> None:
    async with competing(Leader(admin, namespace, "watcher", settings=QUICK)) as leader:
        await until(leader.is_leader)
        patch = {"spec": {"holderIdentity": "usurper", "leaseDurationSeconds": 3600}}
        await plane.kubectl("-n", namespace, "patch", "lease", "watcher", "--type=merge", "-p", json.dumps(patch))
        await until(lambda: not leader.is_leader(), 1.5)


def test_settings_that_would_let_two_lead_are_refused() -> None:
    with pytest.raises(ValueError, match="duration > renew_deadline"):
        LeaseSettings(duration=10, renew_deadline=10.0)


async def test_the_lease_is_kept_while_the_loop_is_blocked(served: ControlPlane, namespace: str) -> None:
    access, settings = await ClusterAccess.load(served.kubeconfig), quick()
    rival = Leader(access, namespace, "lease", settings=settings)
    told: list[bool] = []

    def elect(client: ClusterAccess) -> Leader:
        return Leader(client, namespace, "lease", settings=settings)

    thread = LeaderThread(access.another, elect, told.append)
    leading = asyncio.create_task(thread.run())
    await until(thread.is_leader)
    competing = asyncio.create_task(rival.run())
    for _ in range(3):
        time.sleep(settings.duration + 1)  # noqa: ASYNC251 - what is tried
        await asyncio.sleep(0.2)
        assert thread.is_leader()
    assert told == [True]
    leading.cancel()
    await asyncio.wait({leading})
    await until(rival.is_leader)
    competing.cancel()
    await asyncio.wait({competing})
    await access.close()


async def test_what_ends_the_thread_ends_the_part(served: ControlPlane, namespace: str) -> None:
    def elect(_client: ClusterAccess) -> Leader:
        raise RuntimeError("no elector")

    access = await ClusterAccess.load(served.kubeconfig)
    with pytest.raises(RuntimeError, match="no elector"):
        await LeaderThread(access.another, elect, lambda _: None).run()
    await access.close()
