"""What people do to DbtRuns in a campaign: they start, adopt, cancel, delete, edit and suspend, whenever they like."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping
from random import Random
from typing import Any, Final

import msgspec

from dbtrun.api import API_VERSION, PLURAL, DbtRun, parse
from dbtrun.api.mirrors import MIRROR_PLURAL, DbtRunMirror
from dbtrun.kube.errors import AlreadyExists, Conflict, Forbidden, KubeError, NotFound, Rejected
from dbtrun.kube.paths import api_path
from tests.chaos.arena import HOME_ACCOUNT, JOBS, Arena
from tests.chaos.mirrors import Mirrors
from tests.chaos.oracle import Seen
from tests.stack import dbt_run, until
from watcher.cluster.access import ClusterAccess
from watcher.lifecycle.facts import RunState

PREFIX: Final = f"apis/{API_VERSION}"
KINDS: Final = ("start", "retry", "adopt", "reuse", "resumed", "artifacts", "deadline", "suspended", "doomed")
CHANGES: Final = ("cancel", "delete", "edit", "resume")


class People:
    """Whatever they do is drawn from `random`, so that a seed gives the same people."""

    def __init__(self, arena: Arena, access: ClusterAccess, random: Random, mirrors: Mirrors) -> None:
        self.arena, self.random, self.mirrors = arena, random, mirrors
        self.done: dict[str, int] = {}
        self.last: dict[str, DbtRun] = {}
        """Every object by its name, as it was seen last."""
        self.leaving: set[str] = set()
        """Names of objects that somebody deleted, or that go by their TTL."""
        self.there: set[str] = set()
        self._access = access
        self._failing: list[int] = []
        self._numbers = itertools.count()

    # ── doing ──

    async def act(self) -> None:
        """A few things at once."""
        for _ in range(self.random.randint(1, 4)):
            await self._create(self.random.choice(KINDS))
        for _ in range(self.random.randint(0, 3)):
            await self._change(self.random.choice(CHANGES))
        await self.mirrors.act()

    async def _create(self, kind: str) -> None:
        name = f"{kind}-{next(self._numbers)}"
        job, spec = await self._wish(kind)
        if "ttlSecondsAfterFinished" in spec:
            self.leaving.add(name)
        manifest = dbt_run(name, None, **({"job": {"id": JOBS[job]}} if job else {}), **spec)
        body = await self._send("POST", api_path(PREFIX, self.arena.namespace, PLURAL), manifest)
        if body is not None:
            self._saw(parse(body))
            self._did(kind)

    async def _wish(self, kind: str) -> tuple[str | None, dict[str, Any]]:
        pick = self.random
        match kind:
            case "retry":
                strategy = pick.choice(["FromFailure", "Fresh"])
                retry = {"limit": pick.randint(1, 2), "backoffSeconds": pick.randint(1, 2), "strategy": strategy}
                return pick.choice(["failure", "flaky"]), {"retry": retry}
            case "adopt":
                run_id = await self._theirs(pick.choice(["success", "endless"]))
                return None, {"runId": run_id, "accountId": HOME_ACCOUNT}
            case "reuse":
                return pick.choice(["success", "serial", "endless"]), {"reuse": "Running"}
            case "resumed":
                return "failure", await self._resumption()
            case "artifacts":
                return pick.choice(["success", "failure"]), {"artifacts": ["run_results.json", "no/such.file"]}
            case "deadline":
                return "endless", {"activeDeadlineSeconds": pick.randint(1, 4)}
            case "suspended":
                return "success", {"suspend": True}
            case "doomed":
                return pick.choice(["endless", "serial"]), pick.choice([{"deletionPolicy": "Orphan"}, {"cancel": True}])
        ttl = {"ttlSecondsAfterFinished": pick.randint(1, 3)} if pick.random() < 0.3 else {}
        queue = {"queueDeadlineSeconds": 2} if pick.random() < 0.3 else {}
        return pick.choice(["success", "failure", "endless", "serial"]), ttl | queue

    async def _theirs(self, job: str) -> int:
        """A run that somebody else starts."""
        return int((await self.arena.ask("POST", "/runs", {"job_id": JOBS[job]}))["id"])

    async def _resumption(self) -> dict[str, Any]:
        """Resumes a run of somebody else that has failed by now; each is resumed once."""
        self._failing.append(await self._theirs("failure"))
        states = {run["id"]: run["status"] for run in await self.arena.ask("GET", f"/runs?job_id={JOBS['failure']}")}
        failed = [run_id for run_id in self._failing if states[run_id] == RunState.ERROR]
        if not failed:
            return {}
        self._failing.remove(failed[0])
        return {"retryOf": failed[0], "accountId": HOME_ACCOUNT}

    async def _change(self, kind: str) -> None:
        names = sorted(self.there)
        if not names:
            return
        name = self.random.choice(names[-12:])
        match kind:
            case "delete":
                self.leaving.add(name)
                await self._send("DELETE", self._path(name))
            case "cancel":
                await self.patch(name, {"cancel": True})
            case "resume":
                await self.patch(name, {"suspend": False})
            case _:
                await self.patch(name, {"pollIntervalSeconds": self.random.randint(5, 9)})
        self._did(kind)

    async def patch(self, name: str, spec: Mapping[str, Any]) -> None:
        await self._send("PATCH", self._path(name), {"spec": dict(spec)})

    async def settle(self) -> None:
        """The day is over: nothing stays suspended, and what would never end is cancelled."""
        for name in sorted(self.there):
            run = self.last[name]
            if not (run.status.phase and run.status.phase.final):
                await self.patch(name, {"suspend": False, "cancel": True})

    def forget(self, known: Collection[str]) -> None:
        """etcd was restored: what was created after the snapshot is gone, and nobody answers for its runs."""
        self.last = {name: run for name, run in self.last.items() if name in known}
        self.mirrors.forget(known)

    # ── looking ──

    async def look(self) -> list[Seen]:
        """Every object that there ever was, as it is now, or was when it was seen last."""
        mirrors = await self._send("GET", api_path(PREFIX, self.arena.namespace, MIRROR_PLURAL))
        body = await self._send("GET", api_path(PREFIX, self.arena.namespace, PLURAL))
        assert mirrors is not None
        assert body is not None
        self.mirrors.saw_cursors(msgspec.convert(each, DbtRunMirror) for each in mirrors["items"])
        self.there = set()
        for run in self.mirrors.saw(map(parse, body["items"])):
            self._saw(run)
        return [Seen(run, name not in self.there) for name, run in self.last.items()]

    def _saw(self, run: DbtRun) -> None:
        self.last[run.metadata.name] = run
        self.there.add(run.metadata.name)

    def _did(self, kind: str) -> None:
        self.done[kind] = self.done.get(kind, 0) + 1

    def _path(self, name: str) -> str:
        return api_path(PREFIX, self.arena.namespace, PLURAL, name)

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """As somebody who tries again while the API server is away; None: it is gone, there already, or refused."""

        async def answer() -> tuple[dict[str, Any] | None] | None:
            try:
                sent = await self._access.request(method, path, body=body)
                return (json.loads(sent),)
            except (NotFound, AlreadyExists, Conflict, Rejected, Forbidden):
                return (None,)
            except KubeError:
                return None

        return (await until(answer, 90, f"the API server answers {method} {path}", pause=0.3))[0]
