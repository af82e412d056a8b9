"""What is known of every DbtRun, in memory: the newest version that the watch, a list or our own writes have brought.

Those three race with each other, so an older version never replaces a newer one, and deleted objects stay deleted.
Of an object that is finished and needs nothing more (it *rests*) only its version is kept: a busy team leaves tens of
thousands of them. Whatever changes one brings it whole again.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from dbtrun.api import DbtRun, UnreadableObject, parse
from dbtrun.text import natural

KEPT_METADATA: Final = ("dbtrun.dev/", "velero.io/")
"""Prefixes of the annotations and labels that are kept: others can be as large as the API server takes an object."""
REMEMBERED_DEAD: Final = 20_000
"""Deleted uids that are remembered, so that a late event or the answer to our last write does not revive one."""


@dataclass(frozen=True)
class Unreadable:
    """An object that the API does not allow: it is not followed, but shown to its owner."""

    uid: str
    namespace: str
    name: str
    resource_version: str
    message: str


class _Identity(msgspec.Struct, rename="camel"):
    name: str
    namespace: str
    uid: str
    resource_version: str


class _Stored(msgspec.Struct):
    metadata: _Identity


class Resting(NamedTuple):
    """What is kept of an object that needs nothing more."""

    namespace: str
    resource_version: str
    attempt: int
    """Number of its last attempt: a status that later has fewer was emptied."""
    phase: str
    reason: str

    @property
    def place(self) -> tuple[str, str, str]:
        """What it is counted under."""
        return self.namespace, self.phase, self.reason


class Expiring(NamedTuple):
    """A resting object that is to be deleted at a time of the API server's clock (seconds since the epoch)."""

    due: float
    uid: str
    namespace: str
    name: str


def read(body: Mapping[str, Any]) -> DbtRun:
    """An object without what would only fill memory (managedFields are never read).

    Raises:
        UnreadableObject: as `dbtrun.api.parse`.
    """
    return _slim(parse(body))


def interpret(body: Mapping[str, Any]) -> DbtRun | Unreadable:
    """An object of a list or of the watch."""
    try:
        return read(body)
    except UnreadableObject as error:
        metadata = body["metadata"]
        return Unreadable(
            uid=metadata["uid"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            resource_version=metadata["resourceVersion"],
            message=str(error),
        )


def read_json(raw: bytes | msgspec.Raw) -> DbtRun:
    """As `read`, from JSON, in a fraction of the time where the object is as it should be.

    Raises:
        UnreadableObject: as `read`.
        MsgspecError: it is not JSON.
    """
    try:
        return _typed(raw)
    except msgspec.ValidationError:
        return read(msgspec.json.decode(raw))


def interpret_json(raw: bytes | msgspec.Raw) -> DbtRun | Unreadable:
    """As `interpret`, from JSON, in a fraction of the time and memory where the object is as it should be.

    Raises:
        MsgspecError: it is not an object that the API server stores: its name, uid or version is missing.
    """
    try:
        return _typed(raw)
    except msgspec.ValidationError:
        # Raises for anything that the API server cannot have stored, as promised.
        msgspec.json.decode(raw, type=_Stored)
        return interpret(msgspec.json.decode(raw))


def _typed(raw: bytes | msgspec.Raw) -> DbtRun:
    return _slim(msgspec.json.decode(raw, type=DbtRun))


def _slim(run: DbtRun) -> DbtRun:
    metadata = run.metadata
    annotations, labels = _kept(metadata.annotations), _kept(metadata.labels)
    if len(annotations) == len(metadata.annotations) and len(labels) == len(metadata.labels):
        return run
    slim = msgspec.structs.replace(metadata, annotations=annotations, labels=labels)
    return msgspec.structs.replace(run, metadata=slim)


def _kept(marks: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in marks.items() if key.startswith(KEPT_METADATA)}


def version(resource_version: str) -> int | None:
    """A resourceVersion as a number that can be ordered, as Kubernetes documents them; else None.

    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
    """
    return natural(resource_version)


def _never(_run: DbtRun) -> float | None:
    return None


class Mirror:
    """uid → DbtRun. Pure: no I/O, one thread.

    Args:
        rests: whether an object needs nothing more: until when (seconds since the epoch, `inf`: for ever), else None.
        ended: called with each version of an object that has ended.
        seen: called with each version of an object.
        active: called with each version of an object that does not rest.
        inactive: called with the uid of each object that is gone, rests or cannot be read.
    """

    def __init__(
        self,
        rests: Callable[[DbtRun], float | None] = _never,
        ended: Callable[[DbtRun], object] = lambda _run: None,
        seen: Callable[[DbtRun], object] = lambda _run: None,
        active: Callable[[DbtRun], object] = lambda _run: None,
        inactive: Callable[[str], object] = lambda _uid: None,
    ) -> None:
        self._rests = rests
        self._ended = ended
        self._seen = seen
        self._active = active
        self._inactive = inactive
        self._runs: dict[str, DbtRun] = {}
        self._unreadable: dict[str, Unreadable] = {}
        self._resting: dict[str, Resting] = {}
        self._resting_in: Counter[tuple[str, str, str]] = Counter()
        self._expiring: list[Expiring] = []
        self._rested: dict[str, int] = {}
        self._places: dict[str, set[str]] = {}
        self._dead: dict[str, float] = {}
        """The version that each was known in."""
        self._doubted: set[str] = set()
        self.on_record: Callable[[DbtRun], None] = lambda _run: None
        """Called with every new answer to our own writes: the watch must bring the same later."""

    def __len__(self) -> int:
        """Readable objects, the resting ones too."""
        return len(self._runs) + len(self._resting)

    def __iter__(self) -> Iterator[DbtRun]:
        """All readable runs that do not rest, as they are now; the mirror may change meanwhile."""
        return iter(tuple(self._runs.values()))

    def __contains__(self, uid: object) -> bool:
        return uid in self._runs or uid in self._unreadable or uid in self._resting

    def get(self, uid: str) -> DbtRun | None:
        """The newest known version; None also for an object that rests."""
        return self._runs.get(uid)

    def find(self, namespace: str, name: str) -> DbtRun | None:
        """The run that has this name now, if it does not rest."""
        named = (run for run in self if (run.metadata.namespace, run.metadata.name) == (namespace, name))
        # One that was deleted may still be known beside the one that was created under its name.
        return max(named, key=lambda run: version(run.metadata.resource_version) or 0, default=None)

    def namespace(self, uid: str) -> str | None:
        """Where an object lives that exists, in whatever state."""
        found = self._runs.get(uid)
        if found is not None:
            return found.metadata.namespace
        place = self._resting.get(uid) or self._unreadable.get(uid)
        return place.namespace if place else None

    def unreadable(self, uid: str) -> Unreadable | None:
        """What is wrong with an object that cannot be read, if it is one."""
        return self._unreadable.get(uid)

    @property
    def all_unreadable(self) -> tuple[Unreadable, ...]:
        """Every object that cannot be read."""
        return tuple(self._unreadable.values())

    @property
    def resting(self) -> int:
        """How many objects rest."""
        return len(self._resting)

    @property
    def resting_in(self) -> Mapping[tuple[str, str, str], int]:
        """How many objects rest, by namespace, phase and reason."""
        return self._resting_in

    def rested(self, uid: str) -> int:
        """The number of the last attempt of an object that once rested; 0 for any other."""
        return self._rested.get(uid, 0)

    def uids(self, namespace: str | None = None) -> frozenset[str]:
        """What is known in a namespace, or everywhere, readable or not."""
        if namespace is None:
            return frozenset().union(*self._places.values())
        return frozenset(self._places.get(namespace, ()))

    def apply(self, event_type: str | None, body: Mapping[str, Any]) -> str | None:
        """Takes a watch event, or an item of a list (type None); returns as `take`."""
        return self.gone(body["metadata"]["uid"]) if event_type == "DELETED" else self.take(interpret(body))

    def take(self, item: DbtRun | Unreadable) -> str | None:
        """Takes an object as a list or the watch has it.

        Returns:
            The uid if there is something new to look at; None when this was known already, or rests and did before.
        """
        uid = item.uid
        before = uid in self._runs or uid in self._unreadable
        if isinstance(item, Unreadable):
            if not self._news(uid, item.resource_version):
                return None
            self._drop(uid)
            self._unreadable[uid] = item
            self._places.setdefault(item.namespace, set()).add(uid)
            return uid
        if not self._news(uid, item.metadata.resource_version):
            return None
        self._keep(item)
        return uid if before or uid in self._runs else None

    def record(self, run: DbtRun) -> bool:
        """Takes the answer to our own write; False when something newer is known already.

        A write that changed nothing is answered in the known version. Then what was written is kept all the same: a CRD
        of another release has dropped it, and the same write must not be decided upon again.
        """
        if run.uid in self._runs and self.resource_version(run.uid) == run.metadata.resource_version:
            self._keep(run)
            return True
        if not self._news(run.uid, run.metadata.resource_version):
            return False
        self._keep(run)
        self.on_record(run)
        return True

    def gone(self, uid: str) -> str | None:
        """The object was deleted: its uid, if somebody has to look at that."""
        looked_at = uid in self._runs or uid in self._unreadable
        return uid if self.forget(uid) and looked_at else None

    def forget(self, uid: str) -> bool:
        """The object is gone for good (a uid never comes back); False when that is no news."""
        if uid in self._dead:
            return False
        # A watch that opens again, or a list that began before, may still bring the object: it must not come back.
        self._dead[uid] = version(self.resource_version(uid) or "") or 0
        if len(self._dead) > REMEMBERED_DEAD:
            del self._dead[next(iter(self._dead))]
        self._rested.pop(uid, None)
        self._doubted.discard(uid)
        return self._drop(uid)

    def expired(self, now: float) -> list[Expiring]:
        """Takes the resting objects out whose time has come (seconds since the epoch)."""
        found = []
        while self._expiring and self._expiring[0].due <= now:
            expiring = heapq.heappop(self._expiring)
            if expiring.uid in self._resting:  # else it was changed or deleted since, and this entry is left over
                found.append(expiring)
        return found

    def postpone(self, expiring: Expiring, due: float) -> None:
        """Puts back what `expired` gave, for a later time."""
        heapq.heappush(self._expiring, expiring._replace(due=due))

    def rouse(self, run: DbtRun) -> None:
        """Takes a resting object back, as it is now."""
        self._rest_no_more(run.uid)
        self._keep(run)

    def prune(self, known: Collection[str], listed: Collection[str]) -> frozenset[str]:
        """Forgets what was known before a list began and is not on it: its deletion was missed.

        Args:
            known: `uids` of the listed scope, taken before the list was asked for. What came later stays.
            listed: the uids on the complete list.

        Returns:
            The uids that are gone and that somebody has to look at.
        """
        missing = frozenset(known) - frozenset(listed)
        return frozenset(uid for uid in missing if self.gone(uid) is not None)

    def dead(self, uid: str) -> bool:
        """Whether the object is known to be deleted."""
        return uid in self._dead

    def resource_version(self, uid: str) -> str | None:
        """The version that is known, readable or not."""
        if run := self._runs.get(uid):
            return run.metadata.resource_version
        place = self._resting.get(uid) or self._unreadable.get(uid)
        return place.resource_version if place else None

    def versions(self, namespace: str | None) -> dict[str, float]:
        """uid → version of what is known of a namespace, or everywhere.

        Of the dead, one that is newer than the last known: one that has only begun to go has a newer one still.
        """
        known = {uid: version(self.resource_version(uid) or "") for uid in self.uids(namespace)}
        living: dict[str, float] = {uid: number for uid, number in known.items() if number is not None}
        return living | {uid: last + 0.5 for uid, last in self._dead.items()}

    def doubt(self, namespace: str | None) -> None:
        """The API server went back to older versions: what it says next is believed of each object, of the dead too."""
        self._doubted |= self.uids(namespace)
        # A restore brings objects back under the uids that they had.
        self._dead.clear()

    def _news(self, uid: str, resource_version: str) -> bool:
        if uid in self._dead:
            return False
        # Believed once: from then on the versions of the restored cluster are compared again.
        if uid in self._doubted:
            self._doubted.discard(uid)
            return True
        known = self.resource_version(uid)
        if known is None:
            return True
        old, new = version(known), version(resource_version)
        if old is None or new is None:  # cannot be ordered: what arrives last is believed
            return known != resource_version
        return new > old

    def _keep(self, run: DbtRun) -> None:
        uid, metadata, status = run.uid, run.metadata, run.status
        self._unreadable.pop(uid, None)
        self._seen(run)
        if status.final:
            self._ended(run)
        until = self._rests(run)
        if until is None:
            self._rest_no_more(uid)
            self._runs[uid] = run
            self._active(run)
        else:
            self._runs.pop(uid, None)
            self._inactive(uid)
            self._take_resting(uid)
            attempt = status.attempt
            # One text for the tens of thousands of objects of a namespace.
            namespace = sys.intern(metadata.namespace)
            resting = self._resting[uid] = Resting(
                namespace,
                metadata.resource_version,
                attempt.number if attempt else 0,
                status.phase or "",
                status.reason or "",
            )
            self._resting_in[resting.place] += 1
            if until < math.inf:
                heapq.heappush(self._expiring, Expiring(until, uid, namespace, metadata.name))
        self._places.setdefault(metadata.namespace, set()).add(uid)

    def _rest_no_more(self, uid: str) -> None:
        rested = self._take_resting(uid)
        if rested is not None and rested.attempt:
            self._rested[uid] = rested.attempt

    def _take_resting(self, uid: str) -> Resting | None:
        resting = self._resting.pop(uid, None)
        if resting is not None:
            self._resting_in[resting.place] -= 1
            if not self._resting_in[resting.place]:
                del self._resting_in[resting.place]
        return resting

    def _drop(self, uid: str) -> bool:
        place = self.namespace(uid)
        if place is None:
            return False
        self._take_resting(uid)
        self._inactive(uid)
        for kept in (self._runs, self._unreadable):
            kept.pop(uid, None)
        if here := self._places.get(place):
            here.discard(uid)
            if not here:
                del self._places[place]
        return True
