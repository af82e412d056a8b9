"""What can go wrong with a request to the API server, by what the caller can do about it.

    KubeError
    ├── Unreachable      no usable answer: try again, after `retry_after` seconds
    │   ├── TooLarge         the answer is longer than what is read
    │   └── QuotaExceeded    a ResourceQuota is used up
    ├── Denial           refused until somebody changes a permission, credentials, or what is installed
    │   ├── Misconfigured    the kubeconfig or the ServiceAccount cannot be used
    │   ├── Unauthorized     401, also with renewed credentials
    │   ├── Forbidden        403
    │   ├── NotInstalled     the resource or the namespace does not exist
    │   └── Unreadable       the object is of another version of the API
    ├── NotFound         404: no such object
    ├── AlreadyExists    409: the name is taken
    ├── Conflict         409: the object is not at the version that was acted upon
    ├── Rejected         the request breaks a rule: repeating it does not help
    └── Expired          410: the version, or the list's continue token, is too old

Without a `Status` body it is not the API server that answers, but something on the way to it, as a proxy or a login
page. Nothing follows from such an answer about the object: it is `Unreachable` whatever its HTTP status.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import msgspec

from dbtrun.text import cut, natural

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SENTENCE: Final = 500
MAX_QUOTED: Final = 4_096
"""Bytes of an answer that does not come from Kubernetes: enough for a sentence."""
LONGEST_ASKED: Final = 60.0
"""The longest pause in seconds that a server may ask for: a longer one would be as good as not to ask again."""
QUOTA_SECONDS: Final = 10.0
"""The pause before a ResourceQuota that is used up is tried again."""
UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""Whatever bytes make msgspec raise."""


class KubeError(Exception):
    """The API server did not do what was asked. The text is one sentence for people.

    `retry_after` is the pause in seconds that the server asked for.
    """

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unreachable(KubeError):
    """No usable answer: network, time-out, overload. Trying again is right.

    A write may have happened all the same: read the object before the write is repeated.
    """


class TooLarge(Unreachable):
    """The answer is longer than what is read of one: ask for less at once."""


class QuotaExceeded(Unreachable):
    """A ResourceQuota of the namespace is used up: there is room again when objects are deleted."""


class Denial(KubeError):
    """It will not be done until somebody changes a permission, credentials, or what is installed."""


class Misconfigured(Denial):
    """The kubeconfig or the ServiceAccount cannot be used."""


class Unauthorized(Denial):
    """401: the credentials are not accepted, also after they were read again."""


class Forbidden(Denial):
    """403: RBAC does not allow it; the message is the server's and names verb, resource and namespace."""


class NotInstalled(Denial):
    """The API server does not know the resource or the namespace. It may also still be starting."""


class Unreadable(Denial):
    """The object is not what the API allows: another version of its CRD is installed."""


class NotFound(KubeError):
    """404: there is no such object."""


class AlreadyExists(KubeError):
    """409: there is an object of that name."""


class Conflict(KubeError):
    """409 for any other reason: the object is not at the version that was acted upon, or two requests met.

    Nothing was written.
    """


class Rejected(KubeError):
    """The request breaks a rule, as one of the object's schema: repeating it does not help."""


class Expired(KubeError):
    """410: the version, or a list's continue token, is too old to go on from."""


class _Details(msgspec.Struct):
    name: str = ""
    kind: str = ""
    retry_after: float = msgspec.field(default=0.0, name="retryAfterSeconds")


class _Status(msgspec.Struct):
    """The part of metav1.Status that decides something."""

    kind: str = ""
    message: str = ""
    reason: str = ""
    details: _Details | None = None


def failure(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> KubeError:
    """The error that an HTTP status of 400 or more, with its body, stands for."""
    headers = headers or {}
    try:
        said = msgspec.json.decode(body, type=_Status)
    except UNREADABLE:
        said = _Status(message=body[:MAX_QUOTED].decode("utf-8", "replace"))
    details = said.details or _Details()
    message = short(said.message) or f"HTTP {status}"
    seconds = natural(headers.get("Retry-After", "")) or 0  # a proxy may send a date, which is not read
    asked = min(max(details.retry_after, seconds), LONGEST_ASKED)
    # An API server that does not know the group answers in plain text, as a proxy may do. Only the API server audits.
    unknown = status == HTTPStatus.NOT_FOUND and bool(headers.get("Audit-Id"))
    if said.kind != "Status" and not unknown:
        return Unreachable(f"HTTP {status}, and not from a Kubernetes API: {message}", asked)
    return _refusal(status, said.reason, details, message) or Unreachable(f"HTTP {status}: {message}", asked)


def _refusal(status: int, reason: str, details: _Details, message: str) -> KubeError | None:
    match status:
        case 401:
            return Unauthorized(f"Kubernetes does not accept the credentials: {message}")
        # Observed: a ResourceQuota refuses with the status of RBAC, and only the words differ.
        case 403 if "exceeded quota:" in message:
            return QuotaExceeded(f"a ResourceQuota of the namespace is used up: {message}", QUOTA_SECONDS)
        case 403:
            return Forbidden(f"Kubernetes refuses it: {message}")
        # The API server names an object that is missing. Without a name, it is the resource that it does not know.
        case 404 if details.kind == "namespaces" or not details.name:
            return NotInstalled(
                "Kubernetes has no such resource or namespace; is the chart installed, and is the namespace right?"
                f" {message}"
            )
        case 404:
            return NotFound(message)
        case 409:
            return AlreadyExists(message) if reason == "AlreadyExists" else Conflict(message)
        case 410:
            return Expired(message)
        # The API server has no reason of its own for this, only the words.
        case 400 if "strict decoding error" in message:
            return Rejected(f"the installed CRD is older than this release, upgrade it first: {message}")
        case 400 | 405 | 406 | 413 | 415 | 422:
            return Rejected(message)
    return None


def short(text: str) -> str:
    """One line, of bounded length."""
    return cut(" ".join(text.split()), MAX_SENTENCE)
