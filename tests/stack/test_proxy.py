"""What passes, breaks and hangs through the proxy, seen by a client of an echo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.stack.proxy import Proxy

SILENT = 0.1


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, proxy: Proxy) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def say(self, line: bytes) -> bytes:
        self.writer.write(line)
        return await self.hear(len(line))

    async def hear(self, count: int, seconds: float = 5.0) -> bytes:
        async with asyncio.timeout(seconds):
            return await self.reader.readexactly(count)

    def leave(self) -> None:
        self.writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Proxy.up("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    client = await Client.of(proxy)
    assert await client.say(b"hello") == b"hello"
    yield client
    client.leave()


async def silent(client: Client) -> None:
    with pytest.raises(TimeoutError):
        await client.hear(1, SILENT)


async def test_a_cut_breaks_what_is_open_and_nothing_else(proxy: Proxy, client: Client) -> None:
    proxy.cut()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.say(b"again")
    assert await (await Client.of(proxy)).say(b"new") == b"new"


async def test_what_is_held_breaks_nothing_and_arrives_after_the_release(proxy: Proxy, client: Client) -> None:
    proxy.hold()
    new = await Client.of(proxy)
    for held in (client, new):
        held.writer.write(b"late")
        await silent(held)
    proxy.release()
    assert await client.hear(4) == b"late"
    assert await new.hear(4) == b"late"


async def test_a_frozen_connection_hangs_while_a_new_one_works(proxy: Proxy, client: Client) -> None:
    proxy.freeze()
    client.writer.write(b"lost")
    await silent(client)
    assert await (await Client.of(proxy)).say(b"new") == b"new"


async def test_nothing_connects_until_it_accepts_again(proxy: Proxy, client: Client) -> None:
    proxy.refuse()
    await silent(client)
    with pytest.raises(ConnectionRefusedError):
        await Client.of(proxy)
    await proxy.accept()
    assert await (await Client.of(proxy)).say(b"new") == b"new"


async def test_a_server_that_is_down_ends_the_connection() -> None:
    async with Proxy.up("127.0.0.1", 1) as proxy:
        assert await (await Client.of(proxy)).reader.read() == b""
