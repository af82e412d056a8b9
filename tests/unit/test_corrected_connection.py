"""A Secret that named the wrong host or account is corrected: what was learnt through it counts no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest
from msgspec.structs import replace

from dbtrun.api import ConnectionRef, DbtRun, Job, Metadata, Phase, Reason, Spec, Status
from dbtrun.connection.hosts import Hosts
from tests.unit.virtual import clock
from watcher.connections import Connections
from watcher.dbtcloud.accounts import Accounts
from watcher.knowledge import Knowledge
from watcher.lifecycle.policy import Policy
from watcher.perform import Performer
from watcher.reconcile import Reconciler
from watcher.sources import WAIT_SECONDS, Sources
from watcher.telemetry.metrics import Metrics

pytestmark = pytest.mark.looptime

OK = {"code": 200, "is_success": True}
WRONG, RIGHT = "wrong.example.com", "right.example.com"


@dataclass(frozen=True)
class Secret:
    resource_version: str
    data: Mapping[str, bytes]
    type: str = "dbtrun.dev/connection"


@dataclass
class Cluster:
    """The one object, its Secret, and how often that was read."""

    secret: Secret
    run: DbtRun | None = None
    reads: int = 0
    changes: int = 1

    def get(self, _uid: str) -> DbtRun | None:
        return self.run

    def rested(self, _uid: str) -> int:
        return 0

    def __len__(self) -> int:
        return 1

    def record(self, run: DbtRun) -> None:
        self.run = run

    def correct(self, host: str, account_id: int = 1) -> None:
        keys = {"token": b"dbtc_token", "account-id": str(account_id).encode(), "host": host.encode()}
        self.secret = Secret(f"{int(self.secret.resource_version) + 1}", keys)

    async def read(self, _namespace: str, _name: str) -> Secret:
        self.reads += 1
        return self.secret

    def forget(self, _namespace: str, _name: str) -> None: ...

    async def patch_status(self, run: DbtRun, status: Status) -> DbtRun:
        self.changes += 1
        return replace(run, status=status, metadata=replace(run.metadata, resource_version=str(self.changes)))

    async def add_finalizer(self, run: DbtRun) -> DbtRun:
        marks = {"finalizers": ("dbtrun.dev/run",), "annotations": {"dbtrun.dev/uid": run.uid}}
        return replace(run, metadata=replace(run.metadata, **marks))


@dataclass
class Clouds:
    """The hosts that answer; an account's objects are numbered by the account: its job 'nightly' is 100 or 200."""

    away: set[str] = field(default_factory=lambda: {WRONG})
    dying: set[int] = field(default_factory=set)
    """Accounts that answer no more once they have named their jobs."""
    pages: set[str] = field(default_factory=set)
    """Hosts that answer every request with a web page, as a parked domain does."""
    refuses: bool = False
    """The token may not start runs."""
    gone: set[int] = field(default_factory=set)
    starts: list[str] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        account = int(request.url.path.split("/accounts/")[1].split("/")[0])
        if request.url.host in self.away or account in self.gone:
            raise httpx.ConnectError("no such host")
        if request.url.host in self.pages:
            return httpx.Response(200, text="<html>This domain is for sale.</html>")
        if request.method == "POST" and self.refuses:
            return httpx.Response(401, json={"status": {"code": 401, "is_success": False}})
        if request.method == "POST":
            self.starts.append(f"{request.url.host}{request.url.path}")
        run: dict[str, Any] = {"id": 7, "account_id": account, "job_id": 100 * account, "status": 3}
        run |= {
            "job_definition_id": 100 * account,
            "project_id": 1,
            "environment_id": 1,
            "created_at": "2026-03-01T12:00:00Z",
        }
        project: dict[str, Any] = {"id": 10 * account, "name": "p"}
        environment: dict[str, Any] = {"id": 20 * account, "name": "e", "project_id": 10 * account}
        job: dict[str, Any] = {
            "id": 100 * account,
            "name": "nightly",
            "project_id": 10 * account,
            "environment_id": 20 * account,
        }
        lists = {"projects": [project], "environments": [environment], "jobs": [job], "runs": []}
        named = request.url.path.rstrip("/").rpartition("/")[2]
        if named == "jobs" and account in self.dying:
            self.gone.add(account)
        if request.method == "GET" and named in lists:
            extra = {"filters": dict(request.url.params), "pagination": {"count": 1, "total_count": len(lists[named])}}
            return httpx.Response(200, json={"status": OK, "data": lists[named], "extra": extra})
        return httpx.Response(200, json={"status": OK, "data": run})


@dataclass
class Site:
    cluster: Cluster
    clouds: Clouds
    reconciler: Reconciler

    def create(self, **spec: Any) -> None:
        meta = Metadata(
            name="a", namespace="n", uid="u1", resource_version="1", generation=1, creation_timestamp=clock().wall
        )
        self.cluster.run = DbtRun(
            metadata=meta, spec=Spec(**({"job": Job(id=100), "connection_ref": ConnectionRef(name="c")} | spec))
        )
        self.reconciler.wake("u1")

    def change(self, **spec: Any) -> None:
        run = self.run
        meta = replace(run.metadata, generation=run.metadata.generation + 1)
        self.cluster.run = replace(run, spec=replace(run.spec, **spec), metadata=meta)
        self.reconciler.wake("u1")

    @property
    def run(self) -> DbtRun:
        assert self.cluster.run is not None
        return self.cluster.run


@asynccontextmanager
async def watched(host: str) -> AsyncIterator[Site]:
    """A watcher that has just begun."""
    cluster, clouds = Cluster(Secret("0", {})), Clouds()
    cluster.correct(host)
    sources = Sources(cluster)
    knowledge = Knowledge(clock, lambda uid: reconciler.wake(uid), lambda *doubt: connections.doubt(*doubt))
    accounts = Accounts(knowledge, transport=httpx.MockTransport(clouds.answer), clock=clock)
    connections = Connections(sources, accounts, None, lambda _namespace: True, Hosts(suffixes=("*",)))
    performer = Performer(
        objects=cast(Any, cluster),
        record=cluster.record,
        forget_object=lambda _uid: None,
        connections=connections,
        emit=lambda _run, _event: None,
        clock=clock,
        metrics=Metrics(),
    )
    reconciler = Reconciler(cluster, knowledge, performer, clock, Policy(), Metrics())
    knowledge.begin()
    parts = [asyncio.create_task(sources.run(knowledge.mended)), asyncio.create_task(accounts.run())]
    try:
        yield Site(cluster, clouds, reconciler)
    finally:
        await reconciler.stop(1)
        for part in parts:
            part.cancel()


@pytest.mark.parametrize("age", [1, 30])
async def test_the_corrected_host_is_used_within_seconds(age: int) -> None:
    """An object that the watcher saw being created is claimed before its host is first asked."""
    async with watched(WRONG) as site:
        await asyncio.sleep(age)
        site.create()
        await asyncio.sleep(45)
        assert site.run.status.phase is Phase.PENDING
        site.cluster.correct(RIGHT)
        await asyncio.sleep(15)
        assert (site.run.status.phase, site.run.status.host) == (Phase.RUNNING, RIGHT)
        assert len(site.clouds.starts) == 1


async def test_a_page_of_somebody_elses_host_is_no_answer() -> None:
    async with watched(WRONG) as site:
        site.clouds.away.clear()
        site.clouds.pages.add(WRONG)
        site.create(job=Job(name="nightly", project="p", environment="e"))
        await asyncio.sleep(45)
        site.cluster.correct(RIGHT)
        await asyncio.sleep(15)
        assert (site.run.status.phase, site.run.status.host) == (Phase.RUNNING, RIGHT)


@pytest.mark.parametrize("age", [1, 30])
async def test_a_refused_token_ends_an_object_that_has_started_nothing_after_ten_minutes(age: int) -> None:
    async with watched(RIGHT) as site:
        site.clouds.refuses = True
        await asyncio.sleep(age)
        site.create()
        await asyncio.sleep(590)
        assert not site.run.status.final
        await asyncio.sleep(90)
        assert (site.run.status.phase, site.run.status.reason) == (Phase.ERROR, Reason.UNAUTHORIZED)


async def test_a_job_is_looked_up_again_in_another_account() -> None:
    async with watched(RIGHT) as site:
        site.clouds.dying.add(1)
        site.create(job=Job(name="nightly", project="p", environment="e"))
        await asyncio.sleep(30)
        assert site.run.status.phase is Phase.PENDING
        site.cluster.correct(RIGHT, account_id=2)
        await asyncio.sleep(400)
        assert site.clouds.starts == [f"{RIGHT}/api/v2/accounts/2/jobs/200/run/"]


async def test_an_outage_of_a_host_that_has_answered_reads_no_secret_again() -> None:
    async with watched(RIGHT) as site:
        site.create()
        await asyncio.sleep(20)
        assert site.run.status.phase is Phase.RUNNING
        site.clouds.away.add(RIGHT)
        before = site.cluster.reads
        await asyncio.sleep(200)
        assert site.cluster.reads == before


async def test_an_object_that_no_longer_tries_no_longer_has_its_secret_read() -> None:
    async with watched(WRONG) as site:
        site.create()
        await asyncio.sleep(20)
        site.change(suspend=True)
        await asyncio.sleep(WAIT_SECONDS + 20)
        before = site.cluster.reads
        await asyncio.sleep(600)
        assert site.cluster.reads <= before + 4
