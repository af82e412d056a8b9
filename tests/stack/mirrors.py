"""DbtRunMirrors and the runs that others start, in a stack."""

from __future__ import annotations

from typing import Any, Final

from dbtrun.api import API_VERSION
from tests.stack.dbt import JOBS
from tests.stack.stack import Stack
from tests.stack.waiting import until

PATIENCE: Final = 120.0


def mirror(name: str, **spec: Any) -> dict[str, Any]:
    """A DbtRunMirror of all runs, unless the spec selects some."""
    spec = {"select": {"allJobs": True}} | spec
    return {"apiVersion": API_VERSION, "kind": "DbtRunMirror", "metadata": {"name": name}, "spec": spec}


async def elsewhere(stack: Stack, job: str = "success") -> int:
    """Somebody starts a run in dbt Cloud's user interface."""
    return int((await stack.ask("POST", "/runs", {"job_id": JOBS[job]}))["id"])


async def mirrored(stack: Stack, name: str) -> dict[str, dict[str, Any]]:
    """The DbtRuns of a mirror, by name."""
    path = f"/apis/{API_VERSION}/namespaces/{stack.namespace}/dbtruns?labelSelector=dbtrun.dev%2Fmirror%3D{name}"
    listed = await stack.plane.read(path)
    assert listed is not None
    return {item["metadata"]["name"]: item for item in listed["items"]}


async def status(stack: Stack, name: str) -> dict[str, Any]:
    path = f"/apis/{API_VERSION}/namespaces/{stack.namespace}/dbtrunmirrors/{name}"
    found = await stack.plane.read(path)
    assert found is not None
    return dict(found.get("status", {}))


async def condition(stack: Stack, name: str, kind: str) -> tuple[str, str]:
    told = {each["type"]: each for each in (await status(stack, name)).get("conditions", ())}
    return told[kind]["status"], told[kind]["reason"]


async def ready(stack: Stack, name: str) -> None:
    async def there() -> bool:
        told = (await status(stack, name)).get("conditions", ())
        return {each["type"]: each["status"] for each in told} == {
            "Ready": "True",
            "Reachable": "True",
            "CaughtUp": "True",
        }

    await until(there, PATIENCE, f"{name} is ready", pause=0.3)
