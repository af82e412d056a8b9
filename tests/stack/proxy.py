"""A network that can fail, between any client and any server: TCP as it is, so TLS passes through untouched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class Link:
    """One connection of a client, and ours to the server."""

    serving: asyncio.Task[None]
    open: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """Passes every byte, until it is told to fail.

    `async with Proxy.up(host, port) as proxy`: clients connect to `127.0.0.1:proxy.port`.
    """

    port: int

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._links: set[Link] = set()
        self._holding = False

    @classmethod
    @asynccontextmanager
    async def up(cls, host: str, port: int) -> AsyncIterator[Proxy]:
        proxy = cls(host, port)
        await proxy._listen(0)
        try:
            yield proxy
        finally:
            proxy._server.close()
            proxy.cut()

    def cut(self) -> None:
        """What is open breaks; new connections work."""
        for link in self._links:
            link.serving.cancel()

    def hold(self) -> None:
        """Not a byte passes either way and nothing breaks: neither what is open nor what opens from now on."""
        self._holding = True
        self.freeze()

    def freeze(self) -> None:
        """What is open stays open and carries nothing any more; new connections work."""
        for link in self._links:
            link.open.clear()

    def release(self) -> None:
        """Everything passes again, what was held back first."""
        self._holding = False
        for link in self._links:
            link.open.set()

    def refuse(self) -> None:
        """Nothing connects any more, and what was open is frozen."""
        self._server.close()
        self.freeze()

    async def accept(self) -> None:
        """New connections work again, on the same port."""
        await self._listen(self.port)

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        link = Link(serving)
        if not self._holding:
            link.open.set()
        self._links.add(link)
        try:
            await self._join(link, reader, writer)
        except asyncio.CancelledError:
            pass  # by cut(): Python 3.11 reports a cancelled handler as an error of the server
        finally:
            self._links.discard(link)
            writer.transport.abort()

    async def _join(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(link, reader, far_writer))
                both.create_task(_pump(link, far_reader, writer))
        except* OSError:
            pass
        finally:
            far_writer.transport.abort()


async def _pump(link: Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        await link.open.wait()
        sink.write(data)
        await sink.drain()
    await link.open.wait()
    sink.write_eof()
