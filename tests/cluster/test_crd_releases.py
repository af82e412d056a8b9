"""A CRD that is older or newer than the watcher: it says what is missing, loses no run, and leaves alone what it
does not know.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dbtrun.api import API_VERSION, PLURAL
from tests.controlplane import ControlPlane
from tests.stack import Own, Stack, dbt_run, until
from tests.stack.site import CRD
from tests.stack.stack import page

SPEC: Final = ("artifacts", "priority", "connectionDeadlineSeconds")
STATUS: Final = ("host", "accountId", "startedAt", "artifacts", "job", "failedStep")
ATTEMPT: Final = ("sweepAfter", "firstClaimTime")
"""Fields that an earlier release may not have had: those that it can do without."""
QUIET_SECONDS: Final = 12
MOST_WRITES: Final = 3

Schema = dict[str, Any]


def older(schema: Schema) -> None:
    """The CRD of the release before."""
    spec, status = (schema["properties"][part]["properties"] for part in ("spec", "status"))
    attempt = status["attempts"]["items"]["properties"]
    for fields, names in ((spec, SPEC), (status, STATUS), (attempt, ATTEMPT)):
        for name in names:
            del fields[name]
    rules = schema["properties"]["spec"]["x-kubernetes-validations"]
    gone = [f"self.{name}" for name in SPEC]
    rules[:] = [rule for rule in rules if not any(name in rule["rule"] for name in gone)]


def newer(schema: Schema) -> None:
    """The CRD of the release after."""
    spec, status = (schema["properties"][part]["properties"] for part in ("spec", "status"))
    attempt = status["attempts"]["items"]["properties"]
    spec["color"] = status["color"] = attempt["color"] = {"type": "string"}
    status["phase"]["enum"].append("Skipped")
    attempt["phase"]["enum"].append("Skipped")


async def serve(plane: ControlPlane, change: Callable[[Schema], None] = lambda _: None) -> None:
    """Installs the CRD with this change, and waits until the API server says so to its clients."""
    crd = deepcopy(yaml.safe_load(CRD.read_text()))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    change(schema)
    await plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(crd))
    wanted = schema["properties"]["status"]["properties"].keys()

    async def served() -> bool:
        document = await plane.read(f"/openapi/v3/apis/{API_VERSION}")
        schemas = (document or {"components": {"schemas": {}}})["components"]["schemas"]
        found = [schemas[name] for name in schemas if name.endswith(".DbtRun")]
        return [one["properties"]["status"]["properties"].keys() for one in found] == [wanted]

    await until(served, 60, "the API server announces the CRD", pause=0.2)


async def create(stack: Stack, name: str, job: str, **spec: Any) -> Own:
    """As a client that does not look at warnings."""
    path = f"/apis/{API_VERSION}/namespaces/{stack.namespace}/{PLURAL}"
    await stack.plane.change("POST", path, dbt_run(name, job, **spec))
    own = Own(stack, name)
    own.uid = (await stack.get(name))["metadata"]["uid"]
    return own


async def set_status(own: Own, **status: Any) -> None:
    """As a watcher of another release."""
    change = json.dumps({"status": status})
    await own.stack.kubectl("patch", "dr", own.name, "--subresource=status", "--type=merge", "-p", change)


async def metric(stack: Stack, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", (await page(stack.watcher, "/metrics")).text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def restart(stack: Stack) -> None:
    await stack.watcher.stop()
    said = len(stack.watcher.text())
    stack.watcher.start()
    await stack.watcher.says(r"Watching \d+ DbtRuns", after=said)


@pytest.fixture
async def stack(stormy_plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    namespace = "crd-" + re.sub(r"\W+|_", "-", request.node.name)[-40:].strip("-")
    stormy_plane.create_namespace_sync(namespace)
    async with Stack.up(stormy_plane, namespace, tmp_path) as stack:
        yield stack


async def test_a_watcher_with_the_crd_of_the_release_before_says_what_is_missing_and_loses_nothing(
    stack: Stack, stormy_plane: ControlPlane
) -> None:
    await serve(stormy_plane, older)
    await restart(stack)
    dropped = sorted(
        [f"spec.{name}" for name in SPEC]
        + [f"status.{name}" for name in STATUS]
        + [f"status.attempts[].{name}" for name in ATTEMPT]
    )
    await stack.watcher.says(re.escape(f"the API server drops {', '.join(dropped)}"))
    assert await metric(stack, "dbtrun_crd_fields_missing") == len(dropped)

    short = await create(stack, "short", "success", artifacts=["run_results.json"])
    live = await create(stack, "live", "endless")
    assert "artifacts" not in (await stack.get("short"))["spec"], "the API server was to drop it"
    await short.reaches("Succeeded")
    await live.reaches("Running")

    async def told() -> bool:
        return any(reason == "OldCRD" and "spec.artifacts" in note for reason, note in await stack.events("short"))

    await until(told, 60, "the author of the object is told")

    writes = await metric(stack, 'dbtrun_decisions_total{decision="Write"}')
    await asyncio.sleep(QUIET_SECONDS)  # what has no effect is not repeated
    assert await metric(stack, 'dbtrun_decisions_total{decision="Write"}') <= writes + MOST_WRITES
    assert stack.watcher.text().count("is older than this watcher") == 1

    await restart(stack)
    await serve(stormy_plane)
    await stack.watcher.says("has all fields of this release now")
    assert await metric(stack, "dbtrun_crd_fields_missing") == 0
    await live.finish(10)
    assert (await live.reaches("Succeeded"))["startedAt"]
    assert [len(await own.runs()) for own in (short, live)] == [1, 1]


async def test_a_watcher_with_the_crd_of_the_release_after_leaves_alone_what_it_does_not_know(
    stack: Stack, stormy_plane: ControlPlane
) -> None:
    await serve(stormy_plane, newer)
    await restart(stack)
    plain = await create(stack, "plain", "success", color="red")
    live = await create(stack, "live", "endless")
    await plain.reaches("Succeeded")
    await live.reaches("Running")
    assert (await stack.get("plain"))["spec"]["color"] == "red"
    await set_status(plain, color="blue", reason="OfTheReleaseAfter")
    ended = {"number": 1, "phase": "Skipped", "color": "blue"}
    skipped = await create(stack, "skipped", "success", suspend=True)
    await skipped.reaches("Pending")
    await set_status(skipped, phase="Skipped", message="Nothing to do.", attempts=[ended])
    await skipped.patch(suspend=False)
    await set_status(live, color="blue")

    await restart(stack)
    await stack.watcher.says("skipped cannot be read: its status has a phase that this release does not know")
    await live.finish(10)
    assert (await live.reaches("Succeeded"))["color"] == "blue", "what others wrote stays"

    async def left_alone() -> bool:
        return await metric(stack, "dbtrun_objects_unreadable") == 1

    await until(left_alone, 60, "the object of a newer watcher is counted")
    assert (await skipped.status())["attempts"] == [ended]
    assert (await skipped.status())["phase"] == "Skipped"
    assert (await plain.status())["phase"] == "Succeeded"
    assert [len(await own.runs()) for own in (plain, live, skipped)] == [1, 1, 0]
    assert await metric(stack, "dbtrun_crd_fields_missing") == 0
    await serve(stormy_plane)
