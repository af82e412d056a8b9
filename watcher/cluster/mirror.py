"""What is known of every DbtRun, in memory: the newest of what the watch, the lists and our own writes have told.

Those three race with each other, so nothing older ever replaces anything newer, and the dead stay dead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from watcher.api import DbtRun, UnreadableObject, parse

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
REMEMBERED_DEAD: Final = 20_000
"""Deleted uids that are remembered, so that a late event or the answer to our last write does not revive one."""


@dataclass(frozen=True)
class Unreadable:
    """An object that the API does not allow: followed by nobody, shown to its owner."""

    uid: str
    namespace: str
    name: str
    resource_version: str
    message: str


def read(body: Mapping[str, Any]) -> DbtRun:
    """An object without what would only fill memory: kubectl's copy of it (managedFields are never read).

    Raises:
        UnreadableObject: as `watcher.api.parse`.
    """
    run = parse(body)
    if LAST_APPLIED not in run.metadata.annotations:
        return run
    kept = {key: value for key, value in run.metadata.annotations.items() if key != LAST_APPLIED}
    return msgspec.structs.replace(run, metadata=msgspec.structs.replace(run.metadata, annotations=kept))


def version(resource_version: str) -> int | None:
    """A resourceVersion as a number that can be ordered, as Kubernetes documents them; else None.

    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
    """
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else None


class Mirror:
    """uid → DbtRun. Pure: no I/O, one thread."""

    def __init__(self) -> None:
        self._runs: dict[str, DbtRun] = {}
        self._unreadable: dict[str, Unreadable] = {}
        self._uids: dict[tuple[str, str], str] = {}
        self._dead: dict[str, None] = {}
        self.on_record: Callable[[DbtRun], None] = lambda _run: None
        """Told of every new answer to our own writes: the watch then owes us the same."""

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[DbtRun]:
        """All readable runs, as they are now; the mirror may change meanwhile."""
        return iter(tuple(self._runs.values()))

    def __contains__(self, uid: object) -> bool:
        return uid in self._runs or uid in self._unreadable

    def get(self, uid: str) -> DbtRun | None:
        """The newest known version."""
        return self._runs.get(uid)

    def find(self, namespace: str, name: str) -> DbtRun | None:
        """The run that has this name now."""
        return self._runs.get(self._uids.get((namespace, name), ""))

    def unreadable(self, uid: str) -> Unreadable | None:
        """What is wrong with an object that cannot be read, if it is one."""
        return self._unreadable.get(uid)

    @property
    def all_unreadable(self) -> tuple[Unreadable, ...]:
        """Every object that cannot be read."""
        return tuple(self._unreadable.values())

    def uids(self, namespace: str | None = None) -> frozenset[str]:
        """What is known in a namespace, or everywhere, readable or not."""
        if namespace is None:
            return frozenset(self._runs) | frozenset(self._unreadable)
        return frozenset(uid for (place, _), uid in self._uids.items() if place == namespace)

    def apply(self, event_type: str | None, body: Mapping[str, Any]) -> str | None:
        """Takes a watch event, or an item of a list (type None).

        Returns:
            The uid of which something new is known (or that it is gone), or None when this was known already.
        """
        uid = str(body["metadata"]["uid"])
        if event_type == "DELETED":
            return uid if self.forget(uid) else None
        if not self._news(uid, str(body["metadata"]["resourceVersion"])):
            return None
        try:
            self._keep(read(body))
        except UnreadableObject as error:
            self._set_aside(body["metadata"], str(error))
        return uid

    def record(self, run: DbtRun) -> bool:
        """Takes the answer to our own write; False when something newer is known already."""
        if not self._news(run.uid, run.metadata.resource_version):
            return False
        self._keep(run)
        self.on_record(run)
        return True

    def forget(self, uid: str) -> bool:
        """The object is gone for good (a uid never comes back); False when that is no news."""
        if uid in self._dead:
            return False
        self._dead[uid] = None
        if len(self._dead) > REMEMBERED_DEAD:
            del self._dead[next(iter(self._dead))]
        gone = self._drop(uid)
        return gone is not None

    def prune(self, known: Collection[str], listed: Collection[str]) -> frozenset[str]:
        """Forgets what was known before a list began and is not on it: its deletion was missed.

        Args:
            known: `uids` of the listed scope, taken before the list was asked for. What came later stays.
            listed: the uids on the complete list.

        Returns:
            The uids that are gone.
        """
        return frozenset(uid for uid in frozenset(known) - frozenset(listed) if self.forget(uid))

    def dead(self, uid: str) -> bool:
        """Whether the object is known to be deleted."""
        return uid in self._dead

    def resource_version(self, uid: str) -> str | None:
        """The version that is known, readable or not."""
        if run := self._runs.get(uid):
            return run.metadata.resource_version
        aside = self._unreadable.get(uid)
        return aside.resource_version if aside else None

    def _news(self, uid: str, resource_version: str) -> bool:
        if uid in self._dead:
            return False
        known = self.resource_version(uid)
        if known is None:
            return True
        old, new = version(known), version(resource_version)
        if old is None or new is None:  # cannot be ordered: what arrives last is believed
            return known != resource_version
        return new > old

    def _keep(self, run: DbtRun) -> None:
        self._unreadable.pop(run.uid, None)
        self._runs[run.uid] = run
        self._uids[run.metadata.namespace, run.metadata.name] = run.uid

    def _set_aside(self, metadata: Mapping[str, Any], message: str) -> None:
        self._drop(metadata["uid"])
        aside = Unreadable(
            uid=metadata["uid"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            resource_version=metadata["resourceVersion"],
            message=message,
        )
        self._unreadable[aside.uid] = aside
        self._uids[aside.namespace, aside.name] = aside.uid

    def _drop(self, uid: str) -> tuple[str, str] | None:
        if run := self._runs.pop(uid, None):
            place = run.metadata.namespace, run.metadata.name
        elif aside := self._unreadable.pop(uid, None):
            place = aside.namespace, aside.name
        else:
            return None
        if self._uids.get(place) == uid:  # the name may belong to a successor already
            del self._uids[place]
        return place
