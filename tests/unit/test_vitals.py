"""What stands still is told: a part by its silence, the event loop by a thread, and the process ends if it must."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from watcher.telemetry.health import LIMITS, Checks, health_app
from watcher.telemetry.metrics import Metrics
from watcher.telemetry.serving import serve
from watcher.telemetry.vitals import Heart, Vitals

ROOT = Path(__file__).parents[2]


def test_a_part_that_stands_still_is_logged_once_and_once_when_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    silences = iter([10.0, 301.0, 302.0, 0.0, 0.0])
    vitals = Vitals()
    vitals.watch("poller", 300, lambda: next(silences))
    for _ in range(5):
        vitals.tell()
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("ERROR", "The poller has made no progress for 301 s (limit 300 s)."),
        ("WARNING", "The poller makes progress again."),
    ]


class Process:
    """A loop with its heart and its probes, in a thread: the test asks from outside, as Kubernetes does."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.ended: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ready = threading.Event()
        self.released = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = health_app(Checks(Vitals(), ready=lambda: None), self.metrics)
        heart = Heart(self.metrics.loop_lag.observe, beat=0.05, told_after=4, ended_after=20, end=self.ended.append)
        tasks = [asyncio.create_task(serve(app, self._listener, LIMITS)), asyncio.create_task(heart.run())]
        self._ready.set()
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    def block(self) -> None:
        """What a call does that does not give the loop back, until it is released."""
        self._loop.call_soon_threadsafe(self.released.wait)

    def alive(self, seconds: float) -> bool:
        """The probe's answer, or False if none comes in time."""
        try:
            return httpx.get(f"{self.url}/healthz", timeout=seconds, trust_env=False).status_code == 200
        except httpx.ReadTimeout:
            return False

    @contextmanager
    def running(self) -> Iterator[None]:
        self.thread.start()
        assert self._ready.wait(10)
        try:
            yield
        finally:
            self.released.set()
            self._loop.call_soon_threadsafe(self._stop.set)
            self.thread.join(10)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_blocked_loop_fails_the_probe_is_logged_with_its_place_and_heals(caplog: pytest.LogCaptureFixture) -> None:
    def told() -> list[str]:
        return [record.message for record in caplog.records if "blocked for" in record.message]

    process = Process()
    with process.running():
        assert process.alive(30)
        process.block()
        assert not process.alive(1.0)
        wait_for(lambda: "in wait (" in "".join(told()))
        process.released.set()
        assert process.alive(30)
        wait_for(lambda: slow_beats(process) > 0)


def slow_beats(process: Process) -> float:
    """Beats that came more than half a second late."""
    shown = httpx.get(f"{process.url}/metrics", timeout=30, trust_env=False).text.splitlines()
    counts = {name: float(count) for name, _, count in (line.rpartition(" ") for line in shown if line[0] != "#")}
    return counts["dbtrun_loop_lag_seconds_count"] - counts['dbtrun_loop_lag_seconds_bucket{le="0.5"}']


def test_a_loop_that_stays_blocked_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    process = Process()
    with process.running():
        process.block()
        wait_for(lambda: any("The event loop has been blocked for 1 s in wait (" in why for why in process.ended))


PROGRAM = """
import asyncio, sys, threading
from watcher.telemetry.vitals import Heart

async def main():
    heart = asyncio.create_task(Heart(lambda lag: None, beat=0.05, told_after=4, ended_after=20).run())
    await asyncio.sleep(0.1)
    print("beating", flush=True)
    if sys.argv[1] == "block":
        threading.Event().wait()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


def program(what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_process_whose_loop_stays_blocked_ends_with_one_line_and_a_code() -> None:
    with program("block") as blocked:
        _, error = blocked.communicate(timeout=60)
        assert blocked.returncode == 1
        assert error.splitlines()[-1].startswith("Error: The event loop has been blocked for 1 s in wait (")


def test_a_process_that_was_stopped_and_goes_on_is_not_taken_for_blocked() -> None:
    with program("run") as stopped:
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "beating\n"
        stopped.send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            stopped.wait(2.5)
        stopped.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            stopped.wait(0.5)
        _, error = stopped.communicate("\n", timeout=60)
        assert (stopped.returncode, error) == (0, "")
