"""Mirrors in a campaign: runs that others start appear once each, whatever dies, and are left alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from dbtrun.api import MIRROR_LABEL, DbtRun, Phase
from dbtrun.api.mirrors import DbtRunMirror
from tests.chaos.arena import JOBS, Arena
from tests.chaos.oracle import MARK
from tests.stack.mirrors import mirror
from watcher.lifecycle.facts import RunState

KEEPS: Final = "keeps"
"""The mirror that keeps every DbtRun: what it lacks at the end is lost."""
PRUNES: Final = "prunes"
"""The mirror that keeps a few: what it has pruned must not come back."""
SPECS: Final[dict[str, dict[str, Any]]] = {
    KEEPS: {"historyLimit": {"succeeded": 1000, "failed": 1000}},
    PRUNES: {"historyLimit": {"succeeded": 3, "failed": 3}},
}
ENDS: Final = {"success": (RunState.SUCCESS, Phase.SUCCEEDED), "failure": (RunState.ERROR, Phase.FAILED)}
"""How runs of these jobs end if nobody touches them."""
UNSEEN_SECONDS: Final = 15.0
"""For longer than an API server is frozen, or a watcher stopped that may still act when it goes on."""
TOGETHER: Final = 6
"""Runs that end at nearly the same time, so that a watcher can die between their DbtRuns."""


@dataclass(slots=True)
class Mirrored:
    """What the mirrors did wrong, each in a sentence."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        return [*self.lost, *self.doubled, *self.touched]


class Mirrors:
    """Two mirrors of all runs, and the people elsewhere whose runs they show."""

    def __init__(self, arena: Arena, random: Random) -> None:
        self.arena, self.random = arena, random
        self.started: dict[int, str] = {}
        """The jobs of the runs that people elsewhere have started, by the ids of the runs."""
        self.there: dict[str, DbtRun] = {}
        self._uids: dict[str, set[str]] = {}
        """The uids that an object of each name has had."""
        self._followed: set[int] = set()
        """Runs that a DbtRun of somebody follows, by `reuse`: those are no mirror's."""
        self._dealt_with: frozenset[int] = frozenset()
        """The runs that the cursor of the mirror that keeps all has dealt with."""
        self._unseen: dict[int, float] = {}
        """Since when such a run has no object."""

    async def begin(self) -> None:
        """Before anybody starts anything. dbt Cloud's clock may be behind that of the API server."""
        since = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        await self.arena.apply(*(mirror(name, since=since, maxPerMinute=1000, **SPECS[name]) for name in SPECS))

    async def act(self) -> None:
        """People elsewhere start runs."""
        for _ in range(self.random.randint(0, 3)):
            await self._start()

    async def _start(self) -> None:
        job = self.random.choice(sorted(ENDS))
        run = await self.arena.ask("POST", "/runs", {"job_id": JOBS[job]})
        self.started[int(run["id"])] = job

    async def act_together(self) -> None:
        """Several runs, of which the watcher is likely to read more than one at once."""
        for _ in range(TOGETHER):
            await self._start()

    @property
    def written(self) -> tuple[frozenset[int], int]:
        """Changes with the first write of a mirror: its cursor, or one of its objects."""
        return self._dealt_with, sum(map(len, self._uids.values()))

    def saw_cursors(self, mirrors: Iterable[DbtRunMirror]) -> None:
        """Takes what the mirrors say of themselves. To be read before the objects: those come first."""
        for each in mirrors:
            if each.metadata.name == KEEPS and each.status.cursor is not None:
                self._dealt_with = frozenset(recent.run_id for recent in each.status.cursor.recent)

    def saw(self, objects: Iterable[DbtRun]) -> list[DbtRun]:
        """Takes those that mirrors have created out of all DbtRuns; the others are left."""
        own, self.there = [], {}
        for run in objects:
            if MIRROR_LABEL not in run.metadata.labels:
                own.append(run)
                self._followed |= {attempt.run_id for attempt in run.status.attempts if attempt.run_id is not None}
                continue
            self.there[run.metadata.name] = run
            self._uids.setdefault(run.metadata.name, set()).add(run.uid)
        now = time.monotonic()
        wanted = (self._dealt_with & self.started.keys()) - self._followed
        unseen = [run_id for run_id in wanted if f"{KEEPS}-{run_id}" not in self.there]
        self._unseen = {run_id: self._unseen.get(run_id, now) for run_id in unseen}
        return own

    @property
    def passed_over(self) -> list[int]:
        """Runs that a saved cursor has dealt with and that have no object: no watcher looks for them again."""
        now = time.monotonic()
        return [run_id for run_id, since in self._unseen.items() if now - since > UNSEEN_SECONDS]

    def forget(self, known: Collection[str]) -> None:
        """etcd was restored: what was created after the backup is created again."""
        self._uids = {name: uids for name, uids in self._uids.items() if name in known}
        self._dealt_with, self._unseen = frozenset(), {}

    @property
    def names(self) -> frozenset[str]:
        """Of the objects that exist."""
        return frozenset(self.there)

    @property
    def complete(self) -> bool:
        """Whether every run has its object, which says how it ended."""
        return not any(self._missing(run_id, job) for run_id, job in self.started.items())

    def _missing(self, run_id: int, job: str) -> str:
        run = self.there.get(f"{KEEPS}-{run_id}")
        if run is None:
            return "" if run_id in self._followed else f"run {run_id} has no object"
        phase = run.status.phase
        return "" if phase is ENDS[job][1] else f"{run} says {phase} of a run of the job {job}"

    def judge(self, runs: Iterable[Mapping[str, Any]]) -> Mirrored:
        """Holds the objects against the runs of the account."""
        by_id = {run["id"]: run for run in runs}
        found = Mirrored()
        found.lost = [told for run_id, job in self.started.items() if (told := self._missing(run_id, job))]
        found.doubled = [f"{name} was created {len(uids)} times" for name, uids in self._uids.items() if len(uids) > 1]
        found.doubled += [
            f"{run} shows run {run.spec.run_id} of a DbtRun"
            for run in self.there.values()
            if MARK.match(by_id[run.spec.run_id]["cause"])
        ]
        found.touched = [
            f"run {run_id} of somebody else is {by_id[run_id]['status']}"
            for run_id, job in self.started.items()
            if by_id[run_id]["status"] != ENDS[job][0]
        ]
        return found

    def counted(self) -> dict[str, int]:
        """How many objects each mirror has."""
        return dict(Counter(run.metadata.labels[MIRROR_LABEL] for run in self.there.values()))
