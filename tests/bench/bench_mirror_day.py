"""A day of 100,000 runs that others start: what mirrors write, how many DbtRuns there are at once, and what it takes.

The day is compressed: the clock of the event loop jumps, and dbt Cloud and the API server are a few lines here. The
ledger, the mirrors, their cursors and the pruning are the real ones. What the watcher needs for the DbtRuns that exist
is measured by bench_finished. One JSON line; the exit code is 1 if a target is missed.

    python -m tests.bench.bench_mirror_day [--finishes 100000] [--jobs 20]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from collections import deque
from datetime import datetime
from typing import Any, Final, Self

import looptime
import msgspec
from msgspec.structs import replace

from dbtrun.api import DbtRun, Phase, Status
from dbtrun.api.mirrors import DbtRunMirror, HistoryLimit, MirrorStatus
from dbtrun.kube.errors import AlreadyExists
from tests.unit import virtual
from tests.unit.test_mirroring import Process, mirror
from watcher.lifecycle.facts import RunFacts, RunState
from watcher.mirroring import SAVE_SECONDS, Objects
from watcher.mirrors.progress import LATE_REACH, OVERLAP, Reading

DAY: Final = 86_400.0
LIMIT: Final = 50
"""DbtRuns that are kept for each job and outcome."""
MEMORY_TARGET: Final = 300.0
"""MB."""
WRITES_TARGET: Final = 2.01
"""For a run: its DbtRun, its status (the reconciler's, which is not in this model), and the mirror's own."""
STATUS_TARGET: Final = 500_000
"""Bytes of a status: etcd takes an object of 1.5 MB."""


class Day:
    """dbt Cloud and its client at once, which only keep what a reading can ask for."""

    def __init__(self) -> None:
        self.runs: dict[int, RunFacts] = {}
        self._ends: deque[RunFacts] = deque()

    def over(self, run_id: int, job: int) -> None:
        """A run of the job is over."""
        now = virtual.clock().wall
        facts = RunFacts(
            run_id=run_id, account_id=1, job_id=job, state=RunState.SUCCESS, cause="by hand", created_at=now,
            finished_at=now,
        )  # fmt: skip
        self.runs[run_id] = facts
        self._ends.append(facts)
        while self._ends and _end(self._ends[0]) < now - LATE_REACH - 3 * OVERLAP:
            del self.runs[self._ends.popleft().run_id]

    def client(self) -> Self:
        """Itself: requests over HTTP would be most of what is measured."""
        return self

    async def ended(self, since: datetime) -> Reading:
        found = []
        for run in reversed(self._ends):
            if _end(run) < since:
                break
            found.append(run)
        return Reading(since=since, through=virtual.clock().wall, runs=tuple(reversed(found)))


def _end(run: RunFacts) -> datetime:
    assert run.finished_at is not None
    return run.finished_at


class ApiServer:
    """Keeps the objects, and counts."""

    def __init__(self, served: DbtRunMirror) -> None:
        self.objects: dict[str, DbtRun] = {}
        self.uids: set[str] = set()
        self.mirrors = {served.uid: served}
        self.killed = asyncio.Event()
        self.created = self.deleted = self.saved = self.most = self.largest = 0

    async def create(self, namespace: str, body: dict[str, Any]) -> DbtRun:
        name = body["metadata"]["name"]
        if name in self.objects:
            raise AlreadyExists(name)
        self.created += 1
        metadata = body["metadata"] | {"uid": f"uid-{name}", "resourceVersion": "1"}
        run = self.objects[name] = msgspec.convert({"metadata": metadata, "spec": body["spec"]}, DbtRun)
        self.uids.add(run.uid)
        self.most = max(self.most, len(self.objects))
        return run

    async def delete(self, namespace: str, name: str, uid: str) -> None:
        self.deleted += 1
        del self.objects[name]
        self.uids.discard(uid)

    async def patch_status(self, served: DbtRunMirror, status: MirrorStatus) -> DbtRunMirror:
        self.saved += 1
        self.largest = max(self.largest, len(msgspec.json.encode(status)))
        self.mirrors[served.uid] = replace(served, status=status)
        return self.mirrors[served.uid]


class Watcher(Process):
    """As in the unit tests, with look-ups that do not grow with the number of objects."""

    def __init__(self, api: ApiServer, day: Day) -> None:
        super().__init__(api, day)  # type: ignore[arg-type]
        self.day = day
        self.objects = Objects(lambda uid: uid in api.uids)
        self.mirroring._shell = self.mirroring._shell._replace(objects=self.objects)

    def _finish(self, run: DbtRun, observation: Any) -> None:
        facts = self.day.runs[run.spec.run_id or 0]
        status = Status(
            phase=Phase.SUCCEEDED, run_id=facts.run_id, job_id=facts.job_id,
            finished_at=_end(facts).replace(microsecond=0),
        )  # fmt: skip
        self.recorded.clear()
        self.objects.seen(replace(run, status=status))


async def measured(finishes: int, jobs: int) -> dict[str, Any]:
    """The figures of a day."""
    served = mirror(history_limit=HistoryLimit(succeeded=LIMIT, failed=LIMIT), max_per_minute=1_000)
    api, account = ApiServer(served), Day()
    watcher = Watcher(api, account)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    living = asyncio.create_task(watcher.live(lambda: False, seconds=2 * DAY))
    for number in range(1, finishes + 1):
        account.over(number, number % jobs + 1)
        await asyncio.sleep(DAY / finishes)
    await asyncio.sleep(120)
    living.cancel()
    await asyncio.wait([living])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "finishes": finishes,
        "lost": finishes - api.created,
        "objects at most": api.most,
        "writes a run": round((2 * api.created + api.saved) / finishes, 4),
        "deletions a run": round(api.deleted / finishes, 3),
        "largest status, bytes": api.largest,
        "memory MB": round(peak / 1024, 1),
        "of which grown in the day": round((peak - before) / 1024, 1),
        "late runs told": api.mirrors[served.uid].status.late_runs,
    }


def main() -> None:
    """Measures and judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--finishes", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=20)
    asked = parser.parse_args()
    with asyncio.Runner(loop_factory=lambda: looptime.new_event_loop(start=0.0, noop_cycles=1)) as runner:
        figures = runner.run(measured(asked.finishes, asked.jobs))
    print(json.dumps(figures))
    met = (
        figures["lost"] == 0
        and figures["objects at most"] <= asked.jobs * LIMIT + 2 * asked.finishes * SAVE_SECONDS / DAY
        and figures["writes a run"] <= WRITES_TARGET
        and figures["memory MB"] <= MEMORY_TARGET
        and figures["largest status, bytes"] <= STATUS_TARGET
    )
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
