"""etcd is restored from a backup, under a watcher that runs and under one that begins: no attempt runs twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.controlplane import ControlPlane
from tests.stack import Own, Stack, until

ENDS = {"late": "Succeeded", "live": "Succeeded", "doomed": "Cancelled", "retried": "Running"}
RETRY = {"limit": 1, "strategy": "Fresh", "backoffSeconds": 0, "when": ["Failed", "Cancelled"]}


@pytest.fixture
async def stack(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack.up(plane, namespace, tmp_path, settings={"DBTRUN_LEADER_ELECTION": "false"}) as stack:
        yield stack


async def twice(stack: Stack) -> list[str]:
    """Attempts that were started more than once."""
    counted = Counter(run["cause"].partition(" ")[0] for run in await stack.runs())
    return [mark for mark, runs in counted.items() if runs > 1]


@pytest.mark.parametrize("bumped", [False, True], ids=["plain", "bump-revision"])
async def test_a_restored_etcd_starts_nothing_twice(
    stack: Stack, plane: ControlPlane, tmp_path: Path, bumped: bool
) -> None:
    late, live, doomed, retried = (Own(stack, name) for name in ("late", "live", "doomed", "retried"))
    await live.apply("endless")
    await doomed.apply("endless", retry=RETRY)
    await retried.apply("endless", retry=RETRY)
    for own in (live, doomed, retried):
        await own.reaches("Running")
    await stack.watcher.stop()
    await late.apply("success")
    await plane.snapshot(tmp_path / "backup")
    stack.watcher.start()
    await late.reaches("Succeeded")
    await live.finish(10)
    await live.reaches("Succeeded")
    await doomed.patch(cancel=True)
    await doomed.reaches("Cancelled")
    await retried.finish(20)

    async def second() -> bool:
        status = await retried.status()
        return len(status.get("attempts", [])) == 2 and status["phase"] == "Running"

    await until(second, 60, "the second attempt")
    started, phases = len(await stack.runs()), dict[str, str | None]()

    async def as_before() -> bool:
        phases.update({own.name: (await own.status()).get("phase") for own in (late, live, doomed, retried)})
        return phases == ENDS and await second()

    await plane.restore(tmp_path / "backup", bumped=bumped)
    await until(as_before, 180, "everything is as it was before the restore", pause=1.0)
    await stack.watcher.says("went back to older versions of DbtRuns")
    assert not await twice(stack)

    await stack.watcher.stop()
    await plane.restore(tmp_path / "backup", bumped=bumped)
    stack.watcher.start()
    await until(as_before, 180, "everything is as it was before the second restore", pause=1.0)
    assert not await twice(stack)
    assert len(await stack.runs()) == started
    events = await stack.events("late")
    assert any("RunFound" in str(event) for event in events), events
