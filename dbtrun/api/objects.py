"""A DbtRun as the API server stores it, read into types and written back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from typing import Any, Final

import msgspec

from dbtrun.api.names import MARKER_PREFIX, MIRROR_LABEL, RESTORED_LABEL, START_COPY_ANNOTATION, UID_ANNOTATION
from dbtrun.api.spec import DeletionPolicy, Fields, Spec
from dbtrun.api.status import Attempt, Status


class Metadata(Fields, frozen=True, kw_only=True):
    """The part of ObjectMeta that decides something here."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    generation: int = 1
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class Object(Fields, frozen=True, kw_only=True):
    """What every kind has."""

    metadata: Metadata

    def __str__(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def uid(self) -> str:
        """The identity that survives no re-creation."""
        return self.metadata.uid

    @property
    def deleting(self) -> bool:
        """Whether somebody deleted the object and only finalizers keep it."""
        return self.metadata.deletion_timestamp is not None


class DbtRun(Object, frozen=True, kw_only=True):
    """One dbt Cloud run as a Kubernetes object. Its uid is what a run is marked with."""

    spec: Spec
    status: Status = Status()
    unread: tuple[str, ...] = ()
    """Fields of the stored status that do not read as written here: what could not be read is left out of `status`."""

    @property
    def copied(self) -> bool:
        """Whether it is a copy of an object that was taken on before: restored, or made from what kubectl printed."""
        taken_on = self.metadata.annotations.get(UID_ANNOTATION)
        if taken_on is not None:
            return taken_on != self.uid
        # A copy that somebody let start has attempts of its own, too, and goes on like any other object.
        foreign = [self.is_foreign(attempt) for attempt in self.status.attempts if attempt.marker]
        return all(foreign) if foreign else RESTORED_LABEL in self.metadata.labels

    @property
    def mirrored(self) -> bool:
        """Whether a DbtRunMirror has created it for a run that somebody else has started."""
        return self.spec.adopts and MIRROR_LABEL in self.metadata.labels

    @property
    def owes_cancel(self) -> bool:
        """Whether its deletion has something to wait for. A mirrored object only shows its run."""
        return not self.mirrored or self.cancels_on_deletion

    @property
    def may_start(self) -> bool:
        """Whether it may start runs: a copy only if somebody said so."""
        return not self.copied or self.metadata.annotations.get(START_COPY_ANNOTATION) == self.uid

    @property
    def unmarked(self) -> dict[str, str]:
        """The annotations that it lacks to be known by when it is copied: none that is one itself."""
        marked = UID_ANNOTATION in self.metadata.annotations or self.copied
        return {} if marked else {UID_ANNOTATION: self.uid}

    def is_foreign(self, attempt: Attempt) -> bool:
        """Whether the attempt was made by the object of which this is a copy."""
        return bool(attempt.marker) and not attempt.marker.startswith(f"{MARKER_PREFIX}{self.uid}/")

    @property
    def cancels_on_deletion(self) -> bool:
        """Whether deleting the object cancels its run: by default only a run that the object started itself."""
        if self.spec.deletion_policy is not None:
            return self.spec.deletion_policy is DeletionPolicy.CANCEL
        attempt = self.status.attempt
        theirs = attempt is not None and (attempt.adopted or self.is_foreign(attempt))
        return not (self.spec.adopts or theirs or not self.may_start)


class UnreadableObject(ValueError):
    """The object is not what the CRD allows: another CRD is installed."""


STATUS_PATH: Final = re.compile(r" - at `\$\.status((?:\.\w+|\[\d+\])+)`$")
MAX_UNREAD: Final = 500
"""Pieces of a status that are left out before the object counts as unreadable: more than a forged one has."""


def parse(body: Mapping[str, Any]) -> DbtRun:
    """Reads an object as the API server sends it.

    The CRD lets a status say what no watcher of this version writes (a reason of another version, a time in the year
    0): a forged status or a rollback must not make the object unreadable.

    Raises:
        UnreadableObject: a field has a type or value that the API does not have; the message names its path.
    """
    try:
        return msgspec.convert(body, DbtRun)
    except msgspec.ValidationError as error:
        # A copy: pieces are taken out below, and kopf hands the same body to others.
        return _without_unreadable(deepcopy(dict(body)), error)


def _without_unreadable(body: dict[str, Any], error: msgspec.ValidationError) -> DbtRun:
    unread = set()
    for _ in range(MAX_UNREAD):
        found = STATUS_PATH.search(str(error))
        if found is None:
            break
        place = re.findall(r"\w+", found[1])
        if place[-1] == "phase":
            # Only a CRD of a newer release takes one. Without it, an object that has ended would be new.
            raise UnreadableObject(f"its status has a phase that this release does not know, at status{found[1]}")
        holder = body["status"]
        for part in place[:-1]:
            holder = holder[int(part) if isinstance(holder, list) else part]
        del holder[int(place[-1]) if isinstance(holder, list) else place[-1]]
        unread.add(place[0])
        try:
            return msgspec.structs.replace(msgspec.convert(body, DbtRun), unread=tuple(sorted(unread)))
        except msgspec.ValidationError as another:
            error = another
    raise UnreadableObject(str(error)) from None


def to_wire(value: Fields) -> dict[str, Any]:
    """The plain JSON form of an API value: camelCase, absent where default, times in UTC with a Z."""
    wire = msgspec.to_builtins(value)
    assert isinstance(wire, dict)  # noqa: S101 - a Struct always becomes a dict
    return wire
