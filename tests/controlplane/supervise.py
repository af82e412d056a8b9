"""Owns the processes of one control plane, or adopts others, so that they never outlive whoever started it.

A finalizer does not run after `kill -9`. This process does: it sees the end of the pipe from its owner (or that the
owner is gone, when a fork of the owner still holds the pipe), kills what it started and removes the working folder. It
is a session of its own, so a Ctrl-C meant for the owner does not reach it. Standard library only: it starts at once.

Requests are JSON lines on stdin, answers JSON lines on stdout.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OWNER_CHECK_SECONDS = 0.5
KILL_ROUNDS, KILL_ROUND_SECONDS = 50, 0.1
_PR_SET_PDEATHSIG = 1


class Children:
    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._adopted: set[int] = set()
        self._last: list[list[str]] = []
        self._before_exec = _die_with_parent()

    def start(self, name: str, argv: list[str], env: dict[str, str], log: str) -> int:
        with Path(log).open("ab") as output:
            process = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=self._before_exec
            )
        self._processes[name] = process
        return process.pid

    def stop(self, name: str, grace: float) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def signal(self, name: str, number: int) -> None:
        self._processes[name].send_signal(number)

    def adopt(self, session: int) -> None:
        """At the end, kill whoever is in a session that the owner began."""
        self._adopted.add(session)

    def adopted(self) -> list[int]:
        return sorted(self._adopted)

    def forget(self) -> None:
        """Drop sessions that are over: where many processes start, strangers have their numbers within minutes."""
        without_leader = {session for session in self._adopted if _session_of(session) != session}
        if without_leader:
            self._adopted -= without_leader - {_session_of(pid) for pid in _pids()}

    def at_end(self, argv: list[str]) -> None:
        """Run a command once everybody is dead."""
        self._last.append(argv)

    def clean(self) -> None:
        for argv in self._last:
            subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)

    def exited(self) -> dict[str, int]:
        codes = {name: process.poll() for name, process in self._processes.items()}
        return {name: code for name, code in codes.items() if code is not None}

    def kill(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        for _ in range(KILL_ROUNDS):  # They may fork meanwhile.
            found = [pid for pid in _pids() if _session_of(pid) in self._adopted]
            if not found:
                return
            for pid in found:
                _kill(pid)
            time.sleep(KILL_ROUND_SECONDS)


def _pids() -> list[int]:
    if Path("/proc/self").exists():
        return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    listed = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True)
    return [int(pid) for pid in listed.stdout.split()]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # It is gone, or belongs to somebody else.
        return None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _die_with_parent() -> Callable[[], None] | None:
    """Linux only: the kernel kills the children of a supervisor that is itself killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _requests(owner: int, in_between: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yield requests until the owner is gone."""
    buffer = b""
    while os.getppid() == owner:
        in_between()
        if not select.select([0], [], [], OWNER_CHECK_SECONDS)[0]:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        yield from map(json.loads, lines)


def _answer(children: Children, request: dict[str, Any]) -> dict[str, Any]:
    action = getattr(children, request["do"])
    try:
        return {"result": action(**request["with"])}
    except (OSError, KeyError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main(owner: int, workdir: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    children = Children()
    try:
        for request in _requests(owner, children.forget):
            if request["do"] == "exit":
                return
            os.write(1, json.dumps(_answer(children, request)).encode() + b"\n")
    except BrokenPipeError:
        pass  # The owner died between its question and our answer.
    finally:
        children.kill()
        children.clean()
        shutil.rmtree(workdir, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
