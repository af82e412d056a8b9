"""Replies take a quarter of the event loop's time at most, and a connection that asks for little hardly waits."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from dbtrun.connection.secret import Connection, Token
from tests.hostile.replies import http
from tests.hostile.wire import Wire
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.intake import AT_ONCE, Intake
from watcher.dbtcloud.turns import CREDIT, LONGEST_REST, PART, PART_OF_THE_LOOP, Turns

LASTS = 0.01


@pytest.mark.looptime
async def test_turns_take_their_part_of_the_time_however_many_want_one() -> None:
    turns, taken = Turns(asyncio.get_running_loop().time), list[int]()

    async def flood(owner: int) -> None:
        while True:
            await turns.take(owner)
            taken.append(owner)
            await asyncio.sleep(LASTS)
            turns.end()

    floods = [asyncio.create_task(flood(owner)) for owner in range(20)]
    await asyncio.sleep(10)
    for each in floods:
        each.cancel()
    least, most = PART_OF_THE_LOOP, PART_OF_THE_LOOP + 20 * CREDIT
    assert 0.9 * 10 * least < LASTS * len(taken) < 1.1 * 10 * most
    counts = [taken.count(owner) for owner in range(20)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.looptime
async def test_who_takes_few_turns_goes_before_those_who_take_many() -> None:
    turns, many, few = Turns(asyncio.get_running_loop().time), object(), object()

    async def flood() -> None:
        while True:
            await turns.take(many)
            await asyncio.sleep(LASTS)
            turns.end()

    floods = [asyncio.create_task(flood()) for _ in range(50)]
    await asyncio.sleep(1)
    loop = asyncio.get_running_loop()
    for _ in range(20):
        began = loop.time()
        await turns.take(few)
        turns.end()
        assert loop.time() - began <= 1.01 * LASTS, "it waits for a turn that lasts and for no rest"
        await asyncio.sleep(0.123)
    for each in floods:
        each.cancel()


@pytest.mark.looptime
async def test_a_turn_that_is_given_up_goes_to_the_next() -> None:
    loop = asyncio.get_running_loop()
    turns = Turns(loop.time)
    await turns.take("a")
    waiting = [asyncio.create_task(turns.take(owner)) for owner in ("b", "c", "d")]
    await asyncio.sleep(0)
    waiting[0].cancel()
    turns.end()
    await waiting[1]
    waiting[2].cancel()
    turns.end()
    await asyncio.wait(waiting)
    await asyncio.sleep(LONGEST_REST)
    began = loop.time()
    await turns.take("e")
    assert loop.time() == began


@pytest.mark.looptime
@pytest.mark.parametrize("called_first", [True, False])
async def test_a_turn_is_not_lost_when_it_is_called_and_given_up_at_once(called_first: bool) -> None:
    turns = Turns()
    await turns.take("a")
    waiting = asyncio.create_task(turns.take("b"))
    await asyncio.sleep(0)
    for step in (turns.end, waiting.cancel) if called_first else (waiting.cancel, turns.end):
        step()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    async with asyncio.timeout(2 * LONGEST_REST):
        await turns.take("c")


class Counted(Turns):
    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    async def take(self, owner: Hashable) -> None:
        self.taken += 1
        await super().take(owner)


@pytest.mark.parametrize("size", [1_000, 100_000, 1_000_000])
async def test_what_comes_from_the_network_is_read_and_decoded_in_turns(size: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        while await wire.request() is not None:
            await wire.send(http({"data": {"id": 1, "name": "x" * size}}))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    intake = Intake()
    turns = intake.turns = Counted()
    connection = Connection(
        host=f"127.0.0.1:{server.sockets[0].getsockname()[1]}", account_id=1, token=Token("t"), tls=False
    )
    async with Client(connection, intake=intake) as client:
        assert (await client.check()).name == "x" * size
    server.close()
    assert turns.taken >= size // PART + (size > AT_ONCE)
