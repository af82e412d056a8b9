"""What `dbtrun top` costs the machine of whoever looks: 1,000 live runs, each of which changes twice a minute.

The API server is a small one in this process, which speaks HTTP as a real one does for lists and watches. The program
runs on a terminal of 120 columns and 50 lines. One JSON line; the exit code is 1 if the target is missed.

    python -m tests.bench.bench_top [--live 1000] [--seconds 30]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import pty
import struct
import sys
import tempfile
import termios
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
from aiohttp import web

from tests.stack import until
from tests.stack.program import kept
from tests.stack.site import ROOT, dbt_run

TARGET: Final = 5.0
"""Percent of a core."""
CHANGES_A_MINUTE: Final = 2
SETTLE_SECONDS: Final = 8.0
LINES, COLUMNS = 50, 120
PAGE: Final = 500


def live(number: int, version: int) -> dict[str, Any]:
    """A run in progress, as the API server sends it."""
    made = dbt_run(f"nightly-revenue-of-region-{number:04}")
    made["metadata"] |= {
        "namespace": f"team-{number % 20}", "uid": str(number), "resourceVersion": str(version),
        "creationTimestamp": "2026-11-26T08:00:00Z",
    }  # fmt: skip
    steps = [{"index": n, "name": f"Step {n}: Invoke dbt with `dbt build`", "status": "Success"} for n in range(1, 7)]
    conditions = [
        {"type": kind, "status": "True", "reason": "RunStarted", "message": "dbt Cloud is running it.",
         "lastTransitionTime": "2026-11-26T08:00:00Z", "observedGeneration": 1}
        for kind in ("Succeeded", "Finished", "Reachable", "Reconciling", "Stalled")
    ]  # fmt: skip
    made["status"] = {
        "phase": "Running", "reason": "RunStarted", "message": "dbt Cloud is running it.", "job": "Revenue by region",
        "jobId": 98765, "runId": 70403110300000 + number, "progress": f"{version % 7}/7", "steps": steps,
        "startedAt": "2026-11-26T08:00:10Z", "estimatedCompletionTime": "2030-01-01T00:00:00Z",
        "conditions": conditions,
    }  # fmt: skip
    return made


class ApiServer:
    """Lists and watches of live runs that change."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._versions = itertools.count(count + 1)
        self.sent = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """A page of the list, or the changes."""
        if "watch" in request.query:
            return await self._watch(request)
        start = int(request.query.get("continue", "0"))
        items = [live(number, number + 1) for number in range(start, min(start + PAGE, self._count))]
        following = str(start + PAGE) if start + PAGE < self._count else ""
        return web.json_response({"items": items, "metadata": {"resourceVersion": "1", "continue": following}})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in itertools.cycle(range(self._count)):
            event = {"type": "MODIFIED", "object": live(number, next(self._versions))}
            try:
                await response.write(json.dumps(event).encode() + b"\n")
            except ConnectionResetError:  # the program was ended
                break
            self.sent += 1
            await asyncio.sleep(60 / (self._count * CHANGES_A_MINUTE))
        return response

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its address."""
        application = web.Application()
        application.router.add_get("/{path:.*}", self.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def kubeconfig(address: str, folder: Path) -> Path:
    """A kubeconfig without a user."""
    file = folder / "kubeconfig"
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    file.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [context],
        "clusters": [{"name": "c", "cluster": {"server": address}}], "users": [{"name": "u", "user": {"token": "t"}}],
    }))  # fmt: skip
    return file


async def measured(count: int, seconds: float) -> tuple[float, int, int]:
    """Percent of a core, changes sent, and bytes written to the terminal."""
    server = ApiServer(count)
    with tempfile.TemporaryDirectory() as folder:
        async with server.serving() as address:
            leader, follower = pty.openpty()
            fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
            env = kept() | {"HOME": folder, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
            argv = (sys.executable, "-m", "dbtrun", "top", "--kubeconfig", str(kubeconfig(address, Path(folder))))
            program = await asyncio.create_subprocess_exec(
                *argv, env=env, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
            )
            os.close(follower)
            shown = bytearray()
            asyncio.get_running_loop().add_reader(leader, lambda: shown.extend(os.read(leader, 1 << 20)))
            try:

                async def complete() -> bool:
                    return f"{count} DbtRuns".encode() in shown

                await until(complete, 60, "every run is shown")
                await asyncio.sleep(SETTLE_SECONDS)
                process = psutil.Process(program.pid)
                before, began, sent = process.cpu_times(), asyncio.get_running_loop().time(), server.sent
                shown.clear()
                await asyncio.sleep(seconds)
                after, took = process.cpu_times(), asyncio.get_running_loop().time() - began
            finally:
                asyncio.get_running_loop().remove_reader(leader)
                program.kill()
                await program.wait()
                os.close(leader)
    used = after.user + after.system - before.user - before.system
    return 100 * used / took, server.sent - sent, len(shown)


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_top")
    parser.add_argument("--live", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    percent, sent, shown = asyncio.run(measured(options.live, options.seconds))
    at = datetime.now(UTC).isoformat(timespec="seconds")
    print(json.dumps({
        "bench": f"top, {options.live} live runs", "value": round(percent, 1), "unit": "% of a core", "target": TARGET,
        "met": percent <= TARGET, "changes": sent, "bytes_shown": shown, "at": at,
    }))  # fmt: skip
    return 0 if percent <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
