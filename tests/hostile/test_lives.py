"""The whole watcher, in virtual time, while every other reply of dbt Cloud is mutated: it goes on after them."""

from __future__ import annotations

import asyncio
import random

import httpx
import msgspec
import pytest

from dbtrun.api.status import MAX_STATUS
from tests.chaos.fate import Fate
from tests.chaos.wire import Wire
from tests.chaos.world import Watcher, World, in_virtual_time
from tests.hostile.mutations import Reply, mutated
from watcher.lifecycle.policy import Policy
from watcher.simulator.server import application

LASTING = 400.0
"""Seconds of mutated replies: longer than a run, a quiet period and most pauses."""


class Lying(Wire):
    """The simulator, until it has something to draw with."""

    draw: random.Random | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if self.draw is None or self.draw.random() < 0.5:
            return response
        reply = mutated(Reply(response.status_code, tuple(response.headers.items()), response.content), self.draw)
        headers = [(name.encode(), value.encode("utf-8", "replace")) for name, value in reply.headers]
        return httpx.Response(reply.status, headers=headers, stream=httpx.ByteStream(reply.body))


@pytest.mark.parametrize("seed", range(6))
def test_a_watcher_outlives_mutated_replies_and_goes_on_after_them(seed: int) -> None:
    async def play() -> None:
        world = World(Policy())
        world.wire = Lying(application(world.simulator))
        watcher = Watcher(world, Fate())
        life = asyncio.create_task(watcher.live())
        world.wire.draw = random.Random(seed)  # noqa: S311 - drawn again by its seed
        for job in ("success", "failure", "endless", "flaky"):
            world.create(job, job, artifacts=("run_results.json",))
        await asyncio.sleep(LASTING)
        world.edit("endless", cancel=True)
        world.wire.draw = None
        await asyncio.sleep(LASTING)
        world.create("success", "later")
        await world.until(lambda: world.objects.last["later"].status.finished_at is not None, "a later run ends")
        assert not life.done()
        for run in world.objects.last.values():
            assert len(msgspec.json.encode(run.status)) <= MAX_STATUS
            assert run.status.url is None or run.status.url.startswith("http://127.0.0.1/")
        life.cancel()
        await asyncio.wait({life})

    in_virtual_time(play)
