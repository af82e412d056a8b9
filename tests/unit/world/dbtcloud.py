"""dbt Cloud in memory: the simulator as httpx's transport, in the time of the test's loop, with faults on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

import httpx
from msgspec.structs import replace

from tests.unit import virtual
from tests.unit.dbtcloud import account
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.intake import Body, Intake
from watcher.simulator.clock import Clock
from watcher.simulator.faults import HideRuns, IgnoreFilters, ListLag, Rule
from watcher.simulator.model import Account, Status, TriggerRequest
from watcher.simulator.scenario import Scenario, convert
from watcher.simulator.server import application
from watcher.simulator.state import Simulator

JOB: Final = 99
SCENARIO: Final = {
    "account": {"id": account.ACCOUNT},
    "tokens": [{"token": account.SECRET}],
    "projects": [{"name": "Analytics", "id": 7}],
    "jobs": [{"name": "nightly", "id": JOB, "parallel": True, "queue": 0, "start": 0, "run": None}],
}
KINDS: Final = ("pk__in", "finished_at__range", "job_definition_id", "id__gt", "status__in")
"""The filters that tell the lists of runs apart."""


class Asked(NamedTuple):
    """A request and its time."""

    at: float
    kind: str
    """The filter of a list of runs, "newest" for one without a filter, or "run"."""
    params: httpx.QueryParams


class DbtCloud(httpx.AsyncBaseTransport):
    """One account with one job. A request meets the runs as they are when it arrives; its reply takes a while."""

    def __init__(self, *, latency: float = 0.0) -> None:
        scenario, clock = convert(SCENARIO, Scenario), Clock(source=lambda: virtual.clock().wall.timestamp())
        self.simulator = Simulator(scenario, clock)
        self.latency = latency
        self.asked: list[Asked] = []
        self.broken: dict[str, Exception | httpx.Response] = {}
        """By the kind of request: what comes instead of its reply."""
        self.hung = ""
        """The kind of request that is never answered."""
        self.shown: dict[int, dict[str, Any]] = {}
        """By run id: fields that replies show differently."""
        self._application = httpx.ASGITransport(application(self.simulator))
        self._sample = Account(scenario, clock).start(
            self.simulator.account.jobs[JOB], TriggerRequest(cause="other"), "ui"
        )

    def client(self, **options: Any) -> Client:
        """A client of the account."""
        return Client(account.CONNECTION, transport=self, clock=virtual.clock, intake=InTheLoop(), **options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """httpx's seam."""
        params = request.url.params
        kind = next((kind for kind in KINDS if kind in params), "newest" if "order_by" in params else "run")
        self.asked.append(Asked(virtual.now(), kind, params))
        response = await self._application.handle_async_request(request)
        if self.shown:
            response = httpx.Response(response.status_code, json=self._altered(await response.aread()))
        await asyncio.sleep(10_000_000 if kind == self.hung else self.latency)
        fault = self.broken.get(kind, response)
        if isinstance(fault, Exception):
            raise fault
        return fault

    def _altered(self, body: bytes) -> Any:
        reply = json.loads(body)
        for run in reply["data"] if isinstance(reply["data"], list) else [reply["data"]]:
            run |= self.shown.get(run["id"], {})
        return reply

    def requests(self, kind: str = "", since: float = 0.0) -> int:
        """How many there were, of one kind or of all."""
        return sum(each.at >= since and kind in ("", each.kind) for each in self.asked)

    # ---- runs

    def add(
        self,
        ids: Iterable[int],
        status: Status = Status.RUNNING,
        *,
        cause: str = "other",
        created: datetime | None = None,
        finished: datetime | None = None,
        **changes: Any,
    ) -> None:
        """Runs that stay as they are, until `end`."""
        clock = self.simulator.clock
        changes |= {
            "status": status,
            "request": TriggerRequest(cause=cause),
            "created_at": created.timestamp() if created else clock.stamp(clock.now()),
            "created_real": clock.real(),
            "finished_at": finished.timestamp() if finished else None,
            "due": None,
        }
        self.simulator.account.restore([replace(self._sample, id=run_id, **changes) for run_id in ids], {})

    def end(self, ids: Iterable[int], status: Status = Status.SUCCESS, *, listed_after: float = 0.0) -> None:
        """Runs end, which are made if there are none. Lists show them so many seconds later."""
        known, ids = self.simulator.account.runs, list(ids)
        self.add(run_id for run_id in ids if run_id not in known)
        for run_id in ids:
            self.simulator.account.finish(known[run_id], status)
        if listed_after:
            hidden = self.hide(ids)
            asyncio.get_running_loop().call_later(listed_after, self.simulator.faults.clear, hidden)

    @property
    def live(self) -> int:
        """Runs that are not over."""
        return len(self.simulator.account.live)

    # ---- faults, until `simulator.faults.clear()`

    def ignore(self, *filters: str) -> None:
        """These filters are neither applied nor echoed."""
        self.simulator.faults.add(Rule(effect=IgnoreFilters(filters=list(filters))))

    def hide(self, ids: Iterable[int]) -> int:
        """Lists do not show these runs. The number of the fault."""
        return self.simulator.faults.add(Rule(effect=HideRuns(runs=list(ids)), kinds=["list-runs"])).number

    def lag(self, seconds: float) -> None:
        """Lists show a run so long after it was made."""
        self.simulator.faults.add(Rule(effect=ListLag(seconds=seconds), kinds=["list-runs"]))


class InTheLoop(Intake):
    """Decodes large replies in the event loop, too: the loop's time would jump while it waits for a thread."""

    async def decode(self, body: Body, read: Any) -> Any:
        return read()
