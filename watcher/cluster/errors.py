"""What the API server can answer instead of doing it, by what the caller has to do next."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, TypeVar

import msgspec

MAX_WORDS: Final = 300
"""Characters of the server's own words that are kept: a proxy in between may answer with a page of HTML."""


class ApiTrouble(Exception):
    """It did not work now and may later. A write may have happened all the same: read again before repeating it."""


class Refused(ApiTrouble):
    """The server understood and will not do it: repeating alone does not help."""


class Forbidden(Refused):
    """RBAC does not allow it; the message is the server's and names verb, resource and namespace."""


class NotServed(ApiTrouble):
    """The server does not know the resource: its CRD is not installed, or the server is still starting."""


class Expired(ApiTrouble):
    """A list's continue token is too old: begin the list again."""


class Conflict(Exception):
    """The object is not at the version that was acted upon. Nothing was written: look again."""


class Gone(Exception):
    """The object does not exist (any more)."""


class _Details(msgspec.Struct):
    name: str = ""


class _Refusal(msgspec.Struct):
    """The part of metav1.Status that decides something."""

    reason: str = ""
    message: str = ""
    details: _Details | None = None


T = TypeVar("T")


def decode(answer: bytes, kind: type[T]) -> T:
    """A body of the API server, typed.

    Raises:
        ApiTrouble: it is something else, as a proxy in between may send.
    """
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiTrouble(f"The API server sent something unreadable: {error}.") from error


def refusal(status: int, body: bytes) -> Exception:
    """The error that an HTTP status of 400 or more stands for."""
    said = _read(body)
    words = said.message or f"HTTP {status}"
    match status:
        case HTTPStatus.NOT_FOUND if said.details and said.details.name:
            return Gone(words)
        case HTTPStatus.NOT_FOUND:
            return NotServed(words)
        case HTTPStatus.CONFLICT:
            return Conflict(words)
        case HTTPStatus.FORBIDDEN:
            return Forbidden(words)
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.REQUEST_TIMEOUT:
            return ApiTrouble(words)
        case HTTPStatus.GONE:
            return Expired(words)
        case _ if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return Refused(words)
    return ApiTrouble(words)


def _read(body: bytes) -> _Refusal:
    try:
        said = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Refusal(message=body[:MAX_WORDS].decode(errors="replace").strip())
    said.message = said.message[:MAX_WORDS]
    return said
