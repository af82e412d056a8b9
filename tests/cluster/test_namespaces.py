"""Namespaces that go, come and are forbidden, and statuses that are refused: whom it concerns, and whom not.

Each test has a system of its own to break. Times are printed; what is asserted holds on a busy machine.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from dbtrun.api import API_VERSION, PLURAL
from tests.controlplane import ControlPlane
from tests.plain import plain_http
from tests.stack import Own, Site, Stack, dbt_run, until
from tests.stack.site import ROOT

CANCELLED: Final = 30
"""dbt Cloud's status code."""
EVERYWHERE: Final = {"connection": {"namespaces": ["*"]}}
PATIENCE: Final = 120.0
"""Seconds; twice what a namespace may take to go, for a busy machine."""


def at(stack: Site, namespace: str) -> Site:
    """The same system, seen from another namespace."""
    other = copy.copy(stack)
    other.namespace = namespace
    return other


def names(namespace: str, *suffixes: str) -> list[str]:
    return [f"{namespace[-30:].lstrip('-')}-{suffix}" for suffix in suffixes]


@asynccontextmanager
async def system(
    plane: ControlPlane,
    namespace: str,
    folder: Path,
    others: list[str],
    values: dict[str, Any],
    release: bool = False,
) -> AsyncIterator[Stack]:
    for other in others:
        await asyncio.to_thread(plane.create_namespace_sync, other)
    async with Stack.up(plane, namespace, folder, values=values | EVERYWHERE, release=release) as stack:
        await stack.watcher.says(r"Watching \d+ DbtRuns")
        yield stack
    for other in others:
        await plane.kubectl("delete", "namespace", other, "--wait=false", "--ignore-not-found")


async def lives(site: Site, label: str, count: int = 2) -> float:
    """Runs some objects, one after another, and gives the median of seconds from apply to the final status."""
    took = []
    for number in range(count):
        begin = time.monotonic()
        own = Own(site, f"{label}-{number}")
        await own.apply("success")
        await own.reaches("Succeeded", seconds=60)
        took.append(time.monotonic() - begin)
    return statistics.median(took)


async def page(stack: Stack, path: str) -> httpx.Response:
    found = re.findall(r"Listening on ([\d.]+):(\d+)", stack.watcher.text())[-1]
    async with plain_http(10) as client:
        return await client.get(f"http://{found[0]}:{found[1]}/{path}")


async def gone(plane: ControlPlane, namespace: str, seconds: float = PATIENCE) -> None:
    async def missing() -> bool:
        return await plane.read(f"/api/v1/namespaces/{namespace}") is None

    await until(missing, seconds, f"the namespace {namespace} gone", pause=0.3)


async def all_over(stack: Stack, seconds: float = PATIENCE) -> None:
    async def over() -> bool:
        return all(run["status"] == CANCELLED for run in await stack.runs("endless"))

    await until(over, seconds, "every run cancelled", pause=0.2)


async def upgrade(stack: Stack) -> str:
    chart, values = str(ROOT / "helm/dbtrun"), str(stack.folder / "values.yaml")
    return (await stack.plane.helm("upgrade", "dbtrun", chart, "-n", stack.namespace, "-f", values)).stdout


async def test_a_namespace_that_goes_and_comes_again_costs_the_others_nothing(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    b, c = names(namespace, "b", "c")
    values = {"watchNamespaces": [namespace, b, c]}
    async with system(plane, namespace, tmp_path, [b, c], values, release=True) as stack:
        before = [await lives(stack, "before"), await lives(at(stack, c), "before")]
        await plane.kubectl("delete", "namespace", b, "--wait=false")
        await gone(plane, b)
        after = [await lives(stack, "after"), await lives(at(stack, c), "after")]

        assert f"The namespace {b} does not exist" in await upgrade(stack)
        said = len(stack.watcher.text())
        await stack.watcher.stop()
        stack.watcher.start()
        await stack.watcher.says(r"Watching \d+ DbtRuns", after=said)
        restarted = [await lives(stack, "restarted"), await lives(at(stack, c), "restarted")]
        print(f"median seconds from apply to the end: {before=} {after=} {restarted=}")

        async def told() -> httpx.Response | None:
            ready = await page(stack, "readyz")
            return ready if b in ready.text else None

        ready = await until(told, 60, "/readyz names the missing namespace")
        assert ready.status_code == 200
        assert f'dbtrun_namespace_served{{namespace="{b}"}} 0.0' in (await page(stack, "metrics")).text
        assert f'dbtrun_namespace_served{{namespace="{c}"}} 1.0' in (await page(stack, "metrics")).text
        assert (await page(stack, "healthz")).status_code == 200

        await asyncio.to_thread(plane.create_namespace_sync, b)
        await upgrade(stack)
        own = Own(at(stack, b), "again")
        await own.apply("success")
        await own.reaches("Succeeded", seconds=PATIENCE)

        async def served() -> bool:
            return f'dbtrun_namespace_served{{namespace="{b}"}} 1.0' in (await page(stack, "metrics")).text

        await until(served, PATIENCE, "the namespace is served again")


@pytest.mark.parametrize("mode", ["one", "several", "all"])
async def test_deleting_a_namespace_cancels_its_runs_and_the_namespace_goes(
    plane: ControlPlane, namespace: str, tmp_path: Path, mode: str
) -> None:
    doomed = names(namespace, "x", "y", "z")
    values: dict[str, dict[str, Any]] = {
        "one": {"watchNamespaces": doomed[:1]},
        "several": {"watchNamespaces": [namespace, *doomed]},
        "all": {"watchAllNamespaces": True, "secretNamespaces": doomed},
    }
    doomed = doomed[:1] if mode == "one" else doomed
    async with system(plane, namespace, tmp_path, doomed, values[mode]) as stack:
        for each in doomed:
            site = at(stack, each)
            for name in ("live", "other"):
                await Own(site, name).apply("endless")
        for each in doomed:
            for name in ("live", "other"):
                await at(stack, each).reaches(name, "Running")
        assert len(await stack.runs("endless")) == 2 * len(doomed)
        begin = time.monotonic()
        for each in doomed:
            await plane.kubectl("delete", "namespace", each, "--wait=false")
        await all_over(stack)
        cancelled = time.monotonic() - begin
        for each in doomed:
            await gone(plane, each)
        print(f"{mode}: runs cancelled after {cancelled:.1f} s, namespaces gone after {time.monotonic() - begin:.1f} s")
        assert (await page(stack, "healthz")).status_code == 200


async def test_what_is_left_in_a_namespace_that_goes_is_released_after_a_restart_too(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    (x,) = names(namespace, "x")
    async with system(plane, namespace, tmp_path, [x], {"watchNamespaces": [namespace, x]}) as stack:
        await Own(at(stack, x), "live").apply("endless")
        await at(stack, x).reaches("live", "Running")
        await stack.watcher.kill()
        await plane.kubectl("delete", "namespace", x, "--wait=false")

        async def without_rights() -> bool:
            return await plane.read(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{x}/rolebindings/dbtrun") is None

        await until(without_rights, 60, "the RoleBinding gone")
        stack.watcher.start()
        await all_over(stack)
        await gone(plane, x)


async def test_a_secret_that_went_with_its_namespace_does_not_keep_a_run_alive(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    (x,) = names(namespace, "x")
    async with system(plane, namespace, tmp_path, [x], {"watchNamespaces": [namespace, x]}) as stack:
        site = at(stack, x)
        found = await stack.json("get", "secret", "dbt-cloud")
        secret = {**found, "metadata": {"name": "own"}}
        own = Own(site, "live")
        await own.apply_with([secret], "endless", connectionRef={"name": "own"})
        await own.reaches("Running")
        await site.kubectl("delete", "secret", "own")
        await plane.kubectl("delete", "namespace", x, "--wait=false")
        await all_over(stack)
        await gone(plane, x)


@asynccontextmanager
async def refusing_webhook(plane: ControlPlane, namespace: str, resource: str) -> AsyncIterator[None]:
    """A webhook that must be asked about this resource and does not answer."""
    name = f"refuses-{namespace[-30:]}"
    body = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "down.example.com",
                "clientConfig": {"url": "https://127.0.0.1:1/"},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [
                    {
                        "apiGroups": ["dbtrun.dev"],
                        "apiVersions": ["*"],
                        "operations": ["UPDATE"],
                        "resources": [resource],
                    }
                ],
            }
        ],
    }
    await plane.kubectl("apply", "-f", "-", input=json.dumps(body))
    try:
        await _in_force(plane, namespace)
        yield
    finally:
        await plane.kubectl("delete", "validatingwebhookconfiguration", name)


async def _in_force(plane: ControlPlane, namespace: str) -> None:
    """The API server learns of a webhook by a watch of its own."""
    await plane.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(dbt_run("probe", suspend=True)))

    async def refused() -> bool:
        patch = json.dumps({"status": {"message": str(time.monotonic())}})
        flags = ("patch", "dr", "probe", "--subresource=status", "--type=merge", "-p", patch)
        return (await plane.kubectl("-n", namespace, *flags, check=False)).returncode != 0

    await until(refused, 60, "statuses are refused")


async def test_a_cancel_reaches_dbt_cloud_while_no_status_can_be_written(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with system(plane, namespace, tmp_path, [], {}) as stack:
        own, late = Own(stack, "a"), Own(stack, "late")
        for each in (own, late):
            await each.apply("endless", activeDeadlineSeconds=3600)
            await each.reaches("Running")
        async with refusing_webhook(plane, namespace, "dbtruns/status"):
            begin = time.monotonic()
            await own.patch(cancel=True)
            await late.patch(activeDeadlineSeconds=1)
            await all_over(stack)
            print(f"cancelled {time.monotonic() - begin:.1f} s after it was asked for")
            assert (await own.status())["phase"] == "Running", "nothing could be written"
        assert (await own.reaches("Cancelled"))["reason"] == "CancelRequested"
        assert (await late.reaches("TimedOut"))["reason"] == "ActiveDeadlineExceeded"


async def test_a_forbidden_namespace_is_told_and_served_once_it_is_allowed(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    (x,) = names(namespace, "x")
    async with system(plane, namespace, tmp_path, [x], {"watchNamespaces": [namespace, x]}) as stack:
        role = await plane.read(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{x}/roles/dbtrun")
        await plane.kubectl("-n", x, "delete", "role", "dbtrun")
        said = len(stack.watcher.text())
        await stack.watcher.stop()
        stack.watcher.start()
        await stack.watcher.says(r"Watching \d+ DbtRuns", after=said)
        await lives(stack, "others", 2)
        assert role is not None
        kept = {key: role[key] for key in ("apiVersion", "kind", "rules")} | {"metadata": {"name": "dbtrun"}}
        await plane.kubectl("-n", x, "apply", "-f", "-", input=json.dumps(kept))
        own = Own(at(stack, x), "a")
        await own.apply("success")
        await own.reaches("Succeeded", seconds=PATIENCE)
        assert await plane.read(f"/apis/{API_VERSION}/namespaces/{x}/{PLURAL}/a") is not None
