"""The attackers as a process: `python -m tests.hostile.server LEVEL FOLDER`. Prints one JSON line with their ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
from pathlib import Path

from tests.hostile.attacks import ATTACKS, Attack, authority
from tests.hostile.wire import Wire


async def listen(attack: Attack) -> tuple[asyncio.Server, int]:
    """One attack on a port of its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError, ValueError):
            await attack.play(Wire(reader, writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    return server, server.sockets[0].getsockname()[1]


async def main(level: str, folder: Path) -> None:
    ports = {}
    servers = []
    for name, attack in ATTACKS.items():
        if attack.level == level:
            server, ports[name] = await listen(attack)
            servers.append(server)
    (folder / "hostile-ca.pem").write_bytes(authority().cert_pem.bytes())
    print(json.dumps({"ports": ports}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
