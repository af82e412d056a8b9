"""What the trigger reads of a DbtRun, and the states that a waiter gets.

A triggerer decodes every change of every DbtRun in a namespace, so only the fields that an event needs are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec

from dbtrun.api import FINAL_PHASES, DeletionPolicy
from dbtrun.api.views import Condition, Reference, View
from dbtrun.text import natural

PREFIX: Final = "airflow.dbtrun.dev"
"""Of the labels and annotations that a task writes on its objects."""
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost"})
"""Names of this machine, where the simulator runs."""
MAX_LINK: Final = 2_000
_HOST: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?")
# A browser reads a backslash as a slash. The others could end the attribute of a page that shows the link.
_ODD: Final = frozenset(" \\\"'<>`")


UNREACHABLE: Final = ("Reachable", "False")


class Meta(View, frozen=True, kw_only=True):
    """Identity and version. The version is comparable as a number within one resource."""

    name: str
    uid: str
    resource_version: str
    deletion_timestamp: str | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if natural(self.resource_version) is None:
            raise ValueError("metadata.resourceVersion is not a number")

    @property
    def version(self) -> int:
        """The resourceVersion as a number: Kubernetes documents it as one that grows."""
        return int(self.resource_version)


class RunSpec(View, frozen=True, kw_only=True):
    """The part of `spec` that decides which run this is and what a deletion does to it."""

    connection_ref: Reference | None = None
    account_id: int | None = None
    run_id: int | None = None
    deletion_policy: str | None = None

    @property
    def cancels_on_deletion(self) -> bool:
        """As in the API: by default only a run that the object started."""
        if self.deletion_policy is None:
            return self.run_id is None
        return self.deletion_policy == DeletionPolicy.CANCEL


class Results(View, frozen=True, kw_only=True):
    """How many nodes ended in which status."""

    counts: dict[str, int] = msgspec.field(default_factory=dict)


class RunStatus(View, frozen=True, kw_only=True):
    """The part of `status` that an event contains."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    account_id: int | None = None
    job_id: int | None = None
    environment_id: int | None = None
    run_id: int | None = None
    url: str | None = None
    start_time: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    completion_time: datetime | None = None
    results: Results = Results()
    conditions: tuple[Condition, ...] = ()
    """Of all conditions, Reachable alone, and only while it is False: thousands of these objects are in memory."""

    def __post_init__(self) -> None:
        kept = tuple(each for each in self.conditions if (each.type, each.status) == UNREACHABLE)
        msgspec.structs.force_setattr(self, "conditions", kept)

    @property
    def link(self) -> str | None:
        """The address, if a person can open it without being led astray."""
        return safe_link(self.url)


class Run(View, frozen=True, kw_only=True):
    """One DbtRun as far as a waiter cares."""

    metadata: Meta
    spec: RunSpec
    status: RunStatus = RunStatus()

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self.status.phase in FINAL_PHASES

    @property
    def deleting(self) -> bool:
        """Whether somebody deleted the object and only finalizers keep it."""
        return self.metadata.deletion_timestamp is not None

    def tells_the_same_as(self, other: Run) -> bool:
        """Whether only things differ that no waiter reads: most writes to a live run are its progress."""
        return (
            self.metadata.uid == other.metadata.uid
            and self.deleting == other.deleting
            and self.status == other.status
            and self.spec == other.spec
        )

    @property
    def run_id(self) -> int | None:
        """The dbt Cloud run, as soon as it is known."""
        return self.status.run_id or self.spec.run_id


def safe_link(url: str | None) -> str | None:
    """`url` if it is what dbt Cloud's are: https, a host that is what it looks like, nothing that hides another.

    The simulator's are http, on this machine alone.
    """
    if not isinstance(url, str) or len(url) > MAX_LINK or not url.isascii() or not url.isprintable():
        return None
    try:
        parts = urlsplit(url)
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        # All of it must be a host: `https://host@other/` leads to the other one.
        plain = secure and _HOST.fullmatch(parts.netloc) is not None
    except ValueError:
        return None
    return url if plain and not set(url) & _ODD else None


@dataclass(frozen=True, slots=True)
class Seen:
    """The object as it is now."""

    run: Run


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such object. `last` is what it was when it was there, if it ever was seen."""

    last: Run | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """Nothing can be seen until somebody mends the permission, the credentials or the installation it names."""

    message: str


State = Seen | Gone | Denied
