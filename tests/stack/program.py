"""A process under test: its output in a file, its end asserted, nothing left of it, even after kill -9 of the tests."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests import forked
from tests.controlplane.supervisor import Supervisor
from tests.patience import patience
from tests.stack.waiting import until

KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Of the environment of whoever runs the tests, a program under test gets these and no more."""


def kept() -> dict[str, str]:
    """What a program under test gets of our environment."""
    return {key: os.environ[key] for key in KEPT if key in os.environ}


class ProgramError(AssertionError):
    """A program ended, or did not say what was waited for; the message shows its last lines."""


@functools.cache
def _heir(owner: int) -> Supervisor:
    """Ends what process `owner`, this one, leaves behind, with all that it started."""
    return Supervisor(Path(tempfile.mkdtemp(prefix=f"dbtrun-tests-{owner}-")))


class Program:
    """One process with its log."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        user: str | int | None = None,
        folder: Path | None = None,
    ) -> None:
        """Args: folder: where it runs; by default where the tests do."""
        self.name, self.argv, self.log, self.user, self.folder = name, list(argv), log, user, folder
        self.env = kept() | dict(env)
        self._process: subprocess.Popen[bytes] | forked.Forked | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it; what it says is appended to the log."""
        heir = _heir(os.getpid())
        self._process = forked.Forked(self.argv, self.env, self.log) if self._forks() else self._opened()
        heir.adopt(self.pid)

    def _forks(self) -> bool:
        return self.user is None and self.folder is None and forked.stands_for(self.argv, self.env)

    def _opened(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self.argv,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=self.user,
                cwd=self.folder,
            )

    async def says(self, pattern: str, seconds: float = 90.0, after: int = 0) -> re.Match[str]:
        """Waits for a match in the log, beyond its first `after` characters."""

        async def found() -> re.Match[str] | None:
            match = re.search(pattern, self.text()[after:])
            if match is None and not self.running:
                raise ProgramError(f"{self.name} ended before it said {pattern!r}:\n{self.tail()}")
            return match

        return await until(found, seconds, f"{self.name} saying {pattern!r}", pause=0.1)

    async def stop(self, seconds: float = 30.0) -> int:
        """Ends it as Kubernetes would, and returns its exit code."""
        return await self._end(signal.SIGTERM, seconds)

    async def interrupt(self, seconds: float = 30.0) -> int:
        """Ends it as Ctrl-C would, and returns its exit code."""
        return await self._end(signal.SIGINT, seconds)

    async def kill(self) -> None:
        """Ends it as a crash would: nothing of it runs another instruction."""
        await self._end(signal.SIGKILL, 10.0)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self, seconds: float) -> int:
        assert self._process is not None
        try:
            return await asyncio.to_thread(self._process.wait, patience(seconds))
        except subprocess.TimeoutExpired:
            raise ProgramError(f"{self.name} did not end in {seconds:g} s:\n{self.tail()}") from None

    async def _end(self, number: signal.Signals, seconds: float) -> int:
        assert self._process is not None
        if self.running:
            self._process.send_signal(number)
        return await self.wait(seconds)

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 25) -> str:
        return "\n".join(self.text().splitlines()[-lines:])
