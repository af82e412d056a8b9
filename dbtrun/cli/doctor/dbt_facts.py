"""What dbt Cloud answers: the requests that the watcher makes, once each. Only `started` changes something."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from dbtrun.cli.dbtcloud import DbtCloud, Kind, Reply, pause

PAGE: Final = "100"
LIVE: Final = (1, 2, 3)
SINCE: Final = timedelta(days=1)
MAX_CAUSE: Final = 255
"""Characters that a cause may have in dbt Cloud; the watcher relies on it."""
REFUSALS: Final = frozenset({
    Kind.REFUSED_TOKEN, Kind.FORBIDDEN, Kind.NOT_FOUND, Kind.REJECTED, Kind.RATE_LIMITED, Kind.REDIRECTED
})  # fmt: skip
"""Replies to a start after which no run exists. A server error does not show this: it may come from a proxy."""
MAX_SELECTED: Final = 8
"""Jobs of mirrors that are looked at."""
LOOKS: Final = (1.0, 1.0, 2.0, 3.0, 5.0, 5.0, 10.0, 10.0, 10.0)
"""Seconds between looks for the run that was started: its lag is known to about a quarter."""
ENDS: Final = (1.0, 2.0, 3.0, 5.0)
"""The same for its end."""


class Started(NamedTuple):
    """What came of a run that was started to be looked at."""

    reply: Reply
    cause: str
    lag: float | None
    """Seconds after which lists had it; None: never."""
    echoed: str | None
    """Its cause, as lists have it."""
    read: Reply | None
    """It, by its id."""
    cancelled: Reply | None
    over: bool
    """Whether dbt Cloud confirmed its end."""
    run_id: int | None


@dataclass(frozen=True, kw_only=True)
class DbtFacts:
    """The replies; None: not asked, because an earlier one made it pointless."""

    account: Reply
    job_id: int | None
    job: Reply | None = None
    jobs: Reply | None = None
    selected: tuple[tuple[int, Reply], ...] = ()
    """Jobs that mirrors select, and what dbt Cloud says of each."""
    runs: Reply | None = None
    asked_ids: tuple[int, ...] = ()
    by_ids: Reply | None = None
    live: Reply | None = None
    since: datetime | None = None
    finished: Reply | None = None
    listed_job: int | None = None
    of_job: Reply | None = None
    started: Started | None = None
    requests: int = 0

    @property
    def slowest(self) -> float:
        """Seconds that the slowest answer took, without those about a run that was started."""
        replies = (self.account, self.job, self.jobs, self.runs, self.by_ids, self.live, self.finished, self.of_job)
        return max(reply.seconds for reply in replies if reply is not None)


async def gather(
    cloud: DbtCloud,
    job_id: int | None,
    now: datetime,
    *,
    start: bool,
    selected: Iterable[int] = (),
    told: Callable[[str], object] = lambda _: None,
) -> DbtFacts:
    """Asks everything.

    Args:
        cloud: the account.
        job_id: the job that the user wants to run, if it is known.
        now: the time.
        start: whether to start, find and cancel a run of that job.
        selected: jobs that mirrors select.
        told: what is being done, for a progress bar.
    """
    told("dbt Cloud: the account")
    facts = DbtFacts(account=await cloud.get(), job_id=job_id)
    if facts.account.good:
        told("dbt Cloud: the job")
        if job_id is None:
            facts = replace(facts, jobs=(await cloud.get("jobs/", limit=PAGE)).holding(list))
        else:
            facts = replace(facts, job=(await cloud.get(f"jobs/{job_id}/")).holding(dict))
        ids = list(dict.fromkeys(selected))[:MAX_SELECTED]
        jobs = [(one, (await cloud.get(f"jobs/{one}/")).holding(dict)) for one in ids]
        facts = replace(facts, selected=tuple(jobs))
        facts = await _lists(cloud, facts, now, told)
        if start and job_id is not None and facts.job is not None and facts.job.good:
            facts = replace(facts, started=await _started(cloud, job_id, told))
    return replace(facts, requests=cloud.requests)


async def _lists(cloud: DbtCloud, facts: DbtFacts, now: datetime, told: Callable[[str], object]) -> DbtFacts:
    told("dbt Cloud: the lists of runs")
    newest = {"order_by": "-id", "limit": PAGE, "include_related": '["trigger"]'}
    runs = (await cloud.get("runs/", **newest)).holding(list)
    facts = replace(facts, runs=runs)
    if not runs.good:
        return facts
    rows = rows_of(runs)
    since = now.astimezone(UTC) - SINCE
    spans = json.dumps([since.isoformat(), (since + timedelta(days=365)).isoformat()])
    # The oldest two: a reply that ignores `pk__in` is the newest page, and has others as well.
    asked = tuple(sorted(row["id"] for row in rows)[:2])
    listed_job = facts.job_id or next((job_of(row) for row in rows if job_of(row)), None)
    return replace(
        facts,
        asked_ids=asked,
        by_ids=await cloud.get("runs/", pk__in=json.dumps(asked), order_by="-id", limit=PAGE) if asked else None,
        live=await cloud.get("runs/", status__in=json.dumps(LIVE), order_by="id", limit=PAGE),
        since=since,
        finished=await cloud.get("runs/", finished_at__range=spans, order_by="finished_at", limit=PAGE),
        listed_job=listed_job,
        of_job=await cloud.get("runs/", job_definition_id=str(listed_job), **newest) if listed_job else None,
    )


def rows_of(reply: Reply) -> list[dict[str, Any]]:
    """The runs of a list."""
    rows = reply.data if isinstance(reply.data, list) else []
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), int)]


def job_of(row: dict[str, Any]) -> int | None:
    """The job of a run, which dbt Cloud gives under two names."""
    found = row.get("job_definition_id") or row.get("job_id")
    return found if isinstance(found, int) else None


def cause_of(row: dict[str, Any]) -> str | None:
    """The cause of a run; None: the list does not have it."""
    trigger = row.get("trigger")
    cause = trigger.get("cause") if isinstance(trigger, dict) else None
    return cause if isinstance(cause, str) else None


async def _started(cloud: DbtCloud, job_id: int, told: Callable[[str], object]) -> Started:
    told("dbt Cloud: a run is started, found and cancelled")
    # As long as a cause may be, so that this run also shows whether dbt Cloud keeps all of it.
    cause = f"dbtrun doctor, {datetime.now(UTC).isoformat()}, is cancelled at once ".ljust(MAX_CAUSE, "x")
    began = time.monotonic()
    reply = (await cloud.ask("POST", f"jobs/{job_id}/run/", body={"cause": cause})).holding(dict)
    run_id = reply.data.get("id") if reply.good else None
    if reply.good and not isinstance(run_id, int):
        reply, run_id = replace(reply, kind=Kind.WITHOUT_DATA), None
    started = Started(reply, cause, None, None, None, None, over=False, run_id=run_id)
    if reply.kind in REFUSALS:
        return started
    try:
        started = await _found(cloud, job_id, started, began)
        read = await cloud.get(f"runs/{started.run_id}/") if started.run_id is not None else None
    except BaseException:  # Ctrl-C, or the end of the time: the run must not go on
        if started.run_id is not None:
            await cloud.ask("POST", f"runs/{started.run_id}/cancel/")
        raise
    if started.run_id is None:
        return started
    cancelled = await cloud.ask("POST", f"runs/{started.run_id}/cancel/")
    over = await _ended(cloud, started.run_id)
    for seconds in ENDS:
        if over:
            break
        await pause(seconds)
        over = await _ended(cloud, started.run_id)
    return started._replace(read=read, cancelled=cancelled, over=over)


async def _found(cloud: DbtCloud, job_id: int, started: Started, began: float) -> Started:
    query = {"job_definition_id": str(job_id), "order_by": "-id", "limit": PAGE, "include_related": '["trigger"]'}
    for seconds in LOOKS:
        for row in rows_of(await cloud.get("runs/", **query)):
            cause = cause_of(row)
            # By the cause too, as the reply to the start may have been lost; and by its beginning, which has the time,
            # as dbt Cloud may cut the rest.
            if row["id"] == started.run_id or (cause is not None and cause[:60] == started.cause[:60]):
                return started._replace(run_id=row["id"], lag=time.monotonic() - began, echoed=cause)
        await pause(seconds)
    return started


async def _ended(cloud: DbtCloud, run_id: int) -> bool:
    reply = await cloud.get(f"runs/{run_id}/")
    return reply.good and isinstance(reply.data, dict) and reply.data.get("status") in (10, 20, 30)
