"""Finished objects whose TTL ends are brought back, once, and only by the watcher that acts."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from dbtrun.api import PLURAL
from tests.unit.cluster.test_mirror import done
from tests.unit.world.apiserver import ApiServer, Direct, Refused
from watcher.cluster.access import ClusterAccess
from watcher.cluster.expiry import AGAIN, Expiry
from watcher.cluster.mirror import Mirror
from watcher.cluster.writer import Writer

DUE = 100.0
"""Seconds for which an object rests."""

pytestmark = pytest.mark.looptime


def holding(uid: str | None) -> ApiServer:
    """The object `run` has this uid; None: there is none."""
    server = ApiServer()
    if uid is not None:
        server.objects[PLURAL, "ns", "run"] = done(uid)
    return server


async def after(seconds: float, server: ApiServer, *, acting: bool = True) -> tuple[Mirror, list[str]]:
    loop = asyncio.get_running_loop()
    due, woken = loop.time() + DUE, list[str]()
    mirror = Mirror(lambda _run: due if loop.time() < due else None)
    mirror.apply(None, done("u"))
    expiry = Expiry(mirror, Writer(cast(ClusterAccess, Direct(server))), woken.append, loop.time, lambda: acting)
    task = asyncio.create_task(expiry.run())
    await asyncio.sleep(seconds)
    task.cancel()
    return mirror, woken


async def test_an_object_is_brought_back_when_it_is_due() -> None:
    mirror, woken = await after(DUE - 2, holding("u"))
    assert (woken, mirror.resting) == ([], 1)
    mirror, woken = await after(DUE + 2, holding("u"))
    assert (woken, mirror.resting) == (["u"], 0)
    assert mirror.get("u") is not None


async def test_one_that_is_gone_or_another_is_forgotten() -> None:
    for uid in (None, "another"):
        mirror, woken = await after(DUE + 2, holding(uid))
        assert (woken, len(mirror)) == ([], 0)


async def test_a_fault_is_tried_again_later() -> None:
    server = holding("u")
    server.plan("GET", "/run", Refused(503, "ServiceUnavailable"))
    _, woken = await after(DUE + AGAIN + 3, server)
    assert woken == ["u"]
    assert len(server.asked) == 2


async def test_a_standby_leaves_it_alone() -> None:
    mirror, woken = await after(DUE + 50, holding("u"), acting=False)
    assert (woken, mirror.resting) == ([], 1)
