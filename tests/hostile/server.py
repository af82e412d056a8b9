"""The attackers as a process: `python -m tests.hostile.server LEVEL FOLDER`. Prints one JSON line with their ports.

It keeps a file in the folder that says how many connections each attacker has had.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.hostile.attacks import ATTACKS, Attack, authority
from tests.hostile.wire import Wire

COUNT_SECONDS: Final = 0.5
"""Between two times that the counts are written."""


def counts_file(folder: Path, level: str) -> Path:
    """Where the numbers of connections are, by attack, as JSON."""
    return folder / f"attackers-{level}.json"


async def listen(attack: Attack, met: Callable[[], None]) -> tuple[asyncio.Server, int]:
    """One attack on a port of its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met()
        with contextlib.suppress(OSError, ssl.SSLError, ValueError):
            await attack.play(Wire(reader, writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    return server, server.sockets[0].getsockname()[1]


async def main(level: str, folder: Path) -> None:
    ports = {}
    servers = []
    counts = {name: 0 for name, attack in ATTACKS.items() if attack.level == level}

    def met(name: str) -> None:
        counts[name] += 1

    for name in counts:
        server, ports[name] = await listen(ATTACKS[name], partial(met, name))
        servers.append(server)
    (folder / "hostile-ca.pem").write_bytes(authority().cert_pem.bytes())
    print(json.dumps({"ports": ports}), flush=True)
    told, fresh = counts_file(folder, level), folder / f"attackers-{level}.fresh"
    while True:
        fresh.write_text(json.dumps(counts))
        fresh.replace(told)
        await asyncio.sleep(COUNT_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
