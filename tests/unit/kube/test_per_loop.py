from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from dbtrun.kube.per_loop import PerLoop


@dataclass
class Thing:
    key: str
    closed: int = 0

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def things() -> PerLoop[str, Thing]:
    return PerLoop(Thing, Thing.close)


async def test_users_of_one_key_share(things: PerLoop[str, Thing]) -> None:
    async with things.lease("a") as one, things.lease("a") as two, things.lease("b") as other:
        assert one is two
        assert other is not one


async def test_it_is_closed_once_after_the_last_user(things: PerLoop[str, Thing]) -> None:
    async with things.lease("a") as outer:
        async with things.lease("a"):
            pass
        assert outer.closed == 0
    assert outer.closed == 1


@pytest.mark.looptime
async def test_it_lingers_for_the_next_user(things: PerLoop[str, Thing]) -> None:
    async with things.lease("a", linger=10.0) as first:
        pass
    await asyncio.sleep(9.0)
    async with things.lease("a", linger=10.0) as second:
        await asyncio.sleep(20.0)
    assert second is first
    await asyncio.sleep(9.9)
    assert first.closed == 0
    await asyncio.sleep(0.2)
    assert first.closed == 1


def test_a_new_event_loop_gets_its_own(things: PerLoop[str, Thing]) -> None:
    async def lease() -> Thing:
        async with things.lease("a", linger=3600.0) as thing:
            return thing

    assert asyncio.run(lease()) is not asyncio.run(lease())


def test_a_dead_event_loop_is_not_remembered(things: PerLoop[str, Thing]) -> None:
    async def lease() -> None:
        async with things.lease("a", linger=3600.0):
            pass

    for _ in range(3):
        asyncio.run(lease())
    assert len(things._loops) == 1
