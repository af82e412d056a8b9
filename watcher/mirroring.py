"""Serves DbtRunMirrors: creates a DbtRun for each run that others start, saves how far it has come, and prunes.

The order makes a watcher that ends anywhere harmless. An object has the name of its run, so creating it again is no
second one. The cursor is saved after the objects, and an object is pruned after the cursor that knows of its run. The
status of the objects is the reconciler's to write, as of any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

from msgspec.structs import replace

from dbtrun.api import MIRROR_LABEL, DbtRun, Reason
from dbtrun.api.mirrors import Appear, DbtRunMirror, MirrorCondition, MirrorStatus
from dbtrun.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from dbtrun.values import Instant
from watcher.bucket import Bucket
from watcher.cluster.mirror import version
from watcher.connections import Unusable
from watcher.dbtcloud.accounts import Account
from watcher.dbtcloud.errors import DbtCloudError
from watcher.lifecycle.decisions import Event
from watcher.lifecycle.facts import Observation, RunFacts
from watcher.lifecycle.known import DOUBTFUL
from watcher.mirrors.objects import Told, dbt_run, name_of, stamped
from watcher.mirrors.progress import OVERLAP, Cursor, Reading, begins_at
from watcher.mirrors.pruning import Kept, surplus
from watcher.mirrors.selection import Origin, Own, known_as, selects
from watcher.mirrors.telling import SUSPENDED, Teller

log = logging.getLogger(__name__)

CYCLE_SECONDS: Final = 10.0
"""Between two looks at whether something is to be saved or pruned. The connection is read again then, too."""
SAVE_SECONDS: Final = 120.0
"""Between two saves of a cursor while runs come, so that what a run costs does not depend on them. Runs that were dealt
with since the last save are found to have their objects by a watcher that starts."""
PRUNED_PER_CREATED: Final = 2
"""Objects are deleted faster than they are created, so that the history limits hold at any rate."""
IDLE_SAVE_SECONDS: Final = 600.0
"""The same while none come: the cursor then only says from where a restarted watcher reads."""
ENOUGH: Final = 30
"""Objects that one that is behind may create at once, before more is read for it."""
WRITES_AT_ONCE: Final = 4
"""Objects that are created at a time, for all mirrors together."""
WHOLE_SECOND: Final = timedelta(seconds=1)
"""A status has its times without their fractions."""


class Writer(Protocol):
    """Writes to the API server; each method may raise a KubeError."""

    async def create(self, namespace: str, body: dict[str, Any]) -> DbtRun: ...
    async def delete(self, namespace: str, name: str, uid: str) -> None: ...
    async def patch_status(self, mirror: DbtRunMirror, status: MirrorStatus) -> DbtRunMirror: ...


class Connections(Protocol):
    """Reads the connections of mirrors."""

    async def connect_mirror(self, mirror: DbtRunMirror) -> Account: ...
    def projects(self, run: DbtRunMirror) -> frozenset[int] | None: ...
    def doubt(self, uid: str, reason: Reason) -> None: ...
    def forget(self, uid: str) -> None: ...


class Place(NamedTuple):
    """A mirror by its name: what an object's label says."""

    namespace: str
    mirror: str


class Objects:
    """What is known of all DbtRuns that matters here. `seen` is called with each version of each.

    Args:
        exists: whether the object of a uid exists.
    """

    def __init__(self, exists: Callable[[str], bool]) -> None:
        self.own = Own(exists)
        self._exists = exists
        self._kept: dict[Place, dict[str, Kept]] = defaultdict(dict)
        self._coming: dict[tuple[str, str], Observation] = {}

    @contextmanager
    def coming(self, namespace: str, name: str, observation: Observation) -> Iterator[None]:
        """Around the creation of an object, whose run is already known: the watch may be faster than the answer."""
        self._coming[namespace, name] = observation
        try:
            yield
        finally:
            del self._coming[namespace, name]

    def foreseen(self, run: DbtRun) -> Observation | None:
        """What is known of the run of an object that is being created."""
        return self._coming.get((run.metadata.namespace, run.metadata.name)) if run.mirrored else None

    def seen(self, run: DbtRun) -> None:
        """An object is known in this version."""
        status, metadata = run.status, run.metadata
        account_id, run_id = status.account_id, run.spec.run_id
        if not run.mirrored and account_id is not None:
            # A run that was resumed has no marker of ours: only the statuses of objects show that it is one.
            for attempt in status.attempts:
                if attempt.retry_of is not None:
                    self.own.resumed(account_id, attempt.retry_of)
                if attempt.run_id is not None and attempt.adopted:
                    self.own.followed(metadata.namespace, account_id, attempt.run_id)
                elif attempt.run_id is not None:
                    self.own.started(account_id, attempt.run_id)
        if not run.mirrored or run_id is None or run.deleting:
            return
        ended = status.finished_at or status.completion_time
        if status.final and status.phase is not None and ended is not None:
            place = Place(metadata.namespace, metadata.labels[MIRROR_LABEL])
            self._kept[place][run.uid] = Kept(
                uid=run.uid,
                name=metadata.name,
                run_id=run_id,
                job_id=status.job_id or 0,
                phase=status.phase,
                finished_at=ended,
                completed_at=status.completion_time or ended,
            )

    def kept(self, mirror: DbtRunMirror) -> list[Kept]:
        """The finished objects of a mirror that exist."""
        place = Place(mirror.metadata.namespace, mirror.metadata.name)
        found = {uid: kept for uid, kept in self._kept.get(place, {}).items() if self._exists(uid)}
        if found:
            self._kept[place] = found
        else:
            self._kept.pop(place, None)
        return list(found.values())


class Shell(NamedTuple):
    """What all mirrors share."""

    writer: Writer
    connections: Connections
    objects: Objects
    record: Callable[[DbtRun, Observation], object]
    """Takes an object that was just created, and what the list said of its run."""
    forget: Callable[[str], object]
    """Takes an object out of the mirror in memory."""
    clock: Callable[[], Instant]
    may_act: Callable[[], bool]
    note: Callable[[str], object]
    """Called with what became of a run: created, own, other_cluster, pruned."""
    emit: Callable[[DbtRunMirror, Event], object]
    writes: asyncio.Semaphore


class Serving:
    """One DbtRunMirror. It is the ledger's follower, and has a task of its own that saves and prunes."""

    def __init__(self, mirror: DbtRunMirror, shell: Shell) -> None:
        self.mirror = mirror
        self._shell = shell
        now = shell.clock()
        stored = mirror.status.cursor
        self._cursor = _cursor_of(mirror, now.wall)
        self._bucket = Bucket(mirror.spec.max_per_minute, now.mono)
        self._prunes = Bucket(PRUNED_PER_CREATED * mirror.spec.max_per_minute, now.mono)
        self._account: Account | None = None
        self._projects: frozenset[int] | None = None
        self._ready: Told = Told(MirrorCondition.READY, None, "Waiting", "The connection was not read yet.")
        self._reachable: Told = Told(MirrorCondition.REACHABLE, None, "Waiting", "dbt Cloud was not asked yet.")
        self._waiting = 0
        self._read_through: datetime | None = None
        self._refusal: str | None = None
        self._dealt = stored is None
        """Whether runs were dealt with that the saved cursor does not know of, or objects are to be pruned."""
        self._saved_at = now.mono - (IDLE_SAVE_SECONDS if stored is None else SAVE_SECONDS)
        self._pruned_through = mirror.status.pruned_through
        self._late = mirror.status.late_runs
        self._restores = 0
        """How often a backup may have been restored under it."""
        self._gone = False
        self._woken = asyncio.Event()
        self._teller = Teller(mirror.status.conditions)

    # ---- what the watch brings

    def changed(self, mirror: DbtRunMirror) -> None:
        """It has changed, or our own write of its status comes back."""
        known, brought = version(self.mirror.metadata.resource_version), version(mirror.metadata.resource_version)
        # The watch may be behind the answer to our own write.
        if known is not None and brought is not None and brought < known:
            return
        if mirror.metadata.generation != self.mirror.metadata.generation:
            self._woken.set()
        if mirror.spec.select != self.mirror.spec.select:
            self._cursor = self._cursor.for_another_selection()
        self.mirror = mirror
        self._resize()

    def found_again(self, mirror: DbtRunMirror) -> None:
        """The API server was away, and now has it like this, perhaps from a backup: what came after it is gone."""
        self.mirror = mirror
        self._restores += 1
        self._cursor = _cursor_of(mirror, self._shell.clock().wall)
        self._pruned_through, self._late = mirror.status.pruned_through, mirror.status.late_runs
        self._resize()
        self._woken.set()

    def gone(self) -> None:
        """It was deleted. A reading may still be dealt with."""
        self._gone = True

    def _resize(self) -> None:
        most = self.mirror.spec.max_per_minute
        self._bucket.resize(most)
        self._prunes.resize(PRUNED_PER_CREATED * most)

    # ---- as the ledger sees it

    def __str__(self) -> str:
        return str(self.mirror)

    @property
    def cursor(self) -> Cursor | None:
        """How far it has come; None: it takes nothing now."""
        if not self._may_create:
            return None
        enough = min(ENOUGH, self.mirror.spec.max_per_minute)
        behind = self._waiting > 0 and self._bucket.left(self._shell.clock().mono) < enough
        return None if behind else self._cursor

    @property
    def _may_create(self) -> bool:
        """Whether it may create objects now. Those of a mirror that is gone would be deleted at once."""
        gone = self._gone or self.mirror.deleting
        return not (gone or self.mirror.spec.suspend) and self._shell.may_act()

    @property
    def wants_started(self) -> bool:
        """Whether it shows runs that have not finished."""
        return self.mirror.spec.appear is Appear.STARTED and self.cursor is not None

    async def take_finished(self, reading: Reading) -> None:
        """Creates what is missing, in the order of the ends, as far as the rate allows."""
        fresh = [run for run in self._cursor.fresh(reading.runs) if self._selects(run)]
        passed, restores = self._cursor.finished_at - OVERLAP, self._restores
        done = await self._deal_with(fresh)
        if restores != self._restores:
            return  # what was created before the restore is gone, so the cursor must not know of it
        left = fresh[len(done) :]
        self._waiting = len(left) + (0 if reading.complete else 1)
        self._cursor = self._cursor.moved(reading, done, left)
        self._late += sum(run.finished_at is not None and run.finished_at < passed for run in done)
        self._read_through = reading.through

    async def take_late(self, runs: tuple[RunFacts, ...]) -> None:
        """Creates those that it has missed; the rest is read again once the mirror takes runs."""
        missed, restores = [run for run in self._cursor.missed(runs) if self._selects(run)], self._restores
        done = await self._deal_with(missed) if self.cursor is not None else []
        if restores != self._restores:
            return
        self._cursor = self._cursor.with_late(done, missed[len(done) :])
        self._late += len(done)

    async def take_started(self, runs: tuple[RunFacts, ...]) -> None:
        """Creates those that match and are not over; one that has to wait appears when it has finished."""
        for run in filter(self._selects, runs):
            # Only the cursor knows which of those that are over were shown before, or ended before the mirror began.
            if not run.state.over:
                await self._deal(run)

    def troubled(self, error: DbtCloudError) -> None:
        """dbt Cloud does not answer."""
        self._reachable = Told(MirrorCondition.REACHABLE, False, error.reason.value, error.message)
        if error.reason in DOUBTFUL:
            self._shell.connections.doubt(self.mirror.uid, error.reason)
            self._woken.set()

    def answering(self) -> None:
        """dbt Cloud answers."""
        self._reachable = Told(MirrorCondition.REACHABLE, True, "Answering", "dbt Cloud answers.")

    def _selects(self, run: RunFacts) -> bool:
        return selects(self.mirror.spec.select, run, self._projects)

    async def _deal_with(self, runs: Iterable[RunFacts]) -> list[RunFacts]:
        """The first of these that are dealt with now, in their order."""
        done: list[RunFacts] = []
        for run in runs:
            # The cursor cannot pass over a run that was left, so those after it wait as well.
            if not await self._deal(run):
                break
            done.append(run)
        return done

    async def _deal(self, run: RunFacts) -> bool:
        """Whether the run is dealt with: it has its object, or is one of our own."""
        mirror, shell = self.mirror, self._shell
        origin = shell.objects.own.origin(run, mirror.metadata.namespace)
        if origin is Origin.OURS or (origin is Origin.OTHER_CLUSTER and not mirror.spec.select.other_clusters):
            shell.note("own" if origin is Origin.OURS else "other_cluster")
            self._dealt = True
            return True
        if not self._bucket.take(shell.clock().mono):
            return False
        async with shell.writes:
            # Asked after the wait for a write: the Lease may have been lost meanwhile, or the mirror deleted.
            if not self._may_create:
                return False
            namespace, name = mirror.metadata.namespace, name_of(mirror.metadata.name, run.run_id)
            observation = Observation(run=run, at=shell.clock())
            try:
                with shell.objects.coming(namespace, name, observation):
                    created = await shell.writer.create(namespace, dbt_run(mirror, run))
            except AlreadyExists:
                # The name has the run's id in it: a write whose answer was lost, or an earlier watcher, has created it.
                self._dealt = True
                return True
            except KubeError as error:
                if str(error) != self._refusal:
                    log.warning("A DbtRun is not created: %s", error, extra={"mirror": str(mirror)})
                self._refusal = str(error)
                return False
        shell.record(created, observation)
        shell.note("created")
        self._refusal = None
        self._dealt = True
        return True

    # ---- saving and pruning

    async def run(self) -> None:
        """Serves it until cancelled."""
        try:
            while True:
                self._woken.clear()
                try:
                    await self._connect()
                    await self._keep()
                except (KubeError, Unusable) as error:
                    log.warning("A DbtRunMirror cannot be served now: %s", error, extra={"mirror": str(self.mirror)})
                except Exception:
                    # Contained: in a task group, the fault of one mirror would end all others.
                    log.exception("A DbtRunMirror failed with an unexpected error.", extra={"mirror": str(self.mirror)})
                try:
                    async with asyncio.timeout(CYCLE_SECONDS):
                        await self._woken.wait()
                except TimeoutError:
                    continue
        finally:
            self._leave()
            self._shell.connections.forget(self.mirror.uid)

    def _leave(self) -> None:
        if self._account is not None:
            self._account.ledger.remove(self.mirror.uid)
            self._account = None

    async def _connect(self) -> None:
        if self.mirror.deleting:
            self._leave()
            return
        try:
            account = await self._shell.connections.connect_mirror(self.mirror)
        except Unusable as error:
            self._leave()
            self._ready = Told(MirrorCondition.READY, False, error.reason.value, str(error))
            return
        self._projects = self._shell.connections.projects(self.mirror)
        # A rotated token makes another account, which has a ledger of its own.
        if account is not self._account:
            self._leave()
            self._account = account
            account.ledger.add(self.mirror.uid, self)
        asked = self.mirror.spec.select.project_ids
        if self.mirror.spec.suspend:
            self._ready = Told(MirrorCondition.READY, False, SUSPENDED, "spec.suspend is true.")
        elif self._projects is not None and asked and self._projects.isdisjoint(asked):
            told = "The namespace may see none of spec.select.projectIds with the watcher's default connection."
            self._ready = Told(MirrorCondition.READY, False, "ProjectNotAllowed", told)
        elif self._refusal is not None:
            self._ready = Told(MirrorCondition.READY, False, "CreateRefused", f"A DbtRun is refused: {self._refusal}")
        else:
            self._ready = Told(MirrorCondition.READY, True, "Mirroring", "Runs that match appear as DbtRuns.")

    async def _keep(self) -> None:
        """Saves what is worth it, then prunes what the saved cursor knows of."""
        if not self._shell.may_act() or self.mirror.deleting:
            return
        too_many = surplus(self._shell.objects.kept(self.mirror), self.mirror.spec.history_limit)
        gone = [kept for kept in too_many if self._cursor.knows(kept.run_id, kept.finished_at + WHOLE_SECOND)]
        gone = gone[: self._prunes.left(self._shell.clock().mono)]
        if gone:
            # Not the runs' ends: a reader knows until when it has seen objects become final.
            latest = max(kept.completed_at for kept in gone)
            self._pruned_through = max(self._pruned_through or latest, latest)
            self._dealt = True
        if not await self._save():
            return
        self._tell(self._teller.told(self.mirror.status.conditions, self._shell.clock().mono))
        pruned = 0
        try:
            for kept in gone:
                if not (self._shell.may_act() and self._prunes.take(self._shell.clock().mono)):
                    return
                await self._shell.writer.delete(self.mirror.metadata.namespace, kept.name, kept.uid)
                self._shell.forget(kept.uid)
                self._shell.note("pruned")
                pruned += 1
        finally:
            self._tell(self._teller.pruned(pruned, self._shell.clock().mono))

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            self._shell.emit(self.mirror, event)

    async def _save(self) -> bool:
        """Whether the stored status knows of all that was dealt with."""
        now = self._shell.clock()
        wanted = self._status(now)
        told = _said(wanted) != _said(self.mirror.status)
        age = now.mono - self._saved_at
        due = age >= (self._save_seconds if self._dealt else IDLE_SAVE_SECONDS)
        if not (due or told):
            return False
        # Taken back before the write: what is dealt with meanwhile is not in this status.
        dealt, self._dealt = self._dealt, False
        try:
            self.mirror = await self._shell.writer.patch_status(self.mirror, wanted)
        except KubeError as error:
            self._dealt = dealt or self._dealt
            if isinstance(error, Conflict | NotFound):
                return False  # the watch brings what it is now
            raise
        self._saved_at = now.mono
        return True

    @property
    def _save_seconds(self) -> float:
        """The cursor must know of an object before its TTL deletes it, or a watcher that starts shows it again."""
        ttl = self.mirror.spec.template.ttl_seconds_after_finished
        return SAVE_SECONDS if ttl is None else min(SAVE_SECONDS, ttl / 2)

    def _status(self, now: Instant) -> MirrorStatus:
        lag = (now.wall - self._cursor.finished_at).total_seconds()
        kind = MirrorCondition.CAUGHT_UP
        if self._read_through is None:
            caught_up = Told(kind, None, "Waiting", "Nothing was read yet.")
        elif self._waiting:
            words = f"Runs wait for their DbtRuns: at most {self.mirror.spec.max_per_minute} are created per minute."
            caught_up = Told(kind, False, "Behind", words)
        elif self._reachable.status != "True" or self._ready.status != "True":
            caught_up = Told(kind, None, "NotReading", "Runs are not read now; see the other conditions.")
        else:
            caught_up = Told(kind, True, "CaughtUp", "Every run that matches and has finished has its DbtRun.")
        generation = self.mirror.metadata.generation
        connection = self._account.connection if self._account is not None else None
        before = self.mirror.status
        return replace(
            before,
            observed_generation=generation,
            account_id=connection.account_id if connection else before.account_id,
            host=connection.host if connection else before.host,
            cursor=self._cursor.to_status(known_as(self.mirror.spec.select)),
            pruned_through=self._pruned_through,
            late_runs=self._late,
            lag_seconds=0 if caught_up.status == "True" else max(0, int(lag)),
            conditions=stamped(before, (self._ready, self._reachable, caught_up), generation, now.wall),
        )


def _cursor_of(mirror: DbtRunMirror, now: datetime) -> Cursor:
    if mirror.status.cursor is not None:
        return Cursor.stored(mirror.status.cursor, known_as(mirror.spec.select))
    return Cursor.beginning(begins_at(mirror.metadata.creation_timestamp, mirror.spec.since, now))


def _said(status: MirrorStatus) -> list[tuple[object, ...]]:
    """What the conditions say, without when they changed."""
    return [(c.type, c.status, c.reason, c.message, c.observed_generation) for c in status.conditions]


class Mirroring:
    """All DbtRunMirrors. `changed` and `gone` take what the watch brings; `run` serves them from the lead on."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._known: dict[str, DbtRunMirror] = {}
        self._serving: dict[str, tuple[Serving, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None

    def __len__(self) -> int:
        return len(self._known)

    @property
    def lag(self) -> float:
        """Seconds by which the mirror that is furthest behind is behind; 0 if all have caught up."""
        return float(max((mirror.status.lag_seconds or 0 for mirror in self._known.values()), default=0))

    def changed(self, mirror: DbtRunMirror) -> None:
        """A mirror is new, or has changed."""
        self._known[mirror.uid] = mirror
        serving = self._serving.get(mirror.uid)
        if serving is not None:
            serving[0].changed(mirror)
        elif self._group is not None:
            self._serve(self._group, mirror)

    def found_again(self, mirror: DbtRunMirror) -> None:
        """A mirror as it is after the API server was away."""
        self._known[mirror.uid] = mirror
        serving = self._serving.get(mirror.uid)
        if serving is not None:
            serving[0].found_again(mirror)
        else:
            self.changed(mirror)

    def gone(self, uid: str) -> None:
        """A mirror was deleted."""
        self._known.pop(uid, None)
        serving = self._serving.pop(uid, None)
        if serving is not None:
            serving[0].gone()
            serving[1].cancel()

    async def run(self) -> None:
        """Serves all until cancelled. To be called once this watcher leads and knows every DbtRun."""
        async with asyncio.TaskGroup() as self._group:
            for mirror in tuple(self._known.values()):
                self._serve(self._group, mirror)
            await asyncio.Event().wait()

    def _serve(self, group: asyncio.TaskGroup, mirror: DbtRunMirror) -> None:
        serving = Serving(mirror, self._shell)
        task = group.create_task(serving.run(), name=f"mirror {mirror}")
        self._serving[mirror.uid] = serving, task
