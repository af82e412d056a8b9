"""`python -m dbtrun …` as a fork of a process that has its modules: to import them costs up to 0.7 s of a processor.

In modules of its own, without others of the tests: each fork would import them.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

COMMAND: Final = [sys.executable, "-m", "dbtrun"]
COMMANDS: Final = (COMMAND, [*COMMAND[:2], "tests.cluster.candidate"])
"""How a command line begins that can be forked."""
ROOT: Final = str(Path(__file__).parents[1])
MODULES: Final = [
    "__main__",
    "tests.forked",
    "dbtrun.cli.doctor.inside",
    "dbtrun.cli.starting",
    "watcher.app",
    "watcher.command",
    "watcher.cluster.kopf_operator",
    "watcher.simulator.command",
]

_server: Final = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(MODULES)


def stands_for(argv: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a fork does the same as a process: with settings for Python, such as a path to patches, it does not.

    Not in a bench or a campaign, which measures or stresses the process that users start.
    """
    settings = {key: value for key, value in env.items() if key.startswith("PYTHON")}
    usual = settings.items() <= {"PYTHONPATH": ROOT}.items()
    return "PYTEST_CURRENT_TEST" in os.environ and usual and list(argv[:3]) in COMMANDS


class Forked:
    """One running fork, with what `Program` uses of `subprocess.Popen`."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], out: Path, err: Path | None = None) -> None:
        """Starts it.

        Args:
            argv: one of COMMANDS with its arguments.
            env: all of its environment.
            out: what it writes is appended to this file.
            err: the same for standard error; None: that goes to `out`, too.
        """
        # A daemon is killed and not waited for when the tests end before it.
        self._process = _server.Process(
            target=_run, args=(list(argv), dict(env), str(out), str(err or out)), daemon=True
        )
        self._process.start()
        self._reading = threading.Lock()
        assert self._process.pid is not None
        self.pid: Final = self._process.pid
        with contextlib.suppress(ProcessLookupError):  # It has ended already.
            while os.getsid(self.pid) != self.pid and self.poll() is None:
                time.sleep(0.001)

    def poll(self) -> int | None:
        """Its exit code; None: it runs."""
        with self._reading:
            return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Waits for its end.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _run(argv: list[str], env: dict[str, str], out: str, err: str) -> None:
    """In the fork: becomes what a process of this command line, environment and output would be."""
    gc.freeze()  # Nobody collects the modules: each object that is looked at is copied.
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # However the tests were started.
    for standard, file in ((1, out), (2, err)):
        output = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(output, standard)
        os.close(output)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv[2:]
    runpy.run_module(argv[2], run_name="__main__", alter_sys=True)
