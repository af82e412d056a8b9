"""A watcher that ends after any side effect loses no run and shows none twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from dbtrun.api import DbtRun, Metadata, Phase, Reason, Spec, Status
from dbtrun.api.mirrors import (
    Appear,
    DbtRunMirror,
    HistoryLimit,
    MirrorCondition,
    MirrorSpec,
    MirrorStatus,
    Select,
    Template,
)
from dbtrun.api.status import Attempt
from dbtrun.connection.secret import Connection
from dbtrun.kube.errors import AlreadyExists, Conflict, Forbidden, Unreachable
from tests.unit import virtual
from tests.unit.dbtcloud.account import ACCOUNT, CONNECTION
from tests.unit.world.dbtcloud import DbtCloud
from watcher.connections import Unusable
from watcher.dbtcloud.ledger import Ledger
from watcher.lifecycle.facts import Observation
from watcher.mirroring import Mirroring, Objects, Shell
from watcher.simulator.model import Status as RunStatus

pytestmark = virtual.JUMPING


class Mishap(StrEnum):
    """What happens at a write."""

    DIES_BEFORE = "the watcher dies before"
    DIES_AFTER = "the watcher dies after"
    REQUEST_LOST = "the request is lost"
    ANSWER_LOST = "the answer is lost"
    RESTORED = "a backup is restored after, and the watcher dies"
    RESTORED_UNDER = "a backup is restored after, under a watcher that goes on"


BACK = 4
"""Writes after the backup that is restored."""


@dataclass
class Api:
    """An API server of a few lines. `fatal` counts side effects down; at zero the watcher ends, after the effect."""

    objects: dict[str, DbtRun] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    completed: dict[str, datetime] = field(default_factory=dict)
    mirrors: dict[str, DbtRunMirror] = field(default_factory=dict)
    writes: int = 0
    blow: tuple[int, Mishap] | None = None
    """The write, counted from 1, at which something happens once."""
    happened: int = 0
    others_write: bool = False
    """Whether somebody else is always quicker to write a mirror."""
    refusal: Exception | None = None
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    restored: Callable[[], object] = lambda: None
    """Called when a backup was restored under a watcher."""
    undone: set[str] = field(default_factory=set)
    """Objects that a restore has taken away."""
    version: int = 100
    backups: list[tuple[dict[str, DbtRun], dict[str, DbtRunMirror]]] = field(default_factory=list)

    async def _arrives(self) -> str:
        """A write is about to happen; its version."""
        self.writes += 1
        self.version += 1
        version = str(self.version)
        self.backups.append((dict(self.objects), dict(self.mirrors)))
        if self._befalls(Mishap.DIES_BEFORE):
            await self._die()
        if self._befalls(Mishap.REQUEST_LOST):
            raise Unreachable("no route to host")
        return version

    async def _happened(self) -> None:
        """The write has happened, and its answer is on the way."""
        if self._befalls(Mishap.DIES_AFTER):
            await self._die()
        if self._befalls(Mishap.ANSWER_LOST):
            raise Unreachable("connection reset")
        if self._befalls(Mishap.RESTORED):
            self._restore()
            await self._die()
        if self._befalls(Mishap.RESTORED_UNDER):
            self._restore()
            asyncio.get_running_loop().call_later(0.05, self.restored)
            raise Unreachable("connection reset")

    def _befalls(self, mishap: Mishap) -> bool:
        found = self.blow == (self.writes, mishap)
        self.happened += found
        return found

    async def _die(self) -> None:
        self.killed.set()
        await asyncio.Event().wait()  # its process is gone: nothing comes back

    def _restore(self) -> None:
        """As with a bumped revision: versions only grow."""
        objects, mirrors = self.backups[max(0, len(self.backups) - BACK)]
        self.undone |= self.objects.keys() - objects.keys()
        self.objects = dict(objects)
        for uid, mirror in mirrors.items():
            self.version += 1_000
            self.mirrors[uid] = replace(mirror, metadata=replace(mirror.metadata, resource_version=str(self.version)))

    async def create(self, namespace: str, body: dict[str, Any]) -> DbtRun:
        if self.refusal is not None:
            raise self.refusal
        name = body["metadata"]["name"]
        if name in self.objects:
            raise AlreadyExists(name)
        version = await self._arrives()
        metadata = body["metadata"] | {"uid": f"uid-{name}-{len(self.made)}", "resourceVersion": version}
        self.objects[name] = msgspec.convert({"metadata": metadata, "spec": body["spec"]}, DbtRun)
        self.made.append(name)
        created = self.objects[name]
        await self._happened()
        return created

    async def delete(self, namespace: str, name: str, uid: str) -> None:
        await self._arrives()
        if name in self.objects:
            assert self.objects[name].uid == uid
            del self.objects[name]
            self.deleted.append(name)
        await self._happened()

    async def patch_status(self, mirror: DbtRunMirror, status: MirrorStatus) -> DbtRunMirror:
        stored = self.mirrors[mirror.uid]
        if self.others_write or stored.metadata.resource_version != mirror.metadata.resource_version:
            raise Conflict("changed")
        metadata = replace(stored.metadata, resource_version=await self._arrives())
        # As the API server keeps it: through JSON.
        kept = msgspec.json.decode(msgspec.json.encode(status), type=MirrorStatus)
        self.mirrors[mirror.uid] = replace(stored, metadata=metadata, status=kept)
        patched = self.mirrors[mirror.uid]
        await self._happened()
        return patched


@dataclass
class Connected:
    """An account as `Accounts` opens it."""

    connection: Connection
    ledger: Ledger


class Process:
    """One life of the watcher, as far as mirrors are concerned. The reconciler's part is done by `finish`."""

    def __init__(self, api: Api, cloud: DbtCloud) -> None:
        self.api, self.cloud = api, cloud
        self.objects = Objects(lambda uid: any(run.uid == uid for run in api.objects.values()))
        self.ledger = Ledger(cloud.client(), clock=virtual.clock)
        self.unusable: Unusable | None = None
        self.recorded: list[Observation] = []
        self.events: list[tuple[str, str]] = []
        self.allowed: frozenset[int] | None = None
        self.doubted: list[str] = []
        self.mirroring = Mirroring(
            Shell(
                writer=api,
                connections=self,  # type: ignore[arg-type]
                objects=self.objects,
                record=self._record,
                forget=lambda _uid: None,
                clock=virtual.clock,
                may_act=lambda: True,
                note=lambda _outcome: None,
                emit=lambda _mirror, event: self.events.append((event.type, event.reason)),
                writes=asyncio.Semaphore(4),
            )
        )
        for run in api.objects.values():
            self._finish(run, None)

    async def connect_mirror(self, mirror: DbtRunMirror) -> Connected:
        if self.unusable is not None:
            raise self.unusable
        return Connected(CONNECTION, self.ledger)

    def projects(self, mirror: DbtRunMirror) -> frozenset[int] | None:
        return self.allowed

    def doubt(self, uid: str, reason: Reason) -> None:
        self.doubted.append(uid)

    def forget(self, uid: str) -> None:
        self.ledger.remove(uid)

    def _record(self, run: DbtRun, observation: Observation) -> None:
        self.recorded.append(observation)
        self._finish(run, observation)

    def _finish(self, run: DbtRun, observation: Observation | None) -> None:
        shown = self.cloud.simulator.account.runs[run.spec.run_id or 0]
        ended = datetime.fromtimestamp(shown.finished_at, UTC) if shown.finished_at else None
        final_at = self.api.completed.setdefault(run.uid, virtual.clock().wall)
        status = Status(
            phase=Phase.SUCCEEDED,
            run_id=shown.id,
            job_id=shown.job_id,
            finished_at=ended and ended.replace(microsecond=0),
            completion_time=final_at,
        )
        self.objects.seen(replace(run, status=status))

    def heard_again(self) -> None:
        """The watch was broken, and lists what there is now."""
        for mirror in self.api.mirrors.values():
            self.mirroring.found_again(mirror)

    async def live(self, until: Callable[[], bool], seconds: float = 600.0) -> bool:
        """Runs until the condition holds, or it is killed. Whether the condition holds."""
        for mirror in self.api.mirrors.values():
            self.mirroring.changed(mirror)
        tasks = [asyncio.create_task(self.ledger.run()), asyncio.create_task(self.mirroring.run())]
        try:
            async with asyncio.timeout(seconds):
                while not (until() or self.api.killed.is_set()):  # noqa: ASYNC110 - the time of the loop jumps
                    await asyncio.sleep(0.5)
        except TimeoutError:
            return False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self.api.killed.clear()
        return until()


def mirror(name: str = "all", **spec: Any) -> DbtRunMirror:
    metadata = Metadata(
        name=name,
        namespace="data",
        uid=f"uid-of-{name}",
        resource_version="1",
        creation_timestamp=virtual.NOON - timedelta(minutes=1),
    )
    return DbtRunMirror(metadata=metadata, spec=MirrorSpec(**({"select": Select(all_jobs=True)} | spec)))


def world(*mirrors: DbtRunMirror) -> tuple[Api, DbtCloud]:
    api = Api()
    api.mirrors = {each.uid: each for each in mirrors or (mirror(),)}
    return api, DbtCloud()


def change(api: Api, process: Process | None = None, **spec: Any) -> None:
    """Somebody changes the mirror, and the watch tells the process if one runs."""
    stored = api.mirrors["uid-of-all"]
    generation, version = stored.metadata.generation + 1, str(int(stored.metadata.resource_version) + 1_000)
    metadata = replace(stored.metadata, generation=generation, resource_version=version)
    api.mirrors["uid-of-all"] = replace(stored, metadata=metadata, spec=replace(stored.spec, **spec))
    api.version = int(version)
    if process is not None:
        process.mirroring.changed(api.mirrors["uid-of-all"])


@asynccontextmanager
async def living(process: Process) -> AsyncIterator[None]:
    """One life of the watcher, as long as the context."""
    task = asyncio.create_task(process.live(lambda: False, seconds=1_000_000))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def sleep_until(holds: Callable[[], bool], seconds: float = 600.0) -> bool:
    for _ in range(int(seconds)):
        if holds():
            return True
        await asyncio.sleep(1)
    return False


def conditions(api: Api, name: str = "all") -> dict[str, tuple[str, str]]:
    status = api.mirrors[f"uid-of-{name}"].status
    return {each.type.value: (each.status.value, each.reason) for each in status.conditions}


@pytest.mark.parametrize(
    ("write", "mishap"),
    [
        (write, mishap)
        for number, mishap in enumerate(Mishap)
        for write in range(1, 24)
        if mishap is Mishap.DIES_AFTER or (write + number) % 3 == 0
    ],
)
async def test_whatever_happens_at_a_write_nothing_is_lost_and_nothing_shown_twice(write: int, mishap: Mishap) -> None:
    api, cloud = world(mirror(history_limit=HistoryLimit(succeeded=3)))
    for number in range(1, 13):
        cloud.end([number])
        await asyncio.sleep(0.01)
    wanted = [f"all-{number}" for number in range(1, 13)]
    api.blow = write, mishap
    for _ in range(3):
        process = Process(api, cloud)
        api.restored = process.heard_again
        if await process.live(lambda: sorted(api.objects) == sorted(wanted[-3:])):
            break
    assert api.happened == 1
    await Process(api, cloud).live(lambda: False, seconds=60)
    assert set(api.made) == set(wanted)
    assert {name for name in wanted if api.made.count(name) > 1} <= api.undone
    assert sorted(api.objects) == sorted(wanted[-3:])
    assert api.mirrors["uid-of-all"].status.pruned_through is not None


async def test_nothing_is_pruned_before_the_cursor_is_saved() -> None:
    api, cloud = world(mirror(history_limit=HistoryLimit(succeeded=1)))
    for number in range(1, 4):
        cloud.end([number])
    api.others_write = True
    await Process(api, cloud).live(lambda: False, seconds=60)
    assert len(api.made) == 3
    assert api.deleted == []
    api.others_write = False
    await Process(api, cloud).live(lambda: False, seconds=60)
    assert len(api.deleted) == 2


async def test_a_run_that_is_listed_an_hour_late_while_no_watcher_runs_appears_once() -> None:
    api, cloud = world(mirror(history_limit=HistoryLimit(succeeded=1)))
    cloud.end([1])
    await Process(api, cloud).live(lambda: False, seconds=3_600)
    listed = virtual.clock().wall
    cloud.add([2], RunStatus.SUCCESS, finished=listed - timedelta(hours=1, seconds=30))
    await Process(api, cloud).live(lambda: False, seconds=60)
    await Process(api, cloud).live(lambda: False, seconds=60)
    assert api.made == ["all-1", "all-2"]
    status = api.mirrors["uid-of-all"].status
    assert status.late_runs == 1
    assert api.deleted == ["all-2"]
    assert status.pruned_through is not None
    assert status.pruned_through >= listed, "a reader that saw no object after this time has missed the late one"


async def test_a_late_run_that_is_refused_appears_once_it_is_not() -> None:
    api, cloud = world()
    async with living(Process(api, cloud)):
        await asyncio.sleep(1_000)
        api.refusal = Forbidden("exceeded quota")
        cloud.add([1], RunStatus.SUCCESS, finished=virtual.clock().wall - timedelta(minutes=10))
        await asyncio.sleep(900)
        assert api.made == []
        api.refusal = None
        await asyncio.sleep(60)
        assert api.made == ["all-1"]
        assert await sleep_until(lambda: conditions(api)["CaughtUp"] == ("True", "CaughtUp"))


async def test_a_suspended_mirror_takes_a_late_run_when_it_goes_on() -> None:
    api, cloud = world()
    process = Process(api, cloud)
    async with living(process):
        await asyncio.sleep(1_000)
        change(api, process, suspend=True)
        await asyncio.sleep(60)
        cloud.add([1], RunStatus.SUCCESS, finished=virtual.clock().wall - timedelta(minutes=10))
        await asyncio.sleep(900)
        assert api.made == []
        change(api, process, suspend=False)
        await asyncio.sleep(60)
        assert api.made == ["all-1"]


@pytest.mark.parametrize("restarts", [False, True])
async def test_another_selection_begins_where_it_is_made(restarts: bool) -> None:
    api, cloud = world(mirror(select=Select(job_ids=(98,))))
    cloud.end([1])
    process = Process(api, cloud)
    async with living(process):
        await asyncio.sleep(1_000)
        change(api, None if restarts else process, select=Select(all_jobs=True))
        await asyncio.sleep(900 if not restarts else 0)
    async with living(Process(api, cloud)):
        await asyncio.sleep(900)
        cloud.end([2])
        await asyncio.sleep(30)
    assert api.made == ["all-2"]


async def test_pruning_is_told_once_and_not_for_each_run() -> None:
    api, cloud = world(mirror(history_limit=HistoryLimit(succeeded=1)))
    process = Process(api, cloud)
    async with living(process):
        for number in range(1, 31):
            cloud.end([number])
            await asyncio.sleep(60)
    assert len(api.deleted) >= 28
    assert process.events == [("Normal", "Pruned")]


async def test_a_selection_of_projects_that_the_namespace_may_not_see_is_told() -> None:
    api, cloud = world(mirror(select=Select(project_ids=(7,))))
    process = Process(api, cloud)
    process.allowed = frozenset({8})
    cloud.end([1])
    assert await process.live(lambda: conditions(api).get("Ready") == ("False", "ProjectNotAllowed"))
    assert process.events == [("Warning", "ProjectNotAllowed")]
    assert api.made == []


async def test_a_run_costs_one_object_and_idle_mirrors_next_to_nothing() -> None:
    api, cloud = world()
    process = Process(api, cloud)
    for number in range(1, 51):
        cloud.end([number])
    await process.live(lambda: len(api.made) == 50)
    assert [each.run and each.run.run_id for each in process.recorded] == list(range(1, 51))
    before = api.writes
    await Process(api, cloud).live(lambda: False, seconds=3_000)
    assert api.writes - before <= 3_000 / 600 + 3


@pytest.mark.parametrize("pause", [3, 20, 130])
async def test_a_run_costs_two_writes_and_its_deletion_and_the_mirror_one_in_two_minutes(pause: float) -> None:
    """The second write of a run, its status, is the reconciler's."""
    api, cloud = world(mirror(history_limit=HistoryLimit(succeeded=5), max_per_minute=1_000))
    seconds = 20 * pause + 130
    async with living(Process(api, cloud)):
        for number in range(1, 21):
            cloud.end([number])
            await asyncio.sleep(pause)
        await asyncio.sleep(130)
    assert len(api.made) == 20
    assert len(api.objects) == 5
    saves = api.writes - len(api.made) - len(api.deleted)
    assert saves <= seconds / 120 + 3, "beside one in two minutes, each condition becomes known once"


async def test_the_history_limits_hold_at_the_highest_rate() -> None:
    """As many runs end as may be shown: there are never more objects than end between two saves."""
    rate, most = 20, 0
    api, cloud = world(mirror(history_limit=HistoryLimit(succeeded=5), max_per_minute=rate))
    async with living(Process(api, cloud)):
        for number in range(1, 10 * rate + 1):
            cloud.end([number])
            await asyncio.sleep(60 / rate)
            most = max(most, len(api.objects))
        assert await sleep_until(lambda: len(api.objects) == 5)
    assert len(api.made) == 10 * rate
    assert most <= 5 + 3 * rate


async def test_the_cursor_knows_of_a_run_before_the_ttl_deletes_its_object() -> None:
    template = Template(ttl_seconds_after_finished=60)
    api, cloud = world(mirror(template=template))
    process = Process(api, cloud)
    async with living(process):
        await asyncio.sleep(600)
        for number in (1, 2):
            cloud.end([number])
            await asyncio.sleep(45)
    assert api.made == ["all-1", "all-2"]
    recent = api.mirrors["uid-of-all"].status.cursor
    assert recent is not None
    assert {each.run_id for each in recent.recent} >= {1, 2}


async def test_more_than_the_rate_waits_and_says_so() -> None:
    api, cloud = world(mirror(max_per_minute=10))
    for number in range(1, 101):
        cloud.end([number])
    process = Process(api, cloud)
    await process.live(lambda: False, seconds=61)
    assert 20 <= len(api.made) <= 21
    assert conditions(api)["CaughtUp"] == ("False", "Behind")
    assert await process.live(lambda: len(api.made) == 100, seconds=1_200)
    assert await process.live(lambda: conditions(api)["CaughtUp"] == ("True", "CaughtUp"))
    assert api.mirrors["uid-of-all"].status.lag_seconds == 0
    told = [event for event in process.events if event[1] != "Pruned"]
    assert told == [("Warning", "Behind"), ("Normal", "CaughtUp")]


async def test_a_refused_object_is_tried_again_and_told() -> None:
    api, cloud = world()
    api.refusal = Forbidden("exceeded quota")
    cloud.end([1])
    process = Process(api, cloud)
    assert await process.live(lambda: conditions(api).get("Ready") == ("False", "CreateRefused"))
    api.refusal = None
    assert await process.live(lambda: api.made == ["all-1"])
    assert await process.live(lambda: conditions(api)["Ready"] == ("True", "Mirroring"))
    assert ("Warning", "CreateRefused") in process.events
    assert ("Normal", "Mirroring") in process.events


async def test_runs_of_our_own_and_of_other_clusters_do_not_appear() -> None:
    api, cloud = world(
        mirror(),
        mirror("theirs", select=Select(all_jobs=True, other_clusters=True)),
        mirror("jobs", select=Select(job_ids=(98,))),
    )
    cloud.add([1], cause="dbtrun:not-here/1 nightly")
    cloud.add([2], retrying_run_id=77)
    cloud.end([1, 2, 3])
    process = Process(api, cloud)
    process.objects.own.started(ACCOUNT, 77)
    assert await process.live(lambda: len(api.made) == 3)
    assert sorted(api.made) == ["all-3", "theirs-1", "theirs-3"]
    await process.live(lambda: False, seconds=60)
    assert len(api.made) == 3


async def test_a_run_of_our_own_does_not_appear_when_its_object_is_deleted() -> None:
    api, cloud = world()
    cloud.add([2], retrying_run_id=77)
    cloud.end([2])
    process = Process(api, cloud)
    process.objects.own.started(ACCOUNT, 77)
    await process.live(lambda: False, seconds=45)
    await Process(api, cloud).live(lambda: False, seconds=45)  # it knows nothing of run 77
    assert api.made == []


async def test_a_suspended_mirror_goes_on_where_it_was() -> None:
    api, cloud = world(mirror(suspend=True))
    cloud.end([1])
    process = Process(api, cloud)
    assert await process.live(lambda: conditions(api).get("Ready") == ("False", "Suspended"))
    assert api.made == []
    change(api, suspend=False)
    assert await process.live(lambda: api.made == ["all-1"])


async def test_an_unusable_connection_is_told() -> None:
    api, cloud = world()
    process = Process(api, cloud)
    process.unusable = Unusable("There is no Secret.")
    assert await process.live(lambda: conditions(api).get("Ready") == ("False", "InvalidConnection"))
    process.unusable = None
    cloud.end([1])
    assert await process.live(lambda: api.made == ["all-1"])


async def test_a_refused_token_makes_the_secret_be_read_again() -> None:
    api, cloud = world()
    process = Process(api, cloud)
    cloud.simulator.tokens.clear()
    assert await process.live(lambda: conditions(api).get("Reachable") == ("False", "Unauthorized"))
    assert process.doubted


async def test_a_started_run_appears_once_before_its_end() -> None:
    api, cloud = world(mirror(appear=Appear.STARTED))
    cloud.add([1])
    process = Process(api, cloud)
    assert await process.live(lambda: api.made == ["all-1"], seconds=35)
    cloud.end([1])
    await process.live(lambda: False, seconds=60)
    assert api.made == ["all-1"]


async def test_a_mirror_of_started_runs_leaves_those_that_are_over_to_the_cursor() -> None:
    api, cloud = world(mirror(appear=Appear.STARTED))
    for run_id, hours in ((1, 5.0), (2, 0.5)):
        ended = virtual.clock().wall - timedelta(hours=hours)
        cloud.add([run_id], RunStatus.SUCCESS, created=ended - timedelta(minutes=5), finished=ended)
    cloud.add([3])
    await Process(api, cloud).live(lambda: False, seconds=100)
    assert api.made == ["all-3"], "the others ended before the mirror began"


async def test_what_a_mirror_of_started_runs_has_pruned_does_not_come_back_with_the_next_watcher() -> None:
    api, cloud = world(mirror(appear=Appear.STARTED, history_limit=HistoryLimit(succeeded=1)))
    async with living(Process(api, cloud)):
        for number in range(1, 6):
            cloud.end([number])
            await asyncio.sleep(60)
        assert await sleep_until(lambda: list(api.objects) == ["all-5"])
    await Process(api, cloud).live(lambda: False, seconds=600)
    assert api.made == [f"all-{number}" for number in range(1, 6)]


@pytest.mark.parametrize("listed_after", [0, 400])
async def test_a_backup_that_is_restored_while_runs_are_dealt_with_loses_none_of_them(listed_after: float) -> None:
    """Those before it are gone, and those after it were created: the API server takes no notice of a reading."""

    class Restored(Api):
        async def create(self, namespace: str, body: dict[str, Any]) -> DbtRun:
            if len(self.made) == 2 and not self.undone:
                self._restore()
                self.restored()
            return await super().create(namespace, body)

    api, cloud = Restored(mirrors={each.uid: each for each in (mirror(),)}), DbtCloud()
    process = Process(api, cloud)
    api.restored = process.heard_again
    async with living(process):
        await asyncio.sleep(100)
        cloud.end([1, 2, 3], listed_after=listed_after)
        await asyncio.sleep(1_500)
    assert api.undone == {"all-1", "all-2"}
    assert sorted(api.objects) == ["all-1", "all-2", "all-3"]


async def test_after_a_week_without_a_watcher_or_suspended_every_run_of_the_week_appears_once() -> None:
    api, cloud = world(mirror(max_per_minute=1_000))
    process = Process(api, cloud)
    async with living(process):
        await asyncio.sleep(100)
        change(api, process, suspend=True)
        await asyncio.sleep(100)
    for number in range(1, 1_500):
        cloud.end([number])
        await asyncio.sleep(7 * 86_400 / 1_500)
    async with living(Process(api, cloud)):
        await asyncio.sleep(100)
        assert api.made == []
    change(api, suspend=False)
    async with living(Process(api, cloud)):
        assert await sleep_until(lambda: conditions(api)["CaughtUp"] == ("True", "CaughtUp"))
    assert api.made == [f"all-{number}" for number in range(1, 1_500)]


async def test_a_mirror_that_begins_in_the_future_shows_what_ends_after_that() -> None:
    since = virtual.NOON + timedelta(seconds=600)
    api, cloud = world(mirror(since=since), mirror("other"))
    async with living(Process(api, cloud)):
        cloud.end([1])
        await asyncio.sleep(610)
        cloud.end([2])
        await asyncio.sleep(60)
    assert api.made == ["other-1", "all-2", "other-2"] or api.made == ["other-1", "other-2", "all-2"]


async def test_a_run_that_a_dbt_run_follows_appears_in_other_namespaces() -> None:
    """Or anybody who may create a DbtRun could hide a run from everybody's mirrors."""
    elsewhere = mirror("theirs")
    elsewhere = replace(elsewhere, metadata=replace(elsewhere.metadata, namespace="another"))
    api, cloud = world(mirror(), elsewhere)
    process = Process(api, cloud)
    attempts = (
        Attempt(number=1, phase=Phase.FAILED, run_id=1, adopted=True),
        Attempt(number=2, phase=Phase.FAILED, run_id=2, retry_of=1),
        Attempt(number=3, phase=Phase.SUCCEEDED, run_id=4),
    )
    metadata = Metadata(name="follows", namespace="data", uid="u", resource_version="1")
    spec = msgspec.convert({"runId": 1}, Spec)
    process.objects.seen(DbtRun(metadata=metadata, spec=spec, status=Status(account_id=ACCOUNT, attempts=attempts)))
    cloud.end([1, 4])
    cloud.add([2, 3], retrying_run_id=1)
    cloud.end([2, 3])
    await process.live(lambda: False, seconds=60)
    assert api.made == ["theirs-1"], "2 and 4 were started here, and 3 resumes the same run"


async def test_a_deleted_mirror_is_served_no_more() -> None:
    api, cloud = world()
    process = Process(api, cloud)
    await process.live(lambda: bool(conditions(api)))
    process.mirroring.gone("uid-of-all")
    process.mirroring.gone("uid-of-all")
    assert len(process.mirroring) == 0
    assert process.mirroring.lag == 0


@pytest.mark.parametrize("how", ["deleted", "being deleted", "suspended"])
async def test_a_mirror_that_ends_while_runs_are_dealt_with_creates_no_more(how: str) -> None:
    class Ends(Api):
        async def create(self, namespace: str, body: dict[str, Any]) -> DbtRun:
            created = await super().create(namespace, body)
            if len(self.made) == 2:
                end()
            return created

    def end() -> None:
        if how == "deleted":
            process.mirroring.gone("uid-of-all")
        elif how == "suspended":
            change(api, process, suspend=True)
        else:
            stored = api.mirrors["uid-of-all"]
            metadata = replace(stored.metadata, deletion_timestamp=virtual.clock().wall, resource_version="99999")
            process.mirroring.changed(replace(stored, metadata=metadata))

    api, cloud = Ends(mirrors={each.uid: each for each in (mirror(),)}), DbtCloud()
    process = Process(api, cloud)
    cloud.end([1, 2, 3, 4])
    await process.live(lambda: False, seconds=60)
    assert api.made == ["all-1", "all-2"]


async def test_an_older_version_of_a_mirror_is_ignored() -> None:
    api, cloud = world()
    process = Process(api, cloud)
    await process.live(lambda: bool(conditions(api)))
    serving = process.mirroring._serving["uid-of-all"][0]
    saved = serving.mirror
    serving.changed(mirror())
    assert serving.mirror is saved


def test_each_condition_is_told() -> None:
    assert {each.value for each in MirrorCondition} == {"Ready", "Reachable", "CaughtUp"}
