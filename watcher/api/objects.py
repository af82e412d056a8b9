"""A DbtRun as the API server stores it, read into types and written back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from watcher.api.spec import DeletionPolicy, Fields, Spec
from watcher.api.status import Status


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


class DbtRun(Fields, frozen=True, kw_only=True):
    """One dbt Cloud run as a Kubernetes object."""

    metadata: Metadata
    spec: Spec
    status: Status = Status()

    def __str__(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def uid(self) -> str:
        """The identity that survives no re-creation: what a run is marked with."""
        return self.metadata.uid

    @property
    def deleting(self) -> bool:
        """Whether somebody deleted the object and only finalizers keep it."""
        return self.metadata.deletion_timestamp is not None

    @property
    def cancels_on_deletion(self) -> bool:
        """Whether deleting the object cancels its run: by default only a run that the object started itself."""
        if self.spec.deletion_policy is not None:
            return self.spec.deletion_policy is DeletionPolicy.CANCEL
        attempt = self.status.attempt
        return not (self.spec.adopts or (attempt is not None and attempt.adopted))


class UnreadableObject(ValueError):
    """The object is not what the CRD allows: an older CRD is installed, or somebody forged its status."""


def parse(body: Mapping[str, Any]) -> DbtRun:
    """Reads an object as the API server sends it.

    Raises:
        UnreadableObject: a field has a type or value that the API does not have; the message names its path.
    """
    try:
        return msgspec.convert(body, DbtRun)
    except msgspec.ValidationError as error:
        raise UnreadableObject(str(error)) from None


def to_wire(value: Fields) -> dict[str, Any]:
    """The plain JSON form of an API value: camelCase, absent where default, times in UTC with a Z."""
    wire = msgspec.to_builtins(value)
    assert isinstance(wire, dict)  # noqa: S101 - a Struct always becomes a dict
    return wire
