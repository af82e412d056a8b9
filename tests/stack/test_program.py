"""Nothing that the tests start outlives them."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.controlplane.supervisor import Supervisor
from tests.stack import Program, until
from tests.stack.program import ProgramError

ROOT = Path(__file__).parents[2]
PARENT_AND_CHILD = "import os, signal; os.fork(); print(f'pid {os.getpid()}', flush=True); signal.pause()"
TESTS = f"""
import asyncio, signal, sys
from pathlib import Path
from tests.stack import Program

program = Program("family", [sys.executable, "-c", {PARENT_AND_CHILD!r}], {{}}, Path(sys.argv[1]))
program.start()
print("started", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_a_program_and_its_children_die_with_the_tests(tmp_path: Path, end: signal.Signals) -> None:
    log = tmp_path / "family.log"
    tests = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TESTS, str(log), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert tests.stdout is not None
    try:
        assert await tests.stdout.readline() == b"started\n"
        family = await until(lambda: both(log), what="parent and child")
    finally:
        tests.send_signal(end)
        await tests.wait()
    await until(lambda: gone(family), what=f"{family} gone")


async def test_a_program_that_ends_early_shows_its_last_words(tmp_path: Path) -> None:
    program = Program("short", [sys.executable, "-c", "print('last words')"], {}, tmp_path / "short.log")
    program.start()
    with pytest.raises(ProgramError, match=r"short ended before it said 'ready'(.|\n)*last words"):
        await program.says("ready")


def session(script: str) -> tuple[int, str]:
    """The number of a session whose leader has ended, and what that printed."""
    with subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, text=True) as leader:
        assert leader.stdout is not None
        return leader.pid, leader.stdout.readline()


async def test_a_session_that_is_over_is_forgotten_as_strangers_get_its_number(tmp_path: Path) -> None:
    """Where a few suites run at once, the numbers of processes come again within minutes."""
    (over, _), (living, child) = session("true"), session("sleep 300 & echo $!")
    supervisor = Supervisor(tmp_path)
    try:
        for each in (over, living):
            supervisor.adopt(each)

        async def forgotten() -> bool:
            return await asyncio.to_thread(supervisor.adopted) == [living]

        await until(forgotten, what="only the session of which a process lives")
    finally:
        await asyncio.to_thread(supervisor.close)
    assert not psutil.pid_exists(int(child))


async def both(log: Path) -> list[psutil.Process] | None:
    text = await asyncio.to_thread(log.read_text) if await asyncio.to_thread(log.exists) else ""
    pids = [int(line.removeprefix("pid ")) for line in text.splitlines()]
    return [psutil.Process(pid) for pid in pids] if len(pids) == 2 else None


async def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)
