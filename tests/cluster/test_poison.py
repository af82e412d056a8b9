"""One object of a hundred whose every reconcile fails: the others do not notice, and its owner does.

It is poisoned as happens in clusters: an admission policy refuses what the watcher writes into its status.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio

from dbtrun.kube.paths import api_path
from dbtrun.kube.runs import PREFIX
from tests.cluster.test_scale import listed
from tests.controlplane import ControlPlane
from tests.stack import Stack, dbt_run, until
from tests.stack.stack import page
from watcher.cluster.access import ClusterAccess

OTHERS: Final = 99
STARTED: Final = 30
"""Of the others, those that run in dbt Cloud; the rest is cancelled before it began, which is one write each."""
POISON: Final = "poison"
REFUSAL: Final = "this object is frozen"
MOST_FAILURES: Final = 12
"""In the first minute: pauses of 1, 2, 4 … 60 s, each at least half as long; so later at most one in half a minute."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


def policy(namespace: str) -> list[dict[str, Any]]:
    kind, version = "ValidatingAdmissionPolicy", "admissionregistration.k8s.io/v1"
    rule = {
        "apiGroups": ["dbtrun.dev"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["dbtruns/status"]
    }  # fmt: skip
    frozen = {"expression": f"object.metadata.name != '{POISON}'", "message": REFUSAL}
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    return [
        {
            "apiVersion": version, "kind": kind, "metadata": {"name": namespace},
            "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [frozen]},
        },
        {
            "apiVersion": version, "kind": f"{kind}Binding", "metadata": {"name": namespace},
            "spec": {"policyName": namespace, "validationActions": ["Deny"], "matchResources": here},
        },
    ]  # fmt: skip


@dataclass
class Story:
    """What became of the objects."""

    stack: Stack
    took: float = 0.0
    """Seconds until all others had finished."""
    lasted: float = 0.0
    """Seconds until the metrics were read."""
    phases: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    health: httpx.Response | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    """The lines about the poison."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Story]:
    await asyncio.to_thread(plane.create_namespace_sync, "poison")
    folder = tmp_path_factory.mktemp("poison")
    settings = {"DBTRUN_REQUESTS_PER_MINUTE": "4000", "DBTRUN_LOG_LEVEL": "info"}
    async with Stack.up(plane, "poison", folder, settings=settings) as stack:
        yield await played(stack)


async def played(stack: Stack) -> Story:
    await stack.watcher.says("Watching 0 DbtRuns")
    await stack.apply(*policy(stack.namespace))
    await poisoned(stack)
    story, began = Story(stack), time.monotonic()
    access = await ClusterAccess.load(stack.plane.kubeconfig)
    busybody = asyncio.create_task(annotate(access, stack.namespace))
    try:
        await create_all(access, stack.namespace)

        async def finished() -> bool:
            items = await listed(access, stack.namespace)
            story.phases = Counter(item.get("status", {}).get("phase", "") for item in items)
            return sum(bool(item.get("status", {}).get("completionTime")) for item in items) == OTHERS

        await until(finished, 150, f"{OTHERS} objects finished", pause=1.0)
        story.took = time.monotonic() - began
        await stack.watcher.says(r'"failures":4')
    finally:
        busybody.cancel()
        await asyncio.wait({busybody})
        await access.close()
    text = (await page(stack.watcher, "/metrics")).text
    story.lasted = time.monotonic() - began
    story.health = await page(stack.watcher, "/healthz")
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    story.metrics = {name: float(value) for name, _, value in lines}
    story.log = [line for line in logged(stack) if line.get("run") == f"{stack.namespace}/{POISON}"]
    return story


async def poisoned(stack: Stack) -> None:
    """Creates the poison once its status is refused: a policy takes a moment to be in force."""

    async def refused() -> bool:
        patch = json.dumps({"status": {"message": "m"}})
        flags = ("--subresource=status", "--type=merge", "--dry-run=server", "-p", patch)
        answer = await stack.plane.kubectl("-n", stack.namespace, "patch", "dr", POISON, *flags, check=False)
        return REFUSAL in answer.stderr

    await stack.apply(dbt_run(POISON, "success", suspend=True))
    await until(refused, 30, "the policy is in force")
    await stack.patch(POISON, {"suspend": False})


async def annotate(access: ClusterAccess, namespace: str) -> None:
    """Some controller that writes the poison all the time: no reason to try it any sooner."""
    path = api_path(PREFIX, namespace, "dbtruns", POISON)
    for number in itertools.count():
        body = {"metadata": {"annotations": {"touched": str(number)}}}
        await access.request("PATCH", path, body=body)
        await asyncio.sleep(0.25)


async def create_all(access: ClusterAccess, namespace: str) -> None:
    bodies = iter(
        [dbt_run(f"started-{n}", "parallel") for n in range(STARTED)]
        + [dbt_run(f"cancelled-{n}", cancel=True) for n in range(OTHERS - STARTED)]
    )

    async def some() -> None:
        for body in bodies:
            await access.request("POST", api_path(PREFIX, namespace, "dbtruns"), body=body)

    await asyncio.gather(*(some() for _ in range(8)))


def logged(stack: Stack) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.watcher.text().splitlines() if line.startswith("{")]


async def test_all_others_finish(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        failures = story.metrics["dbtrun_reconcile_failures_total"]
        print(f"\n{OTHERS} objects finished in {story.took:.0f} s beside one that failed {failures:.0f} times")
    assert story.phases["Succeeded"] == STARTED
    assert story.phases["Cancelled"] == OTHERS - STARTED
    assert len(await story.stack.runs()) == STARTED


async def test_the_poison_is_tried_ever_more_rarely(story: Story) -> None:
    failures = [line for line in story.log if "failures" in line]
    assert [line["failures"] for line in failures] == list(range(1, len(failures) + 1))
    assert 4 <= len(failures) <= MOST_FAILURES + story.lasted / 30
    assert failures[3]["again_in"] > failures[0]["again_in"]


async def test_metrics_count_it_and_nothing_else(story: Story) -> None:
    assert story.metrics["dbtrun_reconciles_failing"] == 1
    assert 4 <= story.metrics["dbtrun_reconcile_failures_total"] <= MOST_FAILURES + story.lasted / 30


async def test_each_line_of_the_log_names_it_and_says_why(story: Story) -> None:
    told = [line for line in story.log if "failures" in line]
    assert all(REFUSAL in line["message"] for line in told)


async def test_its_owner_reads_why_in_an_event(story: Story) -> None:
    async def told() -> list[str]:
        return [note for reason, note in await story.stack.events(POISON) if reason == "ReconcileFailed"]

    assert REFUSAL in (await until(told, 30))[0]


async def test_the_watcher_is_well(story: Story) -> None:
    assert story.health is not None
    assert story.health.status_code == 200
    assert story.health.json()["late"] == {}
    assert set(story.health.json()["silentSeconds"]) == {"watch", "poller", "reconciler", "leader"}


async def test_it_goes_on_by_itself_when_nothing_refuses_it_any_more(story: Story) -> None:
    stack = story.stack
    await stack.plane.kubectl("delete", "validatingadmissionpolicybinding", stack.namespace)
    await stack.reaches(POISON, "Succeeded", seconds=120)
    assert len(await stack.runs("success")) == 1
