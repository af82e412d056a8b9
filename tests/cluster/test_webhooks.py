"""Webhooks of a simulated dbt Cloud, on a real API server: ends are seen by them alone, and nothing is believed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster.shell import Shell
from tests.cluster.test_mirrors import appear
from tests.controlplane import ControlPlane
from tests.node.documents import commands
from tests.plain import plain_http
from tests.ports import free_ports
from tests.stack import Own, Stack, until
from tests.stack.dbt import ACCOUNT
from tests.stack.mirrors import elsewhere, mirror
from tests.stack.program import Program
from tests.stack.site import ROOT
from tests.stack.stack import SECRET, page
from watcher.dbtcloud.hints import BURST, FOR_HINTS
from watcher.webhooks.bounds import PEER

NEVER: Final = 3_000
"""Seconds between two looks that the watcher takes by itself: longer than a test waits."""
PER_MINUTE: Final = 600


class Hooked:
    """A stack whose watcher takes webhooks, and the subscription that sends them to it or to another watcher."""

    def __init__(self, stack: Stack, port: int) -> None:
        self.stack = stack
        self.port = port
        self.secret = ""

    async def subscribe(self, port: int) -> None:
        """From now on, the simulator sends webhooks to this port."""
        url = f"{self.stack.url}/api/v3/accounts/{ACCOUNT}/webhooks/subscriptions"
        wanted = {"name": "watcher", "client_url": self.url(port)}
        answer = await self.stack.control.post(url, json=wanted, headers={"Authorization": f"Token {self.stack.token}"})
        self.secret = answer.json()["data"]["hmac_secret"]
        keys = self.stack.keys() | {"webhook-secret": self.secret}
        await self.stack.apply(self.stack.secret(SECRET, keys))

    def url(self, port: int) -> str:
        return f"http://127.0.0.1:{port}/hooks/{self.stack.namespace}/{SECRET}"

    async def post(self, run_id: int, secret: str, number: int = 0, **change: Any) -> int:
        """Sends one as dbt Cloud would, no faster than one address may, and returns how it was answered."""
        await asyncio.sleep(60 / PEER[0])
        data = {"runId": str(run_id), "jobId": "1", "runStatus": "Success", "runStatusCode": 10}
        event = {"accountId": ACCOUNT, "eventId": f"wev_{number}", "eventType": "job.run.completed", "data": data}
        content = json.dumps(event | change).encode()
        signature = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
        async with plain_http() as http:
            return (
                await http.post(self.url(self.port), content=content, headers={"Authorization": signature})
            ).status_code


async def outcomes(watcher: Program) -> dict[str, float]:
    told = (await page(watcher, "/metrics")).text
    return {name: float(count) for name, count in re.findall(r'dbtrun_webhooks_total{outcome="(\w+)"} (\S+)', told)}


@pytest.fixture
async def hooked(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Hooked]:
    (port,) = free_ports(1)
    settings = {
        "DBTRUN_WEBHOOKS_LISTEN": f"127.0.0.1:{port}",
        "DBTRUN_FEED_INTERVAL_SECONDS": str(NEVER),
        "DBTRUN_REQUESTS_PER_MINUTE": str(PER_MINUTE),
    }
    async with Stack.up(plane, namespace, tmp_path, settings=settings, connected=False) as stack:
        await stack.watcher.says("Watching")
        yield Hooked(stack, port)


async def test_ends_are_seen_by_webhooks_alone_also_when_they_come_to_a_standby(hooked: Hooked) -> None:
    stack = hooked.stack
    standby, port = stack.another_watcher("standby"), free_ports(1)[0]
    standby.env = {**standby.env, "DBTRUN_WEBHOOKS_LISTEN": f"127.0.0.1:{port}"}
    standby.start()
    await standby.says("Waiting for the Lease")
    await hooked.subscribe(port)
    await stack.apply(mirror("m"))
    own = Own(stack, "own")
    await own.apply("endless", pollIntervalSeconds=300)
    await own.reaches("Running", seconds=120)
    await own.finish(10)
    await own.reaches("Succeeded", seconds=120)
    await appear(stack, "m", [await elsewhere(stack)])

    async def relayed() -> bool:
        handed, taken = await outcomes(standby), await outcomes(stack.watcher)
        return handed.get("relayed", 0) >= 2 and taken.get("accepted", 0) >= 2

    await until(relayed, 60, "the standby has handed webhooks on")


async def test_forged_repeated_and_broken_webhooks_change_nothing(hooked: Hooked) -> None:
    stack = hooked.stack
    await hooked.subscribe(hooked.port)
    own = Own(stack, "own")
    await own.apply("endless", pollIntervalSeconds=300)
    status = await own.reaches("Running", seconds=120)
    run_id = int(status["runId"])
    await stack.ask("DELETE", "/requests")
    began = time.monotonic()

    forged = [await hooked.post(run_id, "guess", n) for n in range(20)]
    assert set(forged) == {401}
    # Signed and untrue: someone has changed dbt Cloud's mind, or sends again what was true of another run.
    signed = [await hooked.post(run_id, hooked.secret, n) for n in range(200)]
    assert set(signed) == {200}
    repeated = [await hooked.post(run_id, hooked.secret, n) for n in range(50)]
    assert set(repeated) == {200}
    cancelled = await hooked.post(run_id, hooked.secret, 1_000, data={"runId": str(run_id), "runStatusCode": 30})
    others = [await hooked.post(run_id + 1 + n, hooked.secret, 2_000 + n) for n in range(50)]
    assert {cancelled, *others} == {200}
    assert await hooked.post(0, hooked.secret, 3_000, data=[]) == 400
    await asyncio.sleep(4)  # the last look that a webhook causes comes after three seconds

    minutes = (time.monotonic() - began) / 60
    asked = (await stack.ask("GET", "/requests"))["kinds"].get("list-runs", 0)
    own_looks = 2
    assert 0 < asked <= PER_MINUTE * FOR_HINTS * minutes + BURST + own_looks
    after = await own.status()
    assert (after["phase"], after["runId"]) == ("Running", run_id)
    counts = await outcomes(stack.watcher)
    assert (counts["unsigned"], counts["duplicate"], counts["malformed"]) == (20, 50, 1)
    assert counts["unused"] >= 50, "nothing is asked about runs that nobody waits for"

    await own.finish(20)
    failed = await own.reaches("Failed", seconds=120)
    assert failed["runId"] == run_id


async def test_the_command_creates_the_webhook_and_the_watcher_takes_it(hooked: Hooked, tmp_path: Path) -> None:
    """Also when the webhook is replaced. The command of docs/webhooks.md, with the address of this test."""
    stack = hooked.stack
    guide = (ROOT / "docs/webhooks.md").read_text()
    (command,) = [each for each in commands(guide) if each.startswith("dbtrun webhook")]
    command = command.replace("https://hooks.example.com", f"http://127.0.0.1:{hooked.port}")
    command = command.replace("-n data", f"-n {stack.namespace}")
    await stack.apply(stack.secret(SECRET, stack.keys()))
    shell = Shell(stack.plane, tmp_path, stack.namespace)
    for number, replaces in enumerate(("", " --replace")):
        ended = await shell.runs(command + replaces)
        assert (ended.code, ended.err) == (0, ""), ended
        keys = (await stack.json("get", "secret", SECRET))["data"]
        secret = base64.b64decode(keys["webhook-secret"]).decode()

        async def signs(secret: str = secret, number: int = number) -> bool:
            return await hooked.post(1, secret, number) == 200

        await until(signs, 90, "the watcher reads the secret", pause=1)
        own = Own(stack, f"own-{number}")
        await own.apply("endless", pollIntervalSeconds=300)
        await own.reaches("Running", seconds=120)
        await own.finish(10)
        await own.reaches("Succeeded", seconds=120)
    assert (await shell.runs(command)).code == 1, "there is one"
    assert {"webhook-url", "webhook-secret", "webhook-secret-previous"} <= keys.keys()
    listed = await stack.control.get(
        f"{stack.url}/api/v3/accounts/{ACCOUNT}/webhooks/subscriptions",
        headers={"Authorization": f"Token {stack.token}"},
    )
    assert [each["client_url"] for each in listed.json()["data"]] == [hooked.url(hooked.port)]
