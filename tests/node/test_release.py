"""The chart's watcher in its Pod: tokens that change, memory, whoever it runs as."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import yaml

from dbtrun.api import API_VERSION, PLURAL
from tests.controlplane.components import NODE_NAME
from tests.node.handover import pace
from tests.node.node import Node
from tests.node.release import CHART, SECRET, Release
from tests.stack import Own, dbt_run, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
MANY = 500
ANY_USER = 1_000_680_000
"""OpenShift gives each namespace a range of its own; its first begins here."""
MIB = 2**20
FIRST_START_SECONDS = 10.0
"""From a running watcher's connection to its first start."""
ROTATION_SECONDS = 15.0
"""From a Secret's new token to its use, if the old one is refused already."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def release(node: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Release]:
    node.plane.create_namespace_sync("release")
    node.plane.kubectl_sync("label", "namespace", "release", "pod-security.kubernetes.io/enforce=restricted")
    async with Release.up(node, "release", tmp_path_factory.mktemp("release")) as release:
        yield release


async def test_a_connection_that_comes_later_is_found_within_seconds(release: Release) -> None:
    """A mounted file would need up to a minute and a half."""
    await release.kubectl("delete", "secret", SECRET)
    own = Own(release, "waiting")
    await own.apply("success")
    await reachable(own, "False")
    await release.apply(release.secret(SECRET, release.keys()))
    connected = time.monotonic()

    async def started() -> bool:
        return bool(await own.runs())

    await until(started, 60, "the first start")
    took = time.monotonic() - connected
    print(f"the first start comes {took:.1f} s after the Secret")
    assert took <= FIRST_START_SECONDS * pace()
    await own.reaches("Succeeded")


async def test_the_token_of_a_connection_changes_under_live_runs(release: Release) -> None:
    own = Own(release, "rotated")
    await own.apply("endless")
    await own.reaches("Running")
    await release.ask("PUT", "/tokens", {"tokens": [{"token": "dbtc_the_next_one"}]})
    await reachable(own, "False")
    await release.apply(release.secret(SECRET, release.keys("dbtc_the_next_one")))
    changed = time.monotonic()
    await reachable(own, "True")
    took = time.monotonic() - changed
    print(f"the new token is used {took:.1f} s after the Secret changed")
    assert took <= ROTATION_SECONDS * pace()
    await own.finish(10)
    await own.reaches("Succeeded")
    assert len(await own.runs()) == 1
    await never_restarted(release)
    await release.ask("PUT", "/tokens", {"tokens": [{"token": release.token}]})
    await release.apply(release.secret(SECRET, release.keys()))


async def reachable(own: Own, status: str) -> None:
    async def told() -> bool:
        return (await own.condition("Reachable")).get("status") == status

    await until(told, 150, f"Reachable is {status}", pause=0.2)


async def never_restarted(release: Release) -> None:
    (pod,) = await release.pods()
    assert [each["restartCount"] for each in pod["status"]["containerStatuses"]] == [0]


async def test_the_pods_own_token_is_renewed_by_kubelet_and_followed(release: Release) -> None:
    """kubelet renews it after most of its hour; one that starts has none and fetches a new one at once."""
    before = await own_token(release)
    await asked_with(release, before)
    await asyncio.to_thread(release.node.restart_kubelet)

    async def renewed() -> str | None:
        token = await own_token(release)
        return token if token != before else None

    token = await until(renewed, 120, "kubelet writes a new token", pause=0.5)
    written = time.monotonic()
    await asked_with(release, token)
    print(f"the watcher's new token is used {time.monotonic() - written:.1f} s after kubelet wrote it")
    await never_restarted(release)


async def own_token(release: Release) -> str:
    """The id of the token that the watcher's file holds; the token itself is told to nobody."""
    (pod,) = await release.pods()
    file = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    answer = await release.plane.kubectl(
        "-n", release.namespace, "exec", pod["metadata"]["name"], "--", "cat", file, check=False
    )
    if answer.returncode:  # kubelet is not back yet
        return ""
    _head, claims, _signature = answer.stdout.split(".")
    return str(json.loads(urlsafe_b64decode(claims + "=="))["jti"])


async def asked_with(release: Release, token: str) -> None:
    """Waits until the API server was asked for something with this token."""

    async def seen() -> bool:
        text = await asyncio.to_thread(release.plane.audit_log.read_text)
        return f"JTI={token}" in text

    await until(seen, 150, "the token is used", pause=0.5)


async def test_any_user_will_do_and_none_can_write_or_has_a_capability(release: Release) -> None:
    user = {"runAsUser": ANY_USER, "runAsGroup": 0, "fsGroup": ANY_USER}
    patch = {"spec": {"template": {"spec": {"securityContext": user}}}}
    await release.kubectl("patch", "deployment", "dbtrun", "-p", json.dumps(patch))
    await release.rolled_out()
    own = Own(release, "any-user")
    await own.apply("success")
    await own.reaches("Succeeded")
    (pod,) = await release.pods()
    inside = ("exec", pod["metadata"]["name"], "--")
    status = await release.kubectl(*inside, "cat", "/proc/1/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == [str(ANY_USER)] * 4
    assert {facts[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1"
    refused = await release.plane.kubectl("-n", release.namespace, *inside, "touch", "/opt/dbtrun/x", check=False)
    assert "Read-only file system" in refused.stderr


async def test_many_live_runs_fit_into_the_memory_that_the_chart_asks_for(release: Release) -> None:
    """The last test here: its runs go on."""
    before = len(await release.runs())
    objects = [dbt_run(f"many-{number}", "endless") for number in range(MANY)]
    await release.kubectl("create", "-f-", input=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects}))
    used: list[tuple[int, int]] = []

    async def all_run() -> bool:
        used.append(await memory(release))
        listed = await release.plane.read(f"/apis/{API_VERSION}/namespaces/{release.namespace}/{PLURAL}")
        assert listed is not None
        phases = [
            each.get("status", {}).get("phase") for each in listed["items"] if "many-" in each["metadata"]["name"]
        ]
        return phases.count("Running") == MANY

    await until(all_run, 240, f"{MANY} DbtRuns run", pause=2)
    for _ in range(10):  # several rounds of polling
        await asyncio.sleep(2)
        used.append(await memory(release))
    resources = yaml.safe_load((CHART / "values.yaml").read_text())["resources"]
    request, limit = (int(resources[kind]["memory"].removesuffix("Mi")) for kind in ("requests", "limits"))
    working_set, rss = (max(each) for each in zip(*used, strict=True))
    print(f"{MANY} live runs: working set at most {working_set / MIB:.0f} MiB, of it {rss / MIB:.0f} its own, "
          f"of {request} (request) and {limit} (limit)")  # fmt: skip
    assert working_set <= request * MIB
    assert len(await release.runs()) == before + MANY
    await never_restarted(release)


async def memory(release: Release) -> tuple[int, int]:
    """Bytes of the Pod as kubelet counts them before it evicts: the working set, and without files' pages."""
    (pod,) = await release.pods()
    summary: Any = await release.plane.read(f"/api/v1/nodes/{NODE_NAME}/proxy/stats/summary")
    found = next(each["memory"] for each in summary["pods"] if each["podRef"]["uid"] == pod["metadata"]["uid"])
    return int(found.get("workingSetBytes", 0)), int(found.get("rssBytes", 0))
