"""Webhooks as dbt Cloud sends them: signed, late, in any order, again after a missed answer, and some not at all.

An error is told twice, at once and when the artifacts are there; a cancelled run is not told of. A subscription that
fails too often in a row is deactivated.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import hmac
import random
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import msgspec

from watcher.simulator.model import Run, Status
from watcher.simulator.scenario import Event, Span, WebhookSpec
from watcher.simulator.wire import rfc3339

if TYPE_CHECKING:
    from watcher.simulator.clock import Clock
    from watcher.simulator.model import Account

BEAT = 0.02
"""Real seconds between two looks at what there is to send."""
# Documented: an answer that comes later counts as a failure, even if it is a 200.
ANSWER_SECONDS = 10.0
STATUSES = {Status.RUNNING: "Running", Status.SUCCESS: "Success", Status.ERROR: "Errored"}
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Conduct(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How the deliveries go wrong. Seconds are real ones."""

    drop: Probability = 0.0
    """The part of the events that is never sent."""
    double: Probability = 0.0
    """The part that is sent twice."""
    delay: Span = 0.0
    """Seconds until an event is sent; a spread changes their order."""
    attempts: Annotated[int, msgspec.Meta(ge=1)] = 5
    retry_seconds: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Between two attempts."""
    # Documented since 2026; before that, five failures were enough.
    deactivate_after: Annotated[int, msgspec.Meta(ge=1)] = 1_000
    """Failed attempts in a row."""


class Subscription(msgspec.Struct, kw_only=True, eq=False):
    """A webhook in the account, and how its deliveries went."""

    id: str
    spec: WebhookSpec
    created_at: float
    updated_at: float
    failures: int = 0
    """In a row."""
    status_code: int = 0
    """Of the last attempt; 0: none was made, or not answered."""
    dispatched_at: float | None = None

    def wants(self, event: Event, job_id: int) -> bool:
        """Whether it gets this event."""
        spec = self.spec
        return spec.active and event in spec.event_types and (not spec.job_ids or job_id in spec.job_ids)


class Webhooks:
    """The account's subscriptions. The task that sends begins with the first of them."""

    def __init__(self, account: Account, clock: Clock, seed: int) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.conduct = Conduct()
        self.counts: Counter[str] = Counter()
        """Events, attempts, delivered and failed ones."""
        self._account = account
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - mishaps, not secrets
        self._told: list[tuple[float, int, Event, Run]] = []
        self._numbers = 0
        self._sender: asyncio.Task[None] | None = None
        account.on_change = self._changed

    def add(self, spec: WebhookSpec) -> Subscription:
        """A new subscription. It gets a secret if it has none."""
        now = self._clock.stamp(self._clock.now())
        spec.hmac_secret = spec.hmac_secret or secrets.token_hex(32)
        made = Subscription(id=f"wsu_{secrets.token_hex(8)}", spec=spec, created_at=now, updated_at=now)
        self.subscriptions[made.id] = made
        return made

    def change(self, subscription: Subscription, spec: WebhookSpec) -> None:
        """Replaces its fields but not its secret, and resets its count of failures."""
        spec.hmac_secret = subscription.spec.hmac_secret
        subscription.spec, subscription.failures = spec, 0
        subscription.updated_at = self._clock.stamp(self._clock.now())

    def start(self) -> None:
        """Begins to send, in the running loop."""
        if self.subscriptions and self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send())

    def close(self) -> None:
        """Stops sending."""
        if self._sender is not None:
            self._sender.cancel()

    def _changed(self, run: Run, at: float) -> None:
        """A run has started or ended, at a virtual instant."""
        if run.status is Status.RUNNING:
            self._tell(at, "job.run.started", run)
        elif run.status is Status.ERROR:
            self._tell(at, "job.run.errored", run)
        if run.status in (Status.SUCCESS, Status.ERROR):
            self._tell(at + run.artifacts_after, "job.run.completed", run)

    def _tell(self, at: float, event: Event, run: Run) -> None:
        if any(each.wants(event, run.job_id) for each in self.subscriptions.values()):
            self._numbers += 1
            # The number decides between events of one instant: runs cannot be compared.
            heapq.heappush(self._told, (at, self._numbers, event, run))

    async def _send(self) -> None:
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False) as http, asyncio.TaskGroup() as group:
            while True:
                self._account.advance()
                while self._told and self._told[0][0] <= self._clock.now():
                    _, number, event, run = heapq.heappop(self._told)
                    for subscription in self.subscriptions.values():
                        if subscription.wants(event, run.job_id):
                            self._dispatch(group, http, subscription, f"wev_{number:027d}", event, run)
                await asyncio.sleep(BEAT)

    def _dispatch(
        self,
        group: asyncio.TaskGroup,
        http: httpx.AsyncClient,
        subscription: Subscription,
        event_id: str,
        event: Event,
        run: Run,
    ) -> None:
        self.counts["events"] += 1
        conduct, chance = self.conduct, self._random.random
        if chance() < conduct.drop:
            self.counts["dropped"] += 1
            return
        content = msgspec.json.encode(self._body(subscription, event_id, event, run))
        for _ in range(2 if chance() < conduct.double else 1):
            delay = conduct.delay
            seconds = self._random.uniform(delay[0], delay[1]) if isinstance(delay, list) else delay
            group.create_task(self._deliver(http, subscription, content, seconds))

    async def _deliver(
        self, http: httpx.AsyncClient, subscription: Subscription, content: bytes, seconds: float
    ) -> None:
        secret = subscription.spec.hmac_secret or ""
        headers = {
            "Authorization": hmac.new(secret.encode(), content, hashlib.sha256).hexdigest(),
            "Content-Type": "application/json",
        }
        for attempt in range(self.conduct.attempts):
            await asyncio.sleep(self.conduct.retry_seconds if attempt else seconds)
            if not subscription.spec.active or subscription.id not in self.subscriptions:
                return
            self.counts["attempts"] += 1
            subscription.dispatched_at = self._clock.stamp(self._clock.now())
            try:
                answer = await http.post(subscription.spec.client_url, content=content, headers=headers)
                subscription.status_code = answer.status_code
            except (httpx.HTTPError, httpx.InvalidURL):
                subscription.status_code = 0
            if 200 <= subscription.status_code < 300:
                self.counts["delivered"] += 1
                subscription.failures = 0
                return
            self.counts["failed"] += 1
            subscription.failures += 1
            if subscription.failures >= self.conduct.deactivate_after:
                subscription.spec.active = False

    def _body(self, subscription: Subscription, event_id: str, event: Event, run: Run) -> dict[str, Any]:
        job = self._account.jobs[run.job_id]
        data = {
            "jobId": str(run.job_id),
            "jobName": job.spec.name,
            "runId": str(run.id),
            "environmentId": str(run.environment_id),
            "environmentName": job.environment.name,
            "dbtVersion": run.dbt_version,
            "projectName": job.project.name,
            "projectId": str(run.project_id),
            # As it was at the time of the event: by now the run may be over.
            "runStatus": "Running" if event == "job.run.started" else STATUSES[run.status],
            "runStatusCode": 3 if event == "job.run.started" else int(run.status),
            # The text `None`, as in dbt Cloud's documented example.
            "runStatusMessage": str(run.status_message),
            "runReason": run.request.cause,
            "runStartedAt": _seconds(run.started_at),
        }
        if event != "job.run.started":
            data["runErroredAt" if event == "job.run.errored" else "runFinishedAt"] = _seconds(run.finished_at)
        return {
            "accountId": self._account.spec.id,
            "webhookId": subscription.id,
            "eventId": event_id,
            # With nine digits of a fraction, as in the documented example.
            "timestamp": rfc3339(self._clock.stamp(self._clock.now()))[:-1] + "000Z",
            "eventType": event,
            "webhookName": subscription.spec.name,
            "data": data,
        }


def _seconds(stamp: float | None) -> str | None:
    return None if stamp is None else rfc3339(stamp).partition(".")[0] + "Z"


def body(account_id: int, subscription: Subscription, *, new: bool = False) -> dict[str, Any]:
    """A subscription as the API shows it. Its secret is shown once, when it was made."""
    spec = subscription.spec
    return {
        "id": subscription.id,
        "account_identifier": f"act_{account_id}",
        "account_id": str(account_id),
        "name": spec.name,
        "description": spec.description,
        "job_ids": [str(job_id) for job_id in spec.job_ids],
        "event_types": spec.event_types,
        "client_url": spec.client_url,
        "active": spec.active,
        "created_at": _micros(subscription.created_at),
        "updated_at": _micros(subscription.updated_at),
        "dispatched_at": _micros(subscription.dispatched_at),
        "http_status_code": str(subscription.status_code),
    } | ({"hmac_secret": spec.hmac_secret} if new else {})


def _micros(stamp: float | None) -> str | None:
    return None if stamp is None else str(int(stamp * 1_000_000))
