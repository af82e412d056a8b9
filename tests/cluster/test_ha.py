"""Two watchers: one acts, the other stands by, and nothing happens twice when they change places."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.controlplane import ControlPlane
from tests.patience import patience
from tests.stack import Own, Program, Stack
from tests.stack.stack import page

WATCHING = r'"Watching \d+ DbtRuns'
FAIL_OVER_SECONDS = 20.0
HAND_OVER_SECONDS = 10.0
"""A Lease that was not released is waited for longer: 15 s. A standby looks about every 2 s."""


class Pair(NamedTuple):
    """A system whose watcher holds the Lease, and a second watcher that waits for it."""

    stack: Stack
    standby: Program


@asynccontextmanager
async def paired(plane: ControlPlane, namespace: str, folder: Path) -> AsyncIterator[Pair]:
    async with Stack.up(plane, namespace, folder) as stack:
        await stack.watcher.says(WATCHING)
        standby = stack.another_watcher("standby")
        standby.start()
        await standby.says("Waiting for the Lease")
        yield Pair(stack, standby)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """Shared by tests that leave it as it was."""
    await asyncio.to_thread(plane.create_namespace_sync, "pair")
    async with paired(plane, "pair", tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
async def own_pair(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Pair]:
    """For a test that kills or freezes one of them."""
    async with paired(plane, namespace, tmp_path) as pair:
        yield pair


async def run_to_its_end(stack: Stack, name: str) -> None:
    own = Own(stack, name)
    await own.apply()
    await own.reaches("Succeeded", seconds=90)
    assert len(await own.runs()) == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_only_the_holder_acts(pair: Pair) -> None:
    await run_to_its_end(pair.stack, "before")
    assert "Submitting (Claimed)" in pair.stack.watcher.text()
    assert "Submitting (Claimed)" not in pair.standby.text()


@pytest.mark.asyncio(loop_scope="module")
async def test_holder_and_standby_can_be_told_apart(pair: Pair) -> None:
    stack, standby = pair
    assert "dbtrun_leader 1.0" in (await page(stack.watcher, "/metrics")).text
    assert "dbtrun_leader 0.0" in (await page(standby, "/metrics")).text
    (lease,) = (await stack.json("get", "leases"))["items"]
    holder = lease["spec"]["holderIdentity"]
    assert holder.startswith(f"{stack.watcher.env['POD_NAME']}_")
    ready = [await page(program, "/readyz") for program in (stack.watcher, standby)]
    assert [(each.status_code, each.text) for each in ready] == [
        (200, "ok"), (200, f"ok\nstandby: {holder} holds the Lease"),
    ]  # fmt: skip


# The last of those that share a pair, which it ends.
@pytest.mark.asyncio(loop_scope="module")
async def test_a_clean_stop_hands_over_at_once(pair: Pair) -> None:
    stack, standby = pair
    stack.watcher.send(signal.SIGTERM)
    assert await stack.watcher.wait(30) == 0
    released = time.monotonic()
    await standby.says(WATCHING)
    took = time.monotonic() - released
    print(f"handed over {took:.1f} s after the holder had ended")
    assert took <= patience(HAND_OVER_SECONDS)
    await run_to_its_end(stack, "after")


async def test_a_killed_holder_is_replaced(own_pair: Pair) -> None:
    stack, standby = own_pair
    own = Own(stack, "a")
    await own.apply("endless")
    await own.reaches("Running")
    await stack.watcher.kill()
    killed = time.monotonic()
    await standby.says(WATCHING)
    took = time.monotonic() - killed
    print(f"replaced {took:.1f} s after kill -9")
    assert took <= patience(FAIL_OVER_SECONDS)
    await own.finish(10)
    await own.reaches("Succeeded")
    assert len(await own.runs()) == 1


async def test_a_holder_that_was_frozen_does_nothing_more(own_pair: Pair) -> None:
    stack, standby = own_pair
    stack.watcher.send(signal.SIGSTOP)
    await standby.says(WATCHING, seconds=FAIL_OVER_SECONDS + 10)
    said = len(stack.watcher.text())
    own = Own(stack, "a")
    await own.apply("endless")
    await own.reaches("Running")
    stack.watcher.send(signal.SIGCONT)
    assert await stack.watcher.wait(30) == 1, "a watcher that lost its Lease ends"
    await own.finish(10)
    await own.reaches("Succeeded")
    after = stack.watcher.text()[said:]
    assert "The Lease was lost" in after
    assert "Submitting (Claimed)" not in after
    assert len(await own.runs()) == 1
