"""Ports for programs that are told where to listen."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from itertools import islice
from typing import Final

# Below the ports that Linux and macOS give to outgoing connections: one of those may take a free port at any time.
PORTS: Final = range(20_000, 32_000)


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """So many ports of the address on which nobody listens now."""
    shuffled = random.SystemRandom().sample(PORTS, len(PORTS))
    return list(islice((port for port in shuffled if _is_free(address, port)), count))


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind((address, port))
        return True
    return False
