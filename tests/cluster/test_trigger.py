"""The trigger against a real API server: every end of a DbtRun becomes the right event, once, and nothing hangs."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.trigger_support import (
    SECONDS,
    Namespace,
    QuickTrigger,
    administering,
    eventually,
    install_crd,
    watches,
)
from tests.patience import patience

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from airflow_trigger.trigger import DbtRunTrigger
    from airflow_trigger.waiting.waits import Wait
    from tests.controlplane import ControlPlane

URL = "https://cloud.getdbt.com/deploy/1/projects/2/runs/98765"
MANY, OBJECTS = 1_000, 200
ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: airflow}
rules: [{apiGroups: [dbtrun.dev], resources: [dbtruns], verbs: [get, list, watch, create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: airflow}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: airflow}
subjects: [{kind: ServiceAccount, name: default}]
"""


@pytest.fixture(scope="module")
def served(plane: ControlPlane) -> ControlPlane:
    install_crd(plane)
    return plane


@pytest.fixture
async def objects(served: ControlPlane, namespace: str) -> AsyncIterator[Namespace]:
    async with administering(served, namespace) as objects:
        yield objects


def trigger(objects: Namespace, kubeconfig: Path, **arguments: Any) -> DbtRunTrigger:
    return QuickTrigger(namespace=objects.name, config_file=str(kubeconfig), **arguments)


async def events_of(trigger: DbtRunTrigger) -> list[dict[str, Any]]:
    """All events, each as a task gets it: through the database."""
    async with asyncio.timeout(patience(SECONDS)):
        return [json.loads(json.dumps(event.payload)) async for event in trigger.run()]


async def event_of(trigger: DbtRunTrigger) -> dict[str, Any]:
    (event,) = await events_of(trigger)
    return event


def waiting(trigger: DbtRunTrigger) -> asyncio.Task[dict[str, Any]]:
    return asyncio.create_task(event_of(trigger))


async def there(objects: Namespace, name: str) -> bool:
    return name in (await objects.runs.list()).runs


@pytest.mark.parametrize(
    ("phase", "reason", "status"),
    [
        ("Succeeded", "RunSucceeded", "success"),
        ("Failed", "RunFailed", "error"),
        ("Cancelled", "CancelledInDbtCloud", "cancelled"),
        ("TimedOut", "ActiveDeadlineExceeded", "timeout"),
        ("Error", "LostContact", "error"),
    ],
)
async def test_every_end_is_told_once(
    served: ControlPlane, objects: Namespace, phase: str, reason: str, status: str
) -> None:
    await objects.create("nightly")
    await objects.set_status("nightly", "Running", runId=98765, url=URL)
    task = asyncio.create_task(events_of(trigger(objects, served.kubeconfig, name="nightly")))
    await eventually(lambda: is_watched(objects), "the trigger watches")
    await objects.set_status("nightly", phase, reason)
    (event,) = await task
    assert (event["status"], event["reason"]) == (status, reason)
    assert (event["run_id"], event["job_run_url"]) == (98765, URL)
    assert (event["namespace"], event["name"]) == (objects.name, "nightly")
    assert "98765" in event["message"]


async def test_a_run_that_ended_before_anybody_waited_is_told_at_once(served: ControlPlane, objects: Namespace) -> None:
    await objects.create("nightly")
    await objects.set_status("nightly", "Succeeded", "RunSucceeded", runId=98765)
    event = await event_of(trigger(objects, served.kubeconfig, name="nightly"))
    assert event["message"] == "Job run 98765 has completed successfully."


async def test_the_documented_arguments_alone_adopt_the_run(served: ControlPlane, objects: Namespace) -> None:
    adopting = trigger(
        objects,
        served.kubeconfig,
        conn_id="dbt_cloud_default",
        run_id=98765,
        end_time=time.time() + 3600,
        poll_interval=60,
        account_id=12345,
    )
    task = waiting(adopting)
    await eventually(lambda: there(objects, "run-98765"), "the DbtRun is created")
    raw = json.loads((await served.kubectl("get", "dr", "run-98765", "-n", objects.name, "-o", "json")).stdout)
    assert raw["spec"]["runId"] == 98765
    assert raw["spec"]["accountId"] == 12345
    assert raw["spec"]["pollIntervalSeconds"] == 60
    assert raw["spec"]["ttlSecondsAfterFinished"] == 86_400
    await objects.set_status("run-98765", "Succeeded", "RunSucceeded", runId=98765, url=URL)
    assert (await task)["status"] == "success"


async def test_all_who_adopt_a_run_share_its_object(served: ControlPlane, objects: Namespace) -> None:
    tasks = [waiting(trigger(objects, served.kubeconfig, run_id=5, conn_id="dbt_finance")) for _ in range(20)]
    await eventually(lambda: there(objects, "run-5-dbt-finance"), "the DbtRun is created")
    await objects.set_status("run-5-dbt-finance", "Failed", "RunFailed", runId=5)
    assert [event["status"] for event in await asyncio.gather(*tasks)] == ["error"] * 20
    assert len((await objects.runs.list()).runs) == 1


async def test_an_adopting_object_that_is_being_deleted_is_made_again(served: ControlPlane, objects: Namespace) -> None:
    body = trigger(objects, served.kubeconfig, run_id=5).plan().manifest()
    body["metadata"]["finalizers"] = ["dbtrun.dev/run"]
    first = await objects.runs.create(body)
    await objects.delete("run-5")
    task = waiting(trigger(objects, served.kubeconfig, run_id=5))
    await eventually(lambda: is_watched(objects), "the trigger watches")
    await objects.patch("run-5", {"metadata": {"finalizers": None}})

    async def made_again() -> bool:
        runs = (await objects.runs.list()).runs
        return "run-5" in runs and runs["run-5"].metadata.uid != first.metadata.uid

    await eventually(made_again, "a new object follows the run")
    await objects.set_status("run-5", "Succeeded", "RunSucceeded", runId=5)
    assert (await task)["status"] == "success"


async def test_a_deletion_under_the_task_is_an_error_that_says_what_became_of_the_run(
    served: ControlPlane, objects: Namespace
) -> None:
    await objects.create("nightly")
    await objects.set_status("nightly", "Running", runId=98765)
    task = waiting(trigger(objects, served.kubeconfig, name="nightly"))
    await eventually(lambda: is_watched(objects), "the trigger watches")
    await objects.delete("nightly")
    event = await task
    assert (event["status"], event["reason"]) == ("error", "Deleted")
    assert "deletion policy Cancel, dbt Cloud run 98765 is cancelled" in event["message"]


async def test_an_end_time_that_passes_is_a_timeout_with_its_seconds(served: ControlPlane, objects: Namespace) -> None:
    await objects.create("nightly")
    await objects.set_status("nightly", "Running", runId=98765)
    now = time.time()
    event = await event_of(
        trigger(objects, served.kubeconfig, name="nightly", end_time=now + 0.5, start_time=now - 3599.5)
    )
    assert (event["status"], event["reason"], event["run_id"]) == ("timeout", "WaitTimeout", 98765)
    assert "after 3600 seconds (last seen: Running)" in event["message"]


async def test_a_run_that_ended_before_the_end_time_is_no_timeout(served: ControlPlane, objects: Namespace) -> None:
    await objects.create("nightly")
    await objects.set_status("nightly", "Succeeded", "RunSucceeded", runId=98765)
    late = trigger(objects, served.kubeconfig, name="nightly", end_time=time.time() - 60)
    assert (await event_of(late))["status"] == "success"


async def test_whether_it_still_runs_can_be_asked(served: ControlPlane, objects: Namespace) -> None:
    asking = trigger(objects, served.kubeconfig, name="nightly")
    assert await asking.is_still_running(), "nobody said that it is over"
    await objects.create("nightly")
    assert await asking.is_still_running()
    await objects.set_status("nightly", "Failed", "RunFailed")
    assert not await asking.is_still_running()


async def test_a_cancelled_trigger_leaves_the_run_alone(served: ControlPlane, objects: Namespace) -> None:
    await objects.create("nightly")
    before = await objects.runs.get("nightly")
    task = waiting(trigger(objects, served.kubeconfig, name="nightly"))
    await eventually(lambda: is_watched(objects), "the trigger watches")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await objects.runs.get("nightly") == before


async def test_a_missing_permission_becomes_an_error_that_names_it(served: ControlPlane, objects: Namespace) -> None:
    powerless = await served.kubeconfig_for(objects.name, "default")
    event = await event_of(trigger(objects, powerless, name="nightly", denied_grace=0.5))
    assert (event["status"], event["reason"]) == ("error", "NoAccess")
    assert f'User "system:serviceaccount:{objects.name}:default" cannot list resource "dbtruns"' in event["message"]
    assert f'in the namespace "{objects.name}"' in event["message"]


async def test_a_permission_granted_within_the_grace_is_enough(
    served: ControlPlane, objects: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    powerless = await served.kubeconfig_for(objects.name, "default")
    task = waiting(trigger(objects, powerless, run_id=5))

    async def refused() -> bool:
        return "cannot be watched" in caplog.text

    await eventually(refused, "the trigger is refused")
    await served.kubectl("apply", "-n", objects.name, "-f", "-", input=ROLE)
    await eventually(lambda: there(objects, "run-5"), "the trigger creates its object")
    await objects.set_status("run-5", "Succeeded", "RunSucceeded", runId=5)
    assert (await task)["status"] == "success"


async def test_an_object_that_the_api_refuses_becomes_an_error_that_says_why(
    served: ControlPlane, objects: Namespace
) -> None:
    class Odd(QuickTrigger):
        def plan(self) -> Wait:
            return replace(super().plan(), account_id=-5)

    event = await event_of(Odd(namespace=objects.name, config_file=str(served.kubeconfig), run_id=5))
    assert (event["status"], event["reason"]) == ("error", "NotAccepted")
    assert "spec.accountId" in event["message"]


def test_a_new_event_loop_after_a_dead_one_works(served: ControlPlane, namespace: str) -> None:
    async def one(name: str) -> dict[str, Any]:
        async with administering(served, namespace) as objects:
            await objects.create(name)
            await objects.set_status(name, "Succeeded", "RunSucceeded", runId=5)
            return await event_of(trigger(objects, served.kubeconfig, name=name))

    assert [asyncio.run(one(name))["status"] for name in ("a", "b", "c")] == ["success"] * 3


async def test_a_thousand_triggers_wait_on_one_watch(
    served: ControlPlane, objects: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few for each object."""
    runs = [f"run-{number}" for number in range(OBJECTS)]
    names = runs * (MANY // OBJECTS)
    await asyncio.gather(*map(objects.create, runs))
    before = await watches(served)
    ended: list[tuple[str, float]] = []

    async def wait(name: str) -> dict[str, Any]:
        async with asyncio.timeout(patience(200)):
            events = [event.payload async for event in trigger(objects, served.kubeconfig, name=name).run()]
        ended.append((name, time.perf_counter()))
        (event,) = events
        assert isinstance(event, dict)
        return event

    tasks = [asyncio.create_task(wait(name)) for name in names]

    async def one_more_watch() -> bool:
        return await watches(served) == before + 1

    await eventually(one_more_watch, "one watch", pause=0.3)
    stored = await flip(objects, runs)
    events = await asyncio.gather(*tasks)
    assert [event["name"] for event in events] == names
    assert {event["status"] for event in events} == {"success"}
    latencies = [max(0.0, moment - stored[name]) for name, moment in ended]
    p50, p99 = (statistics.quantiles(latencies, n=100)[at] * 1e3 for at in (49, 98))
    with capsys.disabled():
        # The limit is the bench's (`bench_trigger`): a busy machine says nothing about it.
        print(f"\n{MANY} triggers, status to event: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


async def flip(objects: Namespace, names: list[str]) -> dict[str, float]:
    """Ends the runs, few at a time, so that no queue is measured; when the API server said that each was stored."""
    stored: dict[str, float] = {}
    todo = iter(names)

    async def writer() -> None:
        for name in todo:
            await objects.set_status(name, "Succeeded", "RunSucceeded", runId=5)
            stored[name] = time.perf_counter()

    await asyncio.gather(*(writer() for _ in range(4)))
    return stored


async def is_watched(objects: Namespace) -> bool:
    """Whether a hub of this process mirrors the namespace."""
    from airflow_trigger.waiting.hub import _hubs

    hubs = _hubs._loops.get(asyncio.get_running_loop(), {})
    return any(key[1] == objects.name and entry.value.synced for key, entry in hubs.items())
