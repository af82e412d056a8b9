"""A receiver on a socket of its own, and clients that send it webhooks, or what is none."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from dbtrun.connection.hosts import Hosts
from dbtrun.connection.secret import Connection
from watcher.clock import Clock, system_clock
from watcher.cluster.secrets import SecretData, SecretMissing
from watcher.sources import SecretName
from watcher.telemetry.serving import Limits, serve
from watcher.webhooks.hint import Hint
from watcher.webhooks.receiver import LIMITS, Receiver
from watcher.webhooks.relay import Relay
from watcher.webhooks.signers import Signers

NAME = SecretName("data", "dbt-cloud")
PATH = "/hooks/data/dbt-cloud"
SECRET = "the-secret-of-the-subscription"


def connection_secret(**change: str) -> SecretData:
    data = {"token": "t0k3n", "account-id": "1", "webhook-secret": SECRET} | change
    return SecretData("dbtrun.dev/connection", {key: value.encode() for key, value in data.items()}, "1")


def body(run_id: int = 1, **change: Any) -> bytes:
    """As dbt Cloud sends it when a run has ended."""
    data = {"runId": str(run_id), "jobId": "2", "runStatus": "Success"}
    event = {"accountId": 1, "eventId": f"wev_{run_id}", "eventType": "job.run.completed", "data": data}
    return json.dumps(event | change).encode()


def signature(content: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()


@dataclass
class Secrets:
    """The cluster's Secrets, and how often each was asked for."""

    stored: dict[SecretName, SecretData] = field(default_factory=lambda: {NAME: connection_secret()})
    reads: Counter[SecretName] = field(default_factory=Counter)
    broken: Exception | None = None

    async def read(self, namespace: str, name: str) -> SecretData:
        where = SecretName(namespace, name)
        self.reads[where] += 1
        if self.broken is not None:
            raise self.broken
        if where not in self.stored:
            raise SecretMissing("There is no such Secret.")
        return self.stored[where]

    def forget(self, namespace: str, name: str) -> None:
        pass


@dataclass
class Watching:
    """A receiver, and what came of its webhooks."""

    url: str = ""
    port: int = 0
    leads: bool = True
    leader: str = ""
    awaited: bool = True
    secrets: Secrets = field(default_factory=Secrets)
    hints: list[tuple[Connection, Hint]] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def act(self, connection: Connection, hint: Hint) -> bool:
        self.hints.append((connection, hint))
        return self.awaited

    async def counted(self, outcome: str) -> None:
        """Waits until a request ended so."""
        async with asyncio.timeout(60):
            while not self.outcomes[outcome]:  # noqa: ASYNC110 - the connection is cut off, so nothing is answered
                await asyncio.sleep(0.01)

    def count(self, outcome: str, _seconds: float) -> None:
        self.outcomes[outcome] += 1

    async def post(self, content: bytes, sign: str | None = None, path: str = PATH, **headers: str) -> httpx.Response:
        """Sends one; signed rightly unless it is said otherwise."""
        headers = {"Authorization": signature(content) if sign is None else sign} | headers
        async with httpx.AsyncClient(trust_env=False, timeout=30, verify=False) as client:  # noqa: S501 - http, where loading certificates takes time
            return await client.post(self.url + path, content=content, headers=headers)

    async def raw(self, text: bytes) -> bytes:
        """Everything that is answered to these bytes, until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(text)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer


@asynccontextmanager
async def receiving(limits: Limits = LIMITS, clock: Clock = system_clock, **state: Any) -> AsyncIterator[Watching]:
    """A receiver that serves until the block is left."""
    at = Watching(**state)
    listener = socket.create_server(("127.0.0.1", 0))
    at.port = listener.getsockname()[1]
    at.url = f"http://127.0.0.1:{at.port}"
    relay = Relay(lambda: at.leader)
    signers = Signers(at.secrets, Hosts(("getdbt.com",), loopback=False), clock)
    receiver = Receiver(signers, at.act, lambda: at.leads, relay, at.count, clock)
    serving = asyncio.create_task(serve(receiver, listener, limits))
    try:
        yield at
        assert not serving.done(), serving
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        await relay.close()
