"""The watcher as a container image runs it: a uid that no passwd file knows, no HOME, a folder it cannot write to."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.controlplane import ControlPlane
from tests.stack import Own, Stack
from tests.stack.program import Program
from tests.stack.site import ROOT

UID = 1000680000
"""As OpenShift chooses them."""
ASK = """
import getpass, os
from pathlib import Path
assert not os.access(".", os.W_OK)
for ask in (getpass.getuser, Path.home):
    try:
        ask()
    except (KeyError, OSError, RuntimeError):
        continue
    raise SystemExit(f"{ask} has an answer")
"""

TRIGGER = """
import asyncio
from dbtrun.kube.config import ClusterConfig
from airflow_trigger.waiting.hub import subscribe

async def main():
    async with subscribe(ClusterConfig(config_file="/no/such/file"), "default", "a") as states:
        print(await anext(states))

asyncio.run(main())
"""

pytestmark = pytest.mark.asyncio(loop_scope="module")


def as_unknown_user(name: str, argv: list[str], env: dict[str, str], folder: Path) -> Program:
    """A program of that uid: in a user namespace, which lets it read this user's files, else by root's setuid."""
    cell = folder / "read-only"
    cell.mkdir(mode=0o555, exist_ok=True)
    log, env = folder / f"{name}.log", {key: value for key, value in env.items() if key != "HOME"}
    mapped = ["unshare", "--user", f"--map-user={UID}", f"--map-group={UID}", "--"]
    if subprocess.run([*mapped, "true"], capture_output=True, check=False).returncode == 0:
        return Program(name, mapped + argv, env, log, folder=cell)
    assert os.geteuid() == 0, (
        "unshare (util-linux) cannot make a user namespace here: allow it, or run the tests as root"
    )
    return Program(name, argv, env, log, user=UID, folder=cell)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, "any-user")
    async with Stack.up(plane, "any-user", tmp_path_factory.mktemp("any-user")) as stack:
        await stack.watcher.says("Watching 0 DbtRuns")
        await stack.watcher.stop()
        stack.watcher = as_unknown_user("unknown", stack.watcher.argv, stack.watcher.env, stack.folder)
        stack.watcher.start()
        await stack.watcher.says("Watching 0 DbtRuns")
        yield stack


async def test_the_process_has_neither_name_nor_home_nor_a_writable_folder(tmp_path: Path) -> None:
    asking = as_unknown_user("asking", [sys.executable, "-c", ASK], {"PYTHONPATH": str(ROOT)}, tmp_path)
    asking.start()
    assert await asking.wait(30.0) == 0, asking.tail()


async def test_its_watch_works_and_not_only_its_first_listing(stack: Stack) -> None:
    own = Own(stack, "first")
    await own.apply("success")
    await own.reaches("Succeeded")
    assert "The watch ended" not in stack.watcher.text()


async def test_the_triggers_client_works_too(tmp_path: Path) -> None:
    asking = as_unknown_user("trigger", [sys.executable, "-c", TRIGGER], {"PYTHONPATH": str(ROOT)}, tmp_path)
    asking.start()
    assert await asking.wait(120.0) == 0, asking.tail()
    assert "/no/such/file does not exist" in asking.text()
