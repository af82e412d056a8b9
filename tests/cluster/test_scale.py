"""Many DbtRuns at once: what must be true of many, and what they may cost dbt Cloud together.

One story is played once and watched while it goes on; the tests ask what came of it.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio

from dbtrun.api import FINALIZER, MARKER_PREFIX, UID_ANNOTATION
from dbtrun.kube.paths import api_path
from dbtrun.kube.runs import PREFIX
from tests.controlplane import ControlPlane
from tests.patience import patience
from tests.stack import JOBS, Stack, dbt_run, until
from tests.stack.dbt import SCENARIO
from watcher.cluster.access import ClusterAccess
from watcher.lifecycle.known import CLOCK_MARGIN

RUNS: Final = 150
FEED_SECONDS: Final = 5
"""How late the watcher may see an end; so a peer that polls each run alone has to poll it this often."""
LENGTHS: Final = [24.0, 48.0]
"""Seconds that a run takes: so many that most are alive together, on a machine too that starts them slowly."""
SETTLED_SECONDS: Final = 250.0
"""Many times what it takes: the bars are counts, which a busy machine does not change."""
USER: Final = "a-user"
"""Who creates the objects, in their managedFields."""
KINDS: Final = "configmaps,secrets,leases,pods,jobs,serviceaccounts,services,deployments,roles,rolebindings"
"""What the watcher could leave behind besides DbtRuns and their Events."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Story:
    """What was seen on the way, and how it ended."""

    stack: Stack
    objects: list[dict[str, Any]] = field(default_factory=list)
    others: tuple[list[str], list[str]] = ([], [])
    managers: set[str] = field(default_factory=set)
    finalizers: set[str] = field(default_factory=set)
    annotations: set[str] = field(default_factory=set)
    runs: list[dict[str, Any]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)

    def note(self, objects: list[dict[str, Any]]) -> None:
        """Looks at every object as it is at this moment."""
        self.objects = objects
        for metadata in (item["metadata"] for item in objects):
            self.managers |= {entry["manager"] for entry in metadata["managedFields"]}
            self.finalizers |= set(metadata.get("finalizers", ()))
            self.annotations |= set(metadata.get("annotations", ()))

    @property
    def settled(self) -> bool:
        """Whether every object is final and let go."""
        return all(
            item.get("status", {}).get("completionTime") and not item["metadata"].get("finalizers")
            for item in self.objects
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Story]:
    await asyncio.to_thread(plane.create_namespace_sync, "scale")
    jobs = [job | {"run": LENGTHS} if job["id"] == JOBS["parallel"] else job for job in SCENARIO["jobs"]]
    settings = {
        "DBTRUN_FEED_INTERVAL_SECONDS": str(FEED_SECONDS),
        "DBTRUN_REQUESTS_PER_MINUTE": "4000",
        "DBTRUN_LOG_LEVEL": "info",
    }
    folder = tmp_path_factory.mktemp("scale")
    async with Stack.up(plane, "scale", folder, scenario={**SCENARIO, "jobs": jobs}, settings=settings) as stack:
        yield await played(stack)


async def played(stack: Stack) -> Story:
    """Creates the objects and watches them to their end."""
    story = Story(stack)
    await stack.watcher.says("Watching 0 DbtRuns")
    await asyncio.sleep(CLOCK_MARGIN.total_seconds() + 1)  # older objects are searched for before they start
    # The Deployment's Pod stays Pending here, and a busy controller takes its time to make it.
    await stack.kubectl("wait", "--for=create", "pod", "-lapp.kubernetes.io/name=dbtrun", "--timeout=120s", timeout=150)
    before = await everything_else(stack)
    await stack.ask("DELETE", "/requests")
    access = await ClusterAccess.load(stack.plane.kubeconfig)
    try:
        await create_all(access, stack.namespace)

        async def settled() -> bool:
            story.note(await listed(access, stack.namespace))
            return story.settled

        await until(settled, SETTLED_SECONDS, f"{RUNS} objects settled", pause=3.0)
    finally:
        await access.close()
    story.others = before, await everything_else(stack)
    story.requests = (await stack.ask("GET", "/requests"))["kinds"]
    story.runs, story.journal = await stack.runs(), await stack.journal()
    return story


async def create_all(access: ClusterAccess, namespace: str) -> None:
    """By eight at a time, as fast as the API server takes them."""
    names = iter([f"run-{number}" for number in range(RUNS)])

    async def some() -> None:
        for name in names:
            body = dbt_run(name, "parallel", pollIntervalSeconds=30)
            path = api_path(PREFIX, namespace, "dbtruns")
            await access.request("POST", path, query={"fieldManager": USER}, body=body)

    await asyncio.gather(*(some() for _ in range(8)))


async def listed(access: ClusterAccess, namespace: str) -> list[dict[str, Any]]:
    answer = await access.request("GET", api_path(PREFIX, namespace, "dbtruns"), query={"resourceVersion": "0"})
    items: list[dict[str, Any]] = msgspec.json.decode(answer)["items"]
    return items


async def everything_else(stack: Stack) -> list[str]:
    return sorted((await stack.kubectl("get", KINDS, "-o", "name")).split())


async def test_each_object_has_exactly_one_run_with_its_marker(story: Story) -> None:
    started = Counter(run["cause"].removeprefix(MARKER_PREFIX).partition("/")[0] for run in story.runs)
    assert started == dict.fromkeys((item["metadata"]["uid"] for item in story.objects), 1)
    assert len(started) == RUNS


async def test_each_object_tells_the_run_that_carries_its_marker(story: Story) -> None:
    runs = {run["cause"].removeprefix(MARKER_PREFIX).partition("/")[0]: run["id"] for run in story.runs}
    assert runs == {item["metadata"]["uid"]: item["status"]["runId"] for item in story.objects}


async def test_all_succeed(story: Story) -> None:
    assert Counter(item["status"]["phase"] for item in story.objects) == {"Succeeded": RUNS}
    assert Counter(run["status"] for run in story.runs) == {10: RUNS}


async def test_nothing_but_starts_happened_in_dbt_cloud(story: Story) -> None:
    assert Counter(entry["action"] for entry in story.journal) == {"start": RUNS}


async def test_no_finalizer_and_no_other_object_is_left(story: Story) -> None:
    assert [item["metadata"]["name"] for item in story.objects if item["metadata"].get("finalizers")] == []
    before, after = story.others
    assert after == before


async def test_kopf_writes_nothing(story: Story) -> None:
    assert story.managers == {USER, "dbtrun"}
    assert story.finalizers == {FINALIZER}
    assert story.annotations == {UID_ANNOTATION}, "and the watcher writes its own mark alone"


async def test_ends_are_known_as_soon_as_the_cost_is_counted_for(story: Story) -> None:
    statuses = [item["status"] for item in story.objects]
    late = [(moment(s["completionTime"]) - moment(s["finishedAt"])).total_seconds() for s in statuses]
    assert statistics.median(late) <= patience(FEED_SECONDS)


async def test_waiting_costs_dbt_cloud_a_small_part(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    starts = story.requests["start"]
    others = sum(story.requests.values()) - starts
    live = sum((moment(run["finished_at"]) - moment(run["created_at"])).total_seconds() for run in story.runs)
    alone = live / FEED_SECONDS
    with capsys.disabled():
        print(f"\n{starts} starts, {others} other requests; each run polled alone: {alone:.0f}, 1/{alone / others:.0f}")
    assert starts == RUNS
    assert others <= alone / 25, "and less the more runs there are: `make bench` has figures"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
