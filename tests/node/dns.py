"""The names of Services for Pods, as far as tests need them: A records of `NAME.NAMESPACE.svc.cluster.local`."""

from __future__ import annotations

import socketserver
import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from threading import Thread
from typing import Final

DOMAIN: Final = "cluster.local"
PORT: Final = 53
_A, _IN = 1, 1
_ANSWER, _NO_SUCH_NAME = 0x8580, 0x8583
_TTL_SECONDS = 5
_NAME_OF_QUESTION = 0xC00C

Lookup = Callable[[str, str], IPv4Address | None]
"""The address of a Service, by its namespace and name; None: there is none."""


class Names:
    """Answers on a UDP address, in a thread, until it is closed. Nobody else is asked."""

    def __init__(self, address: str, lookup: Lookup) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                question, socket = self.request
                socket.sendto(answered(question, lookup), self.client_address)

        self._server = socketserver.ThreadingUDPServer((address, PORT), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def answered(message: bytes, lookup: Lookup) -> bytes:
    """The answer to a DNS message with one question."""
    (number,) = struct.unpack("!H", message[:2])
    labels, at = [], 12
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode())
        at += 1 + length
    question = message[12 : at + 5]
    (kind,) = struct.unpack("!H", question[-4:-2])
    address = _address(".".join(labels).lower(), lookup)
    records = b""
    if address is not None and kind == _A:
        records = struct.pack("!HHHIH", _NAME_OF_QUESTION, _A, _IN, _TTL_SECONDS, 4) + address.packed
    flags = _NO_SUCH_NAME if address is None else _ANSWER
    return struct.pack("!HHHHHH", number, flags, 1, bool(records), 0, 0) + question + records


def _address(name: str, lookup: Lookup) -> IPv4Address | None:
    match name.split(".", 2):
        case [service, namespace, rest] if rest == f"svc.{DOMAIN}":
            return lookup(namespace, service)
        case _:
            return None
