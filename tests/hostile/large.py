"""Many runs of a large project end at once: `python -m tests.hostile.large RUNS MEGABYTES` prints what that costs.

The server is a process of its own, so that only the client's memory counts.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
from multiprocessing.connection import Connection as Pipe

from dbtrun.connection.secret import Connection, Token
from tests.hostile.beats import blocks
from tests.hostile.memory import peak_mib
from tests.hostile.replies import http
from tests.hostile.wire import Wire
from tests.patience import patience
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.intake import Intake

ACCOUNTS = 12
"""Connections that share the runs: one connection reads one file at a time, however many of its runs end."""


def serve(pipe: Pipe, megabytes: int) -> None:
    """A dbt Cloud that has nothing but one run_results.json."""
    node = {
        "status": "success", "unique_id": "model.shop.orders", "message": "SUCCESS 1", "failures": None,
        "timing": [{"name": "compile", "started_at": "2026-01-01T00:00:00Z"}] * 2, "adapter_response": {"code": "S"},
        "compiled_code": "select * from x where " + "a = 1 and " * 400,
    }  # fmt: skip
    nodes = megabytes * 1_000_000 // len(json.dumps(node))
    reply = http(json.dumps({"results": [node] * nodes}).encode())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        while await wire.request() is not None:
            await wire.send(reply)

    async def listen() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(listen())


async def measure(port: int, runs: int) -> dict[str, int]:
    """Reads the results of so many runs at once."""
    block, intake = 0.0, Intake()

    async def beat() -> None:
        nonlocal block
        async for late in blocks():
            block = max(block, late)

    clients = [
        Client(
            Connection(host=f"127.0.0.1:{port}", account_id=number + 1, token=Token("t"), tls=False),
            total_seconds=patience(300),
            intake=intake,
        )
        for number in range(ACCOUNTS)
    ]
    before = peak_mib()
    beating = asyncio.create_task(beat())
    read = await asyncio.gather(*(clients[number % ACCOUNTS].results(number + 1) for number in range(runs)))
    beating.cancel()
    return {
        "read": sum(each is not None and each.counts["success"] > 1_000 for each in read),
        "before_mib": before,
        "peak_mib": peak_mib(),
        "longest_block_ms": round(1000 * block),
    }


def main(runs: int, megabytes: int) -> None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, megabytes), daemon=True)
    server.start()
    print(json.dumps(asyncio.run(measure(ours.recv(), runs))))
    server.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
