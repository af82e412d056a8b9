"""Webhooks in real Pods: they come by the Service or to a standby, and the Ingress of the guide is accepted."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.node.node import Node
from tests.node.release import SECRET, Release, ask
from tests.node.test_node import pod
from tests.stack import Own, until
from tests.stack.dbt import ACCOUNT
from tests.stack.site import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMESPACE: Final = "webhooks"
NEVER: Final = 3_000
"""Seconds between two looks that the watcher takes by itself: longer than the test waits."""


async def counted(release: Release, outcome: str) -> float:
    """Webhooks with this outcome, of all the watchers."""
    pages = [await ask(each, "/metrics") for each in await release.pods()]
    found = [re.search(rf'dbtrun_webhooks_total{{outcome="{outcome}"}} (\S+)', page) for page in pages]
    return sum(float(each.group(1)) for each in found if each)


async def subscribed(release: Release, url: str) -> str:
    """From now on, the simulator sends webhooks there. The secret that signs them."""
    answer = await release.control.post(
        f"{release.url}/api/v3/accounts/{ACCOUNT}/webhooks/subscriptions",
        json={"name": "watcher", "client_url": url},
        headers={"Authorization": f"Token {release.token}"},
    )
    secret = str(answer.json()["data"]["hmac_secret"])
    await release.apply(release.secret(SECRET, release.keys() | {"webhook-secret": secret}))
    return secret


def sender(url: str, content: str, signature: str) -> str:
    """A Pod that sends a webhook until it is taken."""
    words = f"--header 'Authorization: {signature}' --post-data '{content}'"
    return pod(
        "sender", command=["/busybox", "sh", "-c", f"until /busybox wget -q -O- {words} {url}; do sleep 1; done"]
    )


@pytest.mark.timeout(900)
async def test_webhooks_reach_the_watcher_by_its_service_and_by_a_standby(node: Node, tmp_path: Path) -> None:
    node.plane.create_namespace_sync(NAMESPACE)
    await node.plane.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    values: dict[str, Any] = {
        "replicas": 2,
        "webhooks": {"enabled": True},
        "networkPolicy": {"enabled": True},
        "settings": {"connectionHosts": node.host, "feedIntervalSeconds": NEVER},
    }
    async with Release.up(node, NAMESPACE, tmp_path, values=values) as release:
        acting = await release.acting()
        (standby,) = [each for each in await release.pods() if each["metadata"]["name"] != acting.name]
        path = f"/hooks/{NAMESPACE}/{SECRET}"
        secret = await subscribed(release, f"http://{standby['status']['podIP']}:8081{path}")

        handed_on = Own(release, "handed-on")
        await handed_on.apply("endless", pollIntervalSeconds=300)
        await handed_on.reaches("Running", seconds=120)
        await handed_on.finish(10)
        await handed_on.reaches("Succeeded", seconds=60)
        assert await counted(release, "relayed") >= 1

        await release.ask("PUT", "/webhooks", {"drop": 1.0})
        by_service = Own(release, "by-service")
        await by_service.apply("endless", pollIntervalSeconds=300)
        status = await by_service.reaches("Queued", "Starting", "Running")
        before = await counted(release, "accepted")
        await by_service.finish(10)
        data = {"runId": str(status["runId"]), "runStatus": "Success", "runStatusCode": 10}
        event = {"accountId": ACCOUNT, "eventId": "wev_1", "eventType": "job.run.completed", "data": data}
        content = json.dumps(event)
        signature = hmac.new(secret.encode(), content.encode(), hashlib.sha256).hexdigest()
        url = f"http://dbtrun-webhooks.{NAMESPACE}.svc:8081{path}"
        await node.plane.kubectl("-n", NAMESPACE, "apply", "-f-", input=sender(url, content, signature))
        await by_service.reaches("Succeeded", seconds=120)
        assert await counted(release, "accepted") > before

        ports = [port["name"] for port in standby["spec"]["containers"][0]["ports"]]
        policy = await release.json("get", "networkpolicy", "dbtrun")
        assert "webhooks" in ports
        assert {"port": "webhooks", "protocol": "TCP"} in [
            port for rule in policy["spec"]["ingress"] for port in rule["ports"]
        ]
        for each in await release.pods():
            assert each["status"]["containerStatuses"][0]["restartCount"] == 0

        await ingress_leads_to_the_service(release)


async def ingress_leads_to_the_service(release: Release) -> None:
    """The Ingress of docs/webhooks.md is accepted, and its backend is a port of the chart's Service."""
    (document,) = re.findall(r"```yaml\n(.*?kind: Ingress.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL)
    ingress = yaml.safe_load(document)
    ingress["metadata"]["namespace"] = release.namespace
    await release.kubectl("apply", "--validate=strict", "-f-", input=json.dumps(ingress))
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    service = await release.json("get", "service", backend["name"])
    assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]

    async def endpoints() -> bool:
        listed = await release.json("get", "endpointslices", "-l", f"kubernetes.io/service-name={backend['name']}")
        addresses = [
            each for item in listed["items"] for endpoint in item["endpoints"] for each in endpoint["addresses"]
        ]
        return len(addresses) == 2

    await until(endpoints, 60, "the Service leads to both Pods")
