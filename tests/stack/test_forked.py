"""A fork is started, told and ended as the process that it stands for."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import forked
from tests.stack import Program, until

ROOT = Path(__file__).parents[2]
WATCHER = [*forked.COMMAND, "watcher"]
SIMULATE = [*forked.COMMAND, "simulate", "--port", "0"]
TESTS = f"""
import asyncio, os, signal, sys
from pathlib import Path
from tests.stack import Program

if __name__ == "__main__":
    os.environ["PYTEST_CURRENT_TEST"] = "this"
    wrong = Program("watcher", {WATCHER!r}, {{"HOME": "/"}}, Path(sys.argv[1]))
    wrong.start()
    print(asyncio.run(wrong.wait(60)), flush=True)
    program = Program("simulator", {SIMULATE!r}, {{}}, Path(sys.argv[1]))
    program.start()
    print(program.pid, flush=True)
    signal.pause()
"""


def program(folder: Path, *arguments: str, **env: str) -> Program:
    return Program("dbtrun", [*forked.COMMAND, *arguments], env, folder / "dbtrun.log")


@pytest.mark.parametrize(
    ("arguments", "env"),
    [(["--version"], {}), (["no-such-command"], {}), (["watcher"], {"DBTRUN_LISTEN": "x"}), (["get"], {})],
)
async def test_its_exit_code_and_its_words_are_those_of_a_process(
    tmp_path: Path, arguments: list[str], env: dict[str, str]
) -> None:
    fork = program(tmp_path, *arguments, **env)
    fork.start()
    assert isinstance(fork._process, forked.Forked)
    code = await fork.wait(60)
    process = await asyncio.create_subprocess_exec(
        *fork.argv, env=fork.env, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await process.communicate()
    assert (code, fork.text()) == (process.returncode, told.decode())


async def test_a_program_that_python_is_to_patch_is_a_process(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('patched')")
    patched = program(tmp_path, "--version", PYTHONPATH=f"{tmp_path}:{ROOT}")
    patched.start()
    assert await patched.wait(60) == 0
    assert patched.text().startswith("patched\n")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)]
)
async def test_it_gets_signals_and_its_end_is_known(tmp_path: Path, number: signal.Signals, code: int) -> None:
    fork = program(tmp_path, "simulate", "--port", "0")
    fork.start()
    await fork.says("simulator: ")
    with pytest.raises(subprocess.TimeoutExpired):
        await asyncio.to_thread(fork._process.wait, 0.01)  # type: ignore[union-attr]
    fork.send(number)
    assert await fork.wait(30) == code
    assert not fork.running
    assert not psutil.pid_exists(fork.pid)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_it_has_no_settings_of_the_tests_and_dies_with_them(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "suite.py"
    script.write_text(TESTS)
    tests = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        str(tmp_path / "log"),
        env={"PYTHONPATH": str(ROOT), "DBTRUN_LOG_LEVEL": "loud"},
        stdout=asyncio.subprocess.PIPE,
    )
    assert tests.stdout is not None
    try:
        assert await tests.stdout.readline() == b"1\n", "a wrong setting would be a usage error"
        fork = psutil.Process(int(await tests.stdout.readline()))
        server = fork.parent()
        assert server is not None
    finally:
        tests.send_signal(end)
        await tests.wait()

    async def gone() -> bool:
        return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in (fork, server))

    await until(gone, what="the fork and its server gone")
