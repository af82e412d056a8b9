"""One connection of a client, on the side of a server that may do with it whatever it likes."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

GARBAGE_RECORD: Final = b"\x17\x03\x03\x00\x40" + b"\xaa" * 64
"""A TLS record that nobody can decrypt; no key is needed to send it."""
FATAL_ALERT: Final = b"\x15\x03\x03\x00\x02\x02\x28"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for."""

    method: str
    path: str
    params: dict[str, str]
    body: Any

    @property
    def ids(self) -> list[int]:
        """The runs that a poll asks for."""
        return [int(each) for each in json.loads(self.params.get("pk__in", "[]"))]


class Wire:
    """Bytes in both directions; through TLS once `secure` was called."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    async def secure(self, context: ssl.SSLContext) -> None:
        """The handshake. Raises ssl.SSLError or ConnectionError when the client does not go along."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._more()
        await self._flush()

    async def receive(self) -> bytes:
        """Some bytes; empty at the end."""
        while self._tls is not None:
            try:
                return self._tls.read(65_536)
            except ssl.SSLWantReadError:
                await self._more()
        return await self.reader.read(65_536)

    async def request(self) -> Request | None:
        """The next request, whole; None when the client sends no more."""
        received = b""
        while b"\r\n\r\n" not in received:
            piece = await self.receive()
            if not piece:
                return None
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            piece = await self.receive()
            if not piece:
                return None  # the client was killed; reading on would never give the loop back
            body += piece
        method, target, _ = first.split(" ")
        parts = urlsplit(target)
        return Request(method, parts.path, dict(parse_qsl(parts.query)), json.loads(body) if body else None)

    async def send(self, data: bytes) -> None:
        """To the client, as it should be."""
        if self._tls is None:
            await self.raw(data)
            return
        for start in range(0, len(data), 1 << 20):
            self._tls.write(data[start : start + (1 << 20)])
            await self._flush()

    async def raw(self, data: bytes) -> None:
        """Onto the wire, whatever lies above it."""
        for start in range(0, len(data), 1 << 20):
            self.writer.write(data[start : start + (1 << 20)])
            await self.writer.drain()

    def reset(self) -> None:
        """Ends the connection with an RST."""
        held = self.writer.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.close()

    async def _more(self) -> None:
        data = await self.reader.read(65_536)
        if not data:
            raise ConnectionResetError("the client went away")
        self._incoming.write(data)

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self.raw(data)
