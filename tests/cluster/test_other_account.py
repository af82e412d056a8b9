"""The connection comes to mean another account in which runs have the same numbers: nobody there is touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.controlplane import ControlPlane
from tests.stack import Own, Stack, until
from tests.stack.dbt import JOBS, SCENARIO, DbtCloud
from tests.stack.stack import SECRET, page

STRANGERS: Final = 5
LIST_LAG: Final = 20.0
"""Seconds; with the time that a start may take within the quiet period."""
PATIENCE: Final = 180.0
"""Seconds; a connection that works is read again after some time."""
SETTINGS: Final = {
    "DBTRUN_LEADER_ELECTION": "false",
    "DBTRUN_SUBMIT_WINDOW_SECONDS": "5",
    "DBTRUN_REQUEST_SECONDS": "10",
    "DBTRUN_QUIET_PERIOD_SECONDS": "40",
}
"""A lost answer is found out about sooner."""


@pytest.fixture
async def stack(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack.up(plane, namespace, tmp_path, settings=SETTINGS) as stack:
        yield stack


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[DbtCloud]:
    """Another dbt Cloud of the same account number, with runs of somebody else that have the first numbers."""
    folder = tmp_path / "other"
    folder.mkdir()
    async with DbtCloud.serving(folder, SCENARIO) as other:
        for _ in range(STRANGERS):
            await other.ask("POST", "/runs", {"job_id": JOBS["endless"]})
        yield other


async def displaced(own: Own) -> None:
    async def told() -> bool:
        condition = await own.condition("Reachable")
        return (condition.get("status"), condition.get("reason")) == ("False", "OtherAccount")

    await until(told, PATIENCE, f"{own.name} says that its runs are in another account", pause=0.5)


async def theirs(other: DbtCloud) -> list[tuple[int, bool]]:
    """The runs of the other dbt Cloud, and whether each goes on."""
    return [(run["id"], run["status"] < 10) for run in await other.runs()]


async def test_a_run_of_the_same_number_is_neither_followed_nor_cancelled_in_another_account(
    stack: Stack, other: DbtCloud
) -> None:
    live, cancelled, deleted, undecided = (Own(stack, name) for name in ("live", "cancelled", "deleted", "undecided"))
    for own in (live, cancelled, deleted):
        await own.apply("endless")
        await own.reaches("Running")
    before = await theirs(other)
    numbers = {run["id"] for run in await stack.runs()}
    assert numbers & {number for number, _ in before}, "runs of both have the same numbers"
    await stack.ask("POST", "/faults", {"effect": {"type": "drop", "when": "after"}, "kinds": ["start"], "times": 1})
    lag = {"type": "list-lag", "seconds": LIST_LAG}
    await stack.ask("POST", "/faults", {"effect": lag, "kinds": ["list-runs"], "times": 1_000})
    await undecided.apply("endless")
    await undecided.reaches("Submitting", "Pending", reason="LookingUp")

    await stack.apply(stack.secret(SECRET, other.keys()))
    await stack.watcher.kill()
    stack.watcher.start()
    for own in (live, cancelled, deleted, undecided):
        await displaced(own)
    await cancelled.patch(cancel=True)
    await stack.delete("deleted")
    await other.ask("POST", f"/runs/{before[0][0]}/finish", {"status": 20})
    started = Own(stack, "started")
    await started.apply("success")  # nobody claimed it before: it belongs there
    await started.reaches("Succeeded")
    assert (await live.status())["phase"] == "Running"
    assert (await theirs(other))[1:STRANGERS] == before[1:]
    assert len(await other.runs()) == STRANGERS + 1

    await stack.connect()
    await cancelled.reaches("Cancelled", seconds=PATIENCE)
    await stack.gone("deleted", seconds=PATIENCE)
    await undecided.reaches("Running", seconds=PATIENCE)
    await live.finish(10)
    await live.reaches("Succeeded")
    assert [len(await own.runs()) for own in (live, cancelled, undecided)] == [1, 1, 1]
    assert (await theirs(other))[1:STRANGERS] == before[1:]


async def test_two_watchers_with_different_accounts_notice_each_other(stack: Stack, other: DbtCloud) -> None:
    await stack.apply(stack.secret("other", other.keys()))
    live = Own(stack, "live")
    await live.apply("endless")
    await live.reaches("Running")
    rival = stack.another_watcher("rival")
    rival.env["DBTRUN_CONNECTION_SECRET"] = "other"
    rival.start()
    await rival.says(r"Watching \d+ DbtRuns")

    async def noticed() -> bool:
        return "dbtrun_contested_objects 1.0" in (await page(rival, "/metrics")).text

    await until(noticed, PATIENCE, "the other watcher notices", pause=0.5)

    async def told() -> bool:
        return any(reason == "OtherAccount" for reason, _ in await stack.events("live"))

    await until(told, 60, "an Event tells it")
    version: Any = None

    async def settled() -> bool:
        nonlocal version
        before, version = version, (await stack.get("live"))["metadata"]["resourceVersion"]
        return bool(before == version)

    await until(settled, PATIENCE, "they do not quarrel", pause=6)
    assert (await live.status())["phase"] == "Running"
    await live.finish(20)
    await live.reaches("Failed")
    assert len(await other.runs()) == STRANGERS
