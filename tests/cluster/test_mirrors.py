"""Runs that others start appear as DbtRuns, on a real API server with a watcher that is killed on the way."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.controlplane import ControlPlane
from tests.node.documents import commands
from tests.stack import Stack, until
from tests.stack.dbt import JOBS
from tests.stack.mirrors import condition, elsewhere, mirror, mirrored, ready, status
from tests.stack.site import ROOT

SETTINGS: Final = {"DBTRUN_LEADER_ELECTION": "false"}
PATIENCE: Final = 120.0
SPAN: Final = 15.0
"""Seconds in which the requests of an idle account are counted."""


@pytest.fixture
async def stack(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack.up(plane, namespace, tmp_path, settings=SETTINGS) as stack:
        yield stack


async def appear(stack: Stack, name: str, run_ids: Iterable[int], phases: tuple[str, ...] = ("Succeeded",)) -> None:
    """Waits until each of the runs has its DbtRun, in one of the phases."""
    wanted = {f"{name}-{run_id}" for run_id in run_ids}

    async def there() -> bool:
        found = await mirrored(stack, name)
        return all(found.get(each, {}).get("status", {}).get("phase") in phases for each in wanted)

    try:
        await until(there, PATIENCE, f"runs of {name}", pause=0.3)
    except AssertionError as error:
        found = {key: item.get("status", {}).get("phase") for key, item in (await mirrored(stack, name)).items()}
        raise AssertionError(f"{error}\n{found}\n{await status(stack, name)}\n{stack.watcher.tail()}") from None


async def test_a_run_that_somebody_starts_appears_with_its_end(stack: Stack) -> None:
    labels = {"team": "finance"}
    await stack.apply(mirror("all", template={"labels": labels}))
    await ready(stack, "all")
    passed, failed = await elsewhere(stack), await elsewhere(stack, "failure")
    await appear(stack, "all", [passed])
    await appear(stack, "all", [failed], ("Failed",))
    found = await mirrored(stack, "all")
    item = found[f"all-{passed}"]
    owner = (await stack.json("get", "drm", "all"))["metadata"]["uid"]
    metadata, spec = item["metadata"], item["spec"]
    assert metadata["labels"] == labels | {
        "dbtrun.dev/mirror": "all",
        "dbtrun.dev/job-id": str(JOBS["success"]),
        "dbtrun.dev/environment-id": str(item["status"]["environmentId"]),
        "dbtrun.dev/cause": "ui",
    }
    assert [each["uid"] for each in metadata["ownerReferences"]] == [owner]
    assert "finalizers" not in metadata
    assert (spec["runId"], spec["deletionPolicy"], spec["ttlSecondsAfterFinished"]) == (passed, "Orphan", 604_800)
    # Created, and one status: the third generation of the object's version would be another write.
    assert await stack.events(f"all-{passed}") == []
    nodes = found[f"all-{failed}"]["status"]["results"]["failures"]
    assert [node["uniqueId"] for node in nodes] == ["model.shop.orders"]
    assert len(await stack.runs()) == 2, "nothing was started"


async def test_the_guide_for_kubectl(stack: Stack) -> None:
    """Every command about mirrors of docs/reacting.md, as it stands but for the namespace and the job."""
    text = (ROOT / "docs/reacting.md").read_text().partition("## With Airflow")[0]
    create, wait, listed, scheduled = commands(text)
    _, _, manifest = create.partition("<<'END'\n")
    body = manifest.rpartition("END")[0].replace("12345", str(JOBS["success"]))
    await stack.apply(yaml.safe_load(body))
    await stack.kubectl(*_arguments(wait))
    run_id = await elsewhere(stack)
    await appear(stack, "orders", [run_id])
    assert f"orders-{run_id}" in await stack.kubectl(*_arguments(listed))
    assert await stack.kubectl(*_arguments(scheduled)) == ""


def _arguments(command: str) -> list[str]:
    return shlex.split(command.removeprefix("kubectl -n data "))


async def test_runs_of_the_watchers_own_do_not_appear(stack: Stack) -> None:
    from tests.stack import Own

    await stack.apply(mirror("all"))
    await ready(stack, "all")
    own = Own(stack, "mine")
    await own.apply("flaky", retry={"limit": 1, "backoffSeconds": 0})
    await own.reaches("Succeeded")
    other = await elsewhere(stack)
    await appear(stack, "all", [other])
    assert len(await stack.runs()) == 3
    assert set(await mirrored(stack, "all")) == {f"all-{other}"}


async def test_deleting_a_mirror_deletes_its_objects_and_touches_no_run(stack: Stack) -> None:
    await stack.apply(mirror("all", appear="Started"))
    await ready(stack, "all")
    run_id = await elsewhere(stack, "endless")
    await appear(stack, "all", [run_id], ("Queued", "Running"))
    assert "finalizers" not in (await mirrored(stack, "all"))[f"all-{run_id}"]["metadata"]
    await stack.kubectl("delete", "drm", "all")
    await stack.kubectl("delete", "dr", "-l", "dbtrun.dev/mirror=all", "--timeout=30s")
    assert [run["status"] < 10 for run in await stack.runs()] == [True]


async def test_only_what_is_selected_appears_and_a_suspended_mirror_waits(stack: Stack) -> None:
    await stack.apply(
        mirror("jobs", select={"jobIds": [JOBS["success"]]}),
        mirror("causes", select={"causes": ["scheduled"]}),
        mirror("waits", suspend=True),
    )
    await ready(stack, "jobs")
    chosen, other = await elsewhere(stack), await elsewhere(stack, "failure")
    await appear(stack, "jobs", [chosen])
    assert await condition(stack, "waits", "Ready") == ("False", "Suspended")
    await stack.kubectl("patch", "drm", "waits", "--type=merge", "-p", json.dumps({"spec": {"suspend": False}}))
    await appear(stack, "waits", [chosen, other], ("Succeeded", "Failed"))
    assert set(await mirrored(stack, "jobs")) == {f"jobs-{chosen}"}
    assert await mirrored(stack, "causes") == {}


async def test_a_mirror_without_a_connection_says_so_and_goes_on_once_there_is_one(stack: Stack) -> None:
    await stack.apply(mirror("later", connectionRef={"name": "ours"}))

    async def told() -> bool:
        return bool((await status(stack, "later")).get("conditions")) and await condition(stack, "later", "Ready") == (
            "False",
            "InvalidConnection",
        )

    await until(told, PATIENCE, "the missing Secret is told", pause=0.3)
    run_id = await elsewhere(stack)
    await stack.apply(stack.secret("ours", stack.keys()))
    await appear(stack, "later", [run_id])


async def test_fifty_mirrors_ask_an_idle_account_as_seldom_as_one(stack: Stack) -> None:
    """A quarter of a minute of each."""

    async def asked() -> int:
        await stack.ask("DELETE", "/requests")
        await asyncio.sleep(SPAN)
        return int(sum((await stack.ask("GET", "/requests"))["kinds"].values()))

    await stack.apply(mirror("m0", appear="Started"))
    await ready(stack, "m0")
    await asyncio.sleep(6)  # the first look for late runs
    one = await asked()
    await stack.apply(*(mirror(f"m{number}", appear="Started") for number in range(1, 50)))
    for number in range(1, 50):
        await ready(stack, f"m{number}")
    fifty = await asked()
    most = SPAN / 4 + 1
    assert 0 < one <= most
    assert 0 < fifty <= most


async def test_nothing_is_lost_or_comes_twice_while_the_watcher_is_killed(stack: Stack) -> None:
    """The history limit prunes most of them, and none of those may come back."""
    await stack.apply(mirror("all", historyLimit={"succeeded": 10, "failed": 10}, maxPerMinute=600))
    await ready(stack, "all")
    made: list[int] = []
    seen: dict[str, set[str]] = defaultdict(set)

    async def start() -> None:
        for _ in range(60):
            made.append(await elsewhere(stack))
            await asyncio.sleep(0.3)

    async def look() -> None:
        while True:
            for name, item in (await mirrored(stack, "all")).items():
                seen[name].add(item["metadata"]["uid"])
            await asyncio.sleep(0.1)

    async def kill() -> None:
        for pause in (2.0, 3.5, 5.0, 4.2):
            await asyncio.sleep(pause)
            await stack.watcher.kill()
            stack.watcher.start()

    looking = asyncio.create_task(look())
    await asyncio.gather(start(), kill())

    async def all_seen() -> bool:
        return {f"all-{run_id}" for run_id in made} <= seen.keys()

    async def pruned() -> bool:
        return len(await mirrored(stack, "all")) == 10

    try:
        await until(all_seen, PATIENCE, "every run appears", pause=0.3)
        await until(pruned, 2 * PATIENCE, "all but ten are pruned", pause=0.3)
        await stack.watcher.kill()
        stack.watcher.start()
        await asyncio.sleep(12)
    finally:
        looking.cancel()
    assert {name: uids for name, uids in seen.items() if len(uids) > 1} == {}
    assert seen.keys() == {f"all-{run_id}" for run_id in made}
    assert set(await mirrored(stack, "all")) == {f"all-{run_id}" for run_id in sorted(made)[-10:]}
    assert "prunedThrough" in await status(stack, "all")
    assert len(await stack.runs()) == len(made), "nothing was started"
