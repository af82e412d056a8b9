"""Which Kubernetes API, and what can go wrong with it, for code that runs inside Airflow.

Errors are told apart by what a waiter can do about them. The connection itself is in http.py, which is imported when
one is made and not before: its libraries take a third of a second, and every DAG file is parsed again and again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_trigger.per_loop import PerLoop
from dbtrun.api.home import have_a_home
from dbtrun.text import cut

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_trigger.http import Cluster

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_SECONDS: Final = 15.0
MAX_SENTENCE: Final = 500
MAX_QUOTED: Final = 4_096
"""Bytes of an answer that is not one of Kubernetes: enough for a sentence."""
LONGEST_ASKED: Final = 60.0
"""Seconds that a server may ask us to wait: more would be as good as not to ask again."""
QUOTA_SECONDS: Final = 10.0
"""The pause before a ResourceQuota that is used up is tried again."""


class ClusterError(Exception):
    """The API server did not do what was asked. The text is one sentence for people."""


class Denial(ClusterError):
    """It will not be done until somebody changes a permission, credentials, or what is installed."""


class Misconfigured(Denial):
    """The access that was named cannot be used."""


class NotPermitted(Denial):
    """401 or 403."""


class NotInstalled(Denial):
    """The API server does not know DbtRun, or the namespace."""


class NotFound(ClusterError):
    """There is no such object."""


class AlreadyExists(ClusterError):
    """409: there is an object of that name."""


class Conflict(ClusterError):
    """409 of any other reason: the version is stale, or two requests met."""


class Rejected(ClusterError):
    """The object breaks a rule of its schema: asking again cannot help."""


class Expired(ClusterError):
    """410: the version is too old to go on from."""


class Unreachable(ClusterError):
    """No usable answer: network, time-out, overload. Asking again is right.

    `retry_after` is the pause in seconds that the server asked for.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaExceeded(Unreachable):
    """A ResourceQuota of the namespace is used up: there is room again when DbtRuns are deleted."""


@dataclass(frozen=True)
class ClusterConfig:
    """Which cluster, and as whom. Only names of files, no secrets, so that it may be stored with a trigger.

    Raises:
        ValueError: arguments that exclude each other.
    """

    in_cluster: bool | None = None
    config_file: str | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        if self.in_cluster and self.config_file:
            raise ValueError("in_cluster and config_file exclude each other: give one of them")
        if self.context and not self.config_file:
            raise ValueError("cluster_context needs config_file: contexts are in a kubeconfig")


def own_namespace(folder: Path = SERVICE_ACCOUNT) -> str:
    """The pod's own namespace; outside of a pod `default`."""
    try:
        return (folder / "namespace").read_text(encoding="utf-8").strip() or "default"
    except (OSError, ValueError):
        return "default"


class _Details(msgspec.Struct):
    name: str = ""
    kind: str = ""
    retry_after: float = msgspec.field(default=0.0, name="retryAfterSeconds")


class _Failure(msgspec.Struct):
    kind: str = ""
    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details = msgspec.field(default_factory=_Details)


def failure(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> ClusterError:
    """The error that an HTTP status and a Kubernetes `Status` body stand for.

    Without such a body it is not the API server that speaks, but something on the way to it.
    """
    try:
        said = msgspec.json.decode(body, type=_Failure)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        said = _Failure(message=body[:MAX_QUOTED].decode("utf-8", "replace"))
    message = short(said.message) or f"HTTP {status}"
    asked = min(max(said.details.retry_after, _seconds((headers or {}).get("Retry-After"))), LONGEST_ASKED)
    if status == 404 and (headers or {}).get("Audit-Id"):
        # An API server that knows nothing of the group answers in plain text; a proxy may say the same.
        said = msgspec.structs.replace(said, kind="Status")
    if said.kind != "Status":
        return Unreachable(f"HTTP {status}, and not from a Kubernetes API: {message}", asked)
    return _refusal(status, said, message) or Unreachable(f"HTTP {status}: {message}", asked)


def _refusal(status: int, said: _Failure, message: str) -> ClusterError | None:
    match status:
        case 401:
            return NotPermitted(f"Kubernetes does not accept the credentials: {message}")
        case 403 if "exceeded quota:" in message:
            return QuotaExceeded(f"a ResourceQuota of the namespace is used up: {message}", QUOTA_SECONDS)
        case 403:
            return NotPermitted(f"Kubernetes refuses it: {message}")
        case 404 if said.details.kind == "namespaces" or not said.details.name:
            return NotInstalled(
                f"Kubernetes has no DbtRun there; is the chart installed, the namespace right? {message}"
            )
        case 404:
            return NotFound(message)
        case 409:
            return AlreadyExists(message) if said.reason == "AlreadyExists" else Conflict(message)
        case 410:
            return Expired(message)
        case 400 if "strict decoding error" in message:
            return Rejected(f"the installed CRD is older than what Airflow asks for, upgrade it first: {message}")
        case 400 | 413 | 422:
            return Rejected(message)
    return None


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isascii() and header.isdecimal() else 0.0


def short(text: str) -> str:
    """One line, of bounded length."""
    return cut(" ".join(text.split()), MAX_SENTENCE)


def connect(config: ClusterConfig) -> Cluster:
    """A connection to the API server, which is opened by its first request."""
    have_a_home()
    from airflow_trigger.http import Cluster

    return Cluster(config)


async def _close(cluster: Cluster) -> None:
    await cluster.close()


clusters: Final[PerLoop[ClusterConfig, Cluster]] = PerLoop(connect, _close)
"""One Cluster per event loop and configuration: `async with clusters.lease(config) as cluster`."""
