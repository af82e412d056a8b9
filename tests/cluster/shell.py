"""Somebody who types commands of `dbtrun`."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from click.testing import CliRunner

from dbtrun.cli.main import main
from tests import forked
from tests.controlplane import ControlPlane
from tests.patience import patience
from tests.stack.site import ROOT

SYNTAX: Final = frozenset("$`;&|<>(){}*?~#\n")
"""What bash does more with than to split it at spaces and quotes."""
FOLLOWS: Final = {"run", "retry"}
"""Commands that handle signals, which only the first thread of a process may do."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def forked_to_its_end(arguments: Sequence[str], env: Mapping[str, str]) -> Ended:
    """A command in a process, which need not import its modules."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        fork = forked.Forked([*forked.COMMAND, *arguments], env, out, err)
        return Ended(fork.wait(patience(60)), out.read_text(), err.read_text())


class Shell:
    """It has a kubeconfig whose context has the namespace."""

    def __init__(self, plane: ControlPlane, folder: Path, namespace: str) -> None:
        config = json.loads(plane.kubeconfig.read_text())
        config["contexts"][0]["context"]["namespace"] = namespace
        self.config = folder / "kubeconfig"
        self.config.write_text(json.dumps(config))
        self.env = {
            "HOME": str(folder), "KUBECONFIG": str(self.config), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
        }  # fmt: skip

    async def start(
        self, *arguments: str, interrupts: signal.Handlers = signal.SIG_DFL, **options: Any
    ) -> asyncio.subprocess.Process:
        """A process of its own. Whether it gets interrupts does not depend on how the tests were started."""
        pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        pipes = {"stdout": pipe, "stderr": pipe, "stdin": nothing}
        argv = (sys.executable, "-m", "dbtrun", *arguments)
        options = pipes | {"preexec_fn": lambda: signal.signal(signal.SIGINT, interrupts)} | options
        return await asyncio.create_subprocess_exec(*argv, env=self.env, **options)

    async def completes(self, *typed: str) -> list[str]:
        """What the shell offers for the last of the words."""
        script = "from dbtrun.cli.completion import complete; complete()"
        argv = (sys.executable, "-c", script, *typed)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, env=self.env, stdout=pipe, stderr=pipe)
        return [line for line in (await self.ends(process)).out.splitlines() if not line.startswith(":")]

    async def ends(self, process: asyncio.subprocess.Process) -> Ended:
        async with asyncio.timeout(patience(60)):
            out, err = await process.communicate()
        return Ended(process.returncode or 0, (out or b"").decode(), (err or b"").decode())

    async def hears(self, process: asyncio.subprocess.Process, words: str) -> None:
        """Waits for a line with these words on standard error."""
        assert process.stderr is not None
        async with asyncio.timeout(patience(60)):
            while words.encode() not in (line := await process.stderr.readline()):
                assert line, f"it ended before it said {words!r}"

    async def runs(self, command: str) -> Ended:
        """A whole command line: in bash, if it is more than a command with its arguments."""
        program, *arguments = shlex.split(command)
        if program == "dbtrun" and not SYNTAX.intersection(command):
            return await self.types(*arguments)
        line = f'dbtrun() {{ "{sys.executable}" -m dbtrun "$@"; }}; {command}'
        pipe = asyncio.subprocess.PIPE
        return await self.ends(
            await asyncio.create_subprocess_exec("bash", "-c", line, env=self.env, stdout=pipe, stderr=pipe)
        )

    async def types(self, *arguments: str) -> Ended:
        """A command with its arguments: in this process where it can be, as to start Python costs it a second."""
        if arguments[0] in FOLLOWS:
            ended = await asyncio.to_thread(forked_to_its_end, arguments, self.env)
        else:
            ended = await asyncio.to_thread(self._invoked, arguments)
        assert "Traceback" not in ended.err, ended.err
        return ended

    def _invoked(self, arguments: tuple[str, ...]) -> Ended:
        result = CliRunner(env=self.env).invoke(main, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)
