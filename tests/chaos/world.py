"""Everything the watcher meets, in one event loop whose time jumps: dbt Cloud, an API server, people, and death.

Only sockets and kopf's watch are missing; the loop, the performer, the accounts and the client are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final, cast

import httpx
import looptime
from msgspec.structs import replace

from dbtrun.api import (
    CONNECTION_SECRET_TYPE,
    FINALIZER,
    LIVE_PHASES,
    START_COPY_ANNOTATION,
    UID_ANNOTATION,
    ConnectionRef,
    DbtRun,
    Job,
    Phase,
    Reason,
    Spec,
)
from dbtrun.connection.hosts import Hosts
from dbtrun.values import Instant
from tests.chaos.fate import (
    BARE,
    COPIES,
    REPLACEMENTS,
    RESTORES,
    UNDOINGS,
    Fate,
    FatefulTransport,
    Mishap,
    fateful_objects,
)
from tests.chaos.objects import Objects
from tests.chaos.oracle import Seen, Verdict, identity, judge
from tests.chaos.wire import Wire
from watcher.cluster.clock import ClusterClock
from watcher.cluster.mirror import Mirror
from watcher.connections import Connections
from watcher.dbtcloud.accounts import Accounts
from watcher.knowledge import Knowledge
from watcher.lifecycle.policy import Policy
from watcher.perform import Objects as Written
from watcher.perform import Performer
from watcher.reconcile import Reconciler
from watcher.simulator.clock import Clock
from watcher.simulator.faults import AnyEffect, Rule
from watcher.simulator.model import TriggerRequest
from watcher.simulator.scenario import JobSpec, Scenario
from watcher.simulator.server import application
from watcher.simulator.state import Simulator
from watcher.sources import SecretData, Sources
from watcher.telemetry.metrics import Metrics

EPOCH: Final = 1_720_015_140.0
"""Where the wall's time begins."""
WATCH_LAG: Final = 0.05
"""Seconds until a change is heard."""
PATIENCE: Final = 3_000.0
"""Seconds for anything to come true: longer than every period of the policy together."""
AFTERWARDS: Final = 1_500.0
"""Seconds that nothing may happen in, once everything has come to rest: longer than a resync."""
JOBS: Final = {"success": 1, "failure": 2, "endless": 3, "flaky": 4}
SCENARIO: Final = Scenario(
    jobs=[
        JobSpec(id=1, name="success", run=20),
        JobSpec(id=2, name="failure", run=20, outcomes=["error"]),
        JobSpec(id=3, name="endless", run=None),
        JobSpec(id=4, name="flaky", run=20, outcomes=["error", "success"]),
    ]
)


_readings: Final = itertools.count()


def now() -> Instant:
    """Both clocks; they agree on nothing but their pace. As on any machine, no two readings are the same."""
    mono = asyncio.get_running_loop().time() + next(_readings) * 1e-7
    return Instant(datetime.fromtimestamp(EPOCH + mono, UTC), mono)


COPY: Final = "b"
"""The name of a copy beside the object."""
HOME: Final = "127.0.0.1"
ELSEWHERE: Final = "localhost"
STRANGERS: Final = 3
"""Runs of the other dbt Cloud."""
AWAY: Final = 300.0
"""Seconds for which the connection leads there."""
RECONNECT: Final = 20.0
"""Seconds after which the connection is read again."""


class Secret:
    """The one connection."""

    type = CONNECTION_SECRET_TYPE

    def __init__(self, simulator: Simulator) -> None:
        self.data: Mapping[str, bytes] = {}
        self.reads = self.changes = 0
        self.lead(simulator, HOME)

    @property
    def resource_version(self) -> str:
        return str(self.changes)

    def lead(self, simulator: Simulator, host: str) -> None:
        """From now on the connection is for this dbt Cloud."""
        account = str(simulator.account.spec.id)
        token = next(iter(simulator.tokens))
        self.data = {"token": token.encode(), "account-id": account.encode(), "host": f"http://{host}".encode()}
        self.changes += 1

    async def read(self, _namespace: str, _name: str) -> SecretData:
        self.reads += 1
        return self

    def forget(self, _namespace: str, _name: str) -> None: ...


class World:
    """One dbt Cloud, one API server, and whoever works on them."""

    def __init__(self, policy: Policy, elsewhere: Scenario = SCENARIO) -> None:
        loop = asyncio.get_running_loop()
        self.policy = policy
        self.simulator = Simulator(SCENARIO, Clock(source=lambda: EPOCH + loop.time()))
        self.strangers = Simulator(elsewhere, Clock(source=lambda: EPOCH + loop.time()))
        """Another dbt Cloud, whose runs have the same numbers."""
        for _ in range(STRANGERS):
            self.strangers.start(
                self.strangers.account.jobs[JOBS["endless"]], TriggerRequest(cause="theirs"), action="ui"
            )
        self.wire = Wire(application(self.simulator), {ELSEWHERE: application(self.strangers)})
        self.secret = Secret(self.simulator)
        self.objects = Objects(lambda: now().wall)
        self.objects.listeners.append(self._remember)
        self.watchers: list[Watcher] = []
        self._changed = asyncio.Event()
        self.ends: dict[str, list[Phase]] = {}
        """The final phases that each object, by its uid, ever had: never more than one."""
        self.copies: list[str] = []
        """Names of objects that were made of others."""
        self.started_before = 0
        """Runs that objects had started when the last copy was made."""

    def _remember(self, run: DbtRun, _gone: bool) -> None:
        self._changed.set()
        phase, known = run.status.phase, self.ends.setdefault(run.uid, [])
        if phase is not None and (phase.final or known) and phase not in known:
            known.append(phase)

    # ── people ──

    def create(self, job: str | Job | None, name: str = "a", **spec: Any) -> None:
        wanted = {"job": Job(id=JOBS[job]) if isinstance(job, str) else job} if job else {}
        # A poll is no side effect: seldom, the same deaths take less time.
        self.objects.create(
            name, Spec(connection_ref=ConnectionRef(name="dbt"), poll_interval_seconds=15, **{**wanted, **spec})
        )

    def edit(self, name: str = "a", **changes: Any) -> None:
        if name in self.objects.stored:
            self.objects.edit(name, replace(self.objects.stored[name].spec, **changes))

    def delete(self, name: str = "a") -> None:
        self.objects.request_deletion(name)

    def befall(self, mishap: Mishap) -> None:
        """What happens to the world."""
        match mishap:
            case Mishap.OVERTAKEN:
                self.objects.label("a")
            case Mishap.REDIRECTED:
                self.redirect()
            case _ if mishap in COPIES:
                self.copy(COPY, bare=mishap in BARE)
            case _ if mishap in REPLACEMENTS:
                self.copy("a", bare=mishap in BARE)
            case _:
                self.restore((UNDOINGS | RESTORES)[mishap])

    def restore(self, back: int | None, name: str = "a") -> None:
        """The status is restored from a backup, and may have its end once more."""
        if name in self.objects.stored:
            self.ends[self.objects.stored[name].uid] = []
            self.objects.restore(name, back)

    def copy(self, to: str, *, bare: bool, name: str = "a") -> None:
        """The object is copied; one that no watcher has taken on yet is no different from a new one."""
        run = self.objects.stored.get(name)
        if run is not None and UID_ANNOTATION in run.metadata.annotations:
            self.copies.append(to)
            self.started_before = self.started
            self.objects.copy(name, to, bare=bare)

    def redirect(self, name: str = "a") -> None:
        """The connection is for another account for a while, if a run of the object may be in the first."""
        if name in self.objects.stored and self.objects.stored[name].status.account_id is not None:
            self.secret.lead(self.strangers, ELSEWHERE)
            asyncio.get_running_loop().call_later(AWAY, self.secret.lead, self.simulator, HOME)

    def fault(self, effect: AnyEffect, *kinds: str, times: int | None = 1) -> None:
        self.simulator.faults.add(Rule(effect=effect, kinds=list(kinds), times=times))

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        request = httpx.Request(method, f"http://127.0.0.1/_simulator{path}", json=body)
        answer = await self.wire.handle_async_request(request)
        assert answer.is_success, answer.text
        return answer.json()

    async def elsewhere(self, job: str) -> int:
        """Somebody starts a run in dbt Cloud."""
        run_id: int = (await self.control("POST", "/runs", {"job_id": JOBS[job]}))["id"]
        return run_id

    async def finish(self, run_id: int, status: int = 10) -> None:
        """A run ends, if it has not yet."""
        self.simulator.account.advance()
        if self.simulator.account.runs[run_id].live:
            await self.control("POST", f"/runs/{run_id}/finish", {"status": status})

    # ── waiting ──

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Looks whenever an object changes."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"Never came true: {what}. {self.objects.last}") from None

    async def phase(self, *phases: Phase, reason: Reason | None = None, name: str = "a") -> DbtRun:
        def there() -> bool:
            status = self.objects.last[name].status
            return status.phase in phases and reason in (None, status.reason)

        await self.until(there, f"{name} in {phases} {reason or ''}")
        return self.objects.last[name]

    def swept_later(self, name: str = "a") -> bool:
        """Whether a twin of the object's run is still to be looked for."""
        attempt = self.objects.last[name].status.attempt
        return attempt is not None and attempt.sweep_after is not None

    @property
    def at_rest(self) -> bool:
        return all(
            ended(run) or (name in self.copies and self.explained(run)) for name, run in self.objects.stored.items()
        )

    def explained(self, run: DbtRun) -> bool:
        """Whether a copy says what to do with it, or follows a run that goes on."""
        status = run.status
        if status.reason is Reason.COPIED:
            return f"{START_COPY_ANNOTATION}={run.uid}" in status.message
        return status.phase in LIVE_PHASES and status.run_id in self.simulator.account.live

    @property
    def started(self) -> int:
        """How many runs objects have started or resumed."""
        runs = self.simulator.account.runs.values()
        told = ({"retrying_run_id": run.retrying_run_id, "cause": run.request.cause} for run in runs)
        return sum(identity(run) is not None for run in told)

    async def runs(self) -> list[dict[str, Any]]:
        """Every run of dbt Cloud, as its control surface tells it."""
        told: list[dict[str, Any]] = await self.control("GET", "/runs")
        return told

    async def verdict(self) -> Verdict:
        seen = [Seen(run, name not in self.objects.stored) for name, run in self.objects.last.items()]
        waiting = [one for one in seen if one.run.metadata.name in self.copies and self.explained(one.run)]
        return judge([one for one in seen if one not in waiting], await self.runs())

    async def journal(self) -> list[str]:
        return [entry["action"] for entry in await self.control("GET", "/journal")]


def ended(run: DbtRun) -> bool:
    """Whether an object has its end and is not held any more."""
    return run.status.phase is not None and run.status.phase.final and FINALIZER not in run.metadata.finalizers


class Dated:
    """The same objects: each reply tells the API server's time, as the real one's do."""

    def __init__(self, objects: Written, clock: ClusterClock) -> None:
        self._objects, self._clock = objects, clock

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method: Callable[..., Awaitable[Any]] = getattr(self._objects, name)

        async def dated(*arguments: Any) -> Any:
            sent = now().mono
            try:
                return await method(*arguments)
            finally:
                self.tell(sent)

        return dated

    def tell(self, sent: float) -> None:
        self._clock.heard(format_datetime(now().wall, usegmt=True), sent, now().mono)


class Watcher:
    """One process of the watcher: what `watcher.app` puts together, with its fate in between."""

    def __init__(
        self,
        world: World,
        fate: Fate,
        skew: float = 0.0,
        requests_per_minute: int = 1_500,
        secret: Secret | None = None,
        reconnect: float = RECONNECT,
    ) -> None:
        """`skew`: seconds that its machine's clock is ahead; `secret`: a connection of its own."""
        self.fate, self.metrics = fate, Metrics()
        clock = ClusterClock(lambda: _ahead(now(), skew))
        self._objects = Dated(fateful_objects(world.objects, fate), clock)
        self._world = world
        world.watchers.append(self)
        self._mirror = Mirror()
        self._sources = Sources(secret or world.secret)
        self._knowledge = Knowledge(clock, self._wake, lambda *doubt: connections.doubt(*doubt))
        transport = FatefulTransport(world.wire, fate)
        self._accounts = Accounts(
            self._knowledge, transport=transport, clock=clock, requests_per_minute=requests_per_minute
        )
        connections = Connections(self._sources, self._accounts, None, lambda _namespace: True, Hosts(loopback=True))
        performer = Performer(
            objects=cast(Written, self._objects),
            record=self._mirror.record,
            forget_object=self._mirror.forget,
            connections=connections,
            emit=lambda _run, _event: None,
            clock=clock,
            metrics=self.metrics,
        )
        self._reconciler = Reconciler(
            self._mirror, self._knowledge, performer, clock, world.policy, self.metrics, reconnect=reconnect
        )

    @property
    def decisions(self) -> float:
        """How much it decided."""
        samples = [sample for metric in self.metrics.decisions.collect() for sample in metric.samples]
        return sum(sample.value for sample in samples if sample.name.endswith("_total"))

    async def live(self) -> None:
        """Works until it dies. What is left of it then does nothing more."""
        self._objects.tell(now().mono)  # the reply to the first list
        self._knowledge.begin()
        works = (self._accounts.run(), self._sources.run(self._knowledge.mended), self.fate.dead.wait())
        parts: set[asyncio.Task[Any]] = {asyncio.create_task(work) for work in works}
        self._world.objects.listeners.append(self._hear)
        for run in self._world.objects.stored.values():
            self._know(run, gone=False)
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()
        finally:
            self._world.objects.listeners.remove(self._hear)
            self.fate.dead.set()
            await self._reconciler.stop(0)
            for part in parts:
                part.cancel()
            await asyncio.wait(parts)

    def _hear(self, run: DbtRun, gone: bool) -> None:
        asyncio.get_running_loop().call_later(WATCH_LAG, self._know, run, gone)

    def _know(self, run: DbtRun, gone: bool) -> None:
        if gone:
            self._mirror.forget(run.uid)
        else:
            self._mirror.record(run)
        self._wake(run.uid)

    def _wake(self, uid: str) -> None:
        self._reconciler.wake(uid)


@contextlib.asynccontextmanager
async def watched(world: World | None = None, reconnect: float = RECONNECT) -> AsyncIterator[World]:
    """A world, and a watcher that has just begun and is ended with the block."""
    world = world or World(Policy())
    life = asyncio.create_task(Watcher(world, Fate(), reconnect=reconnect).live())
    try:
        yield world
    finally:
        life.cancel()
        await asyncio.wait({life})


def _ahead(moment: Instant, seconds: float) -> Instant:
    return Instant(moment.wall + timedelta(seconds=seconds), moment.mono)


def in_virtual_time(play: Callable[[], Awaitable[None]]) -> None:
    """Runs a play in a loop of its own, in which waiting costs nothing; at its end nothing is left of it."""
    random.seed(0)  # jitter decides how many writes a path has, and they are counted

    async def whole() -> None:
        await play()

    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(start=1_000.0, noop_cycles=1)) as runner:
        runner.run(whole())
