"""The owner's end of the pipe to `supervise.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.controlplane.errors import ControlPlaneError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from signal import Signals

_SCRIPT = Path(__file__).with_name("supervise.py")
_CLOSE_SECONDS = 60.0


class Supervisor:
    """Starts, stops and signals named processes. Safe to use from several threads."""

    def __init__(self, workdir: Path) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_SCRIPT), str(os.getpid()), str(workdir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=workdir,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def crashed(self) -> bool:
        """It ended without the chance to kill its children."""
        return bool(self._process.poll())

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> int:
        """Start a process under a name and return its pid."""
        return int(self._ask("start", name=name, argv=list(argv), env=dict(env), log=str(log)))

    def stop(self, name: str, grace: float = 0.0) -> None:
        """End a process: politely, and by force after `grace` seconds."""
        self._ask("stop", name=name, grace=grace)

    def signal(self, name: str, signal: Signals) -> None:
        self._ask("signal", name=name, number=int(signal))

    def adopt(self, session: int) -> None:
        """Kill whoever is in this session when the owner is gone."""
        self._ask("adopt", session=session)

    def adopted(self) -> list[int]:
        """The adopted sessions that are not over."""
        sessions: list[int] = self._ask("adopted")
        return sessions

    def at_end(self, argv: Sequence[str]) -> None:
        """Run a command when the owner is gone and the processes are dead, before the folder is removed."""
        self._ask("at_end", argv=list(argv))

    def exited(self) -> dict[str, int]:
        """Exit codes of the processes that ended by themselves."""
        codes: dict[str, int] = self._ask("exited")
        return codes

    def close(self) -> None:
        """Kill everything and wait until it is gone."""
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                self._process.stdin.write(b'{"do": "exit"}\n')
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # It is gone already.
            try:
                self._process.wait(_CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()

    def _ask(self, action: str, **arguments: Any) -> Any:
        line = json.dumps({"do": action, "with": arguments}).encode() + b"\n"
        with self._lock:
            answer = self._exchange(line)
        if "error" in answer:
            raise ControlPlaneError(f"The supervisor could not {action} {arguments.get('name', '')}: {answer['error']}")
        return answer["result"]

    def _exchange(self, line: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except (OSError, ValueError):
            answer = b""
        if not answer:
            raise ControlPlaneError("The control plane is gone: its supervisor was stopped.")
        decoded: dict[str, Any] = json.loads(answer)
        return decoded
