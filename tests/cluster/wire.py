"""A network between a client and the API server that can fail."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import yaml


class Wire:
    """A TCP connection to the API server that can fail as networks do."""

    def __init__(self, server: str) -> None:
        target = urlsplit(server)
        self._target = (target.hostname or "", target.port or 0)
        self._pumps: set[asyncio.Task[None]] = set()
        self._frozen: frozenset[asyncio.StreamReader] = frozenset()
        self._readers: set[asyncio.StreamReader] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"https://127.0.0.1:{self._port}"

    def freeze_present(self) -> None:
        """What is open stays open and carries nothing any more; new connections work."""
        self._frozen = frozenset(self._readers)

    def stop(self) -> None:
        """Nothing connects any more, and what was open hangs."""
        self._server.close()
        self.freeze_present()

    async def restart(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    async def close(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._readers.add(source)
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if source in self._frozen:
                    await asyncio.Event().wait()
                sink.write(data)
                await sink.drain()
        sink.close()


def kubeconfig_to(server: str, original: Path, directory: Path) -> Path:
    config = yaml.safe_load(original.read_text())
    config["clusters"][0]["cluster"]["server"] = server
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
