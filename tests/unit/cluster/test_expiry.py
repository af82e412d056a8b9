"""Finished objects whose TTL ends are brought back, once, and only by the watcher that acts."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from dbtrun.api import DbtRun
from dbtrun.kube.errors import KubeError, NotFound
from tests.unit.cluster.test_mirror import done
from watcher.cluster.expiry import AGAIN, Expiry
from watcher.cluster.mirror import Mirror, read
from watcher.cluster.writer import Writer

DUE = 100.0
"""Seconds for which an object rests."""

pytestmark = pytest.mark.looptime


class Objects:
    """What the API server has, or answers instead."""

    def __init__(self, *answers: DbtRun | Exception) -> None:
        self.answers = list(answers)

    async def get(self, _namespace: str, _name: str) -> DbtRun:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def after(seconds: float, objects: Objects, *, acting: bool = True) -> tuple[Mirror, list[str]]:
    loop = asyncio.get_running_loop()
    due, woken = loop.time() + DUE, list[str]()
    mirror = Mirror(lambda _run: due if loop.time() < due else None)
    mirror.apply(None, done("u"))
    expiry = Expiry(mirror, cast("Writer", objects), woken.append, loop.time, lambda: acting)
    task = asyncio.create_task(expiry.run())
    await asyncio.sleep(seconds)
    task.cancel()
    return mirror, woken


def stored(**more: Any) -> DbtRun:
    return read(done("u", **more))


async def test_an_object_is_brought_back_when_it_is_due() -> None:
    mirror, woken = await after(DUE - 2, Objects())
    assert (woken, mirror.resting) == ([], 1)
    mirror, woken = await after(DUE + 2, Objects(stored()))
    assert (woken, mirror.resting) == (["u"], 0)
    assert mirror.get("u") is not None


async def test_one_that_is_gone_or_another_is_forgotten() -> None:
    for answer in (NotFound("gone"), read(done("another"))):
        mirror, woken = await after(DUE + 2, Objects(answer))
        assert (woken, len(mirror)) == ([], 0)


async def test_a_fault_is_tried_again_later() -> None:
    objects = Objects(KubeError("away"), stored())
    _, woken = await after(DUE + AGAIN + 3, objects)
    assert woken == ["u"]


async def test_a_standby_leaves_it_alone() -> None:
    mirror, woken = await after(DUE + 50, Objects(), acting=False)
    assert (woken, mirror.resting) == ([], 1)
