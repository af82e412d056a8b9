"""Answers of the API server, read one way everywhere.

What stands between Airflow and the API server may answer in its place: a proxy with a page of HTML, half of a JSON, a
list of another kind. That is a fault of the network, `Unreachable`, and asking again is right. Only a whole DbtRun that
does not have the fields of this version is `Unreadable`. One such object never hides the others of a list.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from airflow_trigger.cluster import Conflict, Denial, Unreachable, short
from dbtrun.api import GROUP, KIND

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")
log = logging.getLogger(__name__)

STRICT: Final = {"fieldValidation": "Strict"}
"""A field that the installed CRD does not know is refused; else the API server would drop it in silence."""
TROUBLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""Whatever bytes make msgspec raise."""


class Unreadable(Denial):
    """The object is not what the API allows: another version of its CRD is installed."""


class Requests(Protocol):
    """What is needed of a cluster. Raises ClusterError of the kind that says what can be done."""

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> bytes: ...


class _Kind(msgspec.Struct, rename="camel"):
    kind: str = ""
    api_version: str = ""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    metadata: _ListMeta


_KIND = msgspec.json.Decoder(_Kind)
_PAGE = msgspec.json.Decoder(_Page)


def decoded(answer: bytes | bytearray | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """What `decoder` makes of it.

    Raises:
        Unreachable: it is not of that shape.
    """
    try:
        return decoder.decode(answer)
    except TROUBLE as error:
        raise Unreachable(f"the answer is not one of a Kubernetes API: {short(str(error))}") from None


def one(answer: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    """A DbtRun.

    Raises:
        Unreadable: it is one, and of another version.
        Unreachable: it is none.
    """
    try:
        return decoder.decode(answer)
    except TROUBLE as error:
        kind = decoded(answer, _KIND)
        problem = short(str(error))
    if kind.kind == KIND and kind.api_version.partition("/")[0] == GROUP:
        raise Unreadable(f"The DbtRun cannot be read: {problem}; is the chart's CRD of another version?")
    raise Unreachable(f"the answer is no DbtRun: {problem}")


def known(version: str) -> str:
    """A resourceVersion that can be compared.

    Raises:
        Unreachable: it is no number.
    """
    if not (version.isascii() and version.isdecimal()):
        raise Unreachable(f"the answer is not one of a Kubernetes API: resourceVersion {short(version)!r}")
    return version


async def everything(
    requests: Requests, path: str, query: Mapping[str, str], decoder: msgspec.json.Decoder[T]
) -> tuple[list[T], str]:
    """All objects of a list, page by page, and the version of the list. What cannot be read is left out.

    Raises:
        Expired: it took so long that the server forgot the version of the first page.
        ClusterError: as of a request.
    """
    found: list[T] = []
    left_out: list[str] = []
    asked = dict(query)
    while True:
        page = decoded(await requests.request("GET", path, query=asked), _PAGE)
        for item in page.items:
            try:
                found.append(decoder.decode(item))
            except TROUBLE as error:
                left_out.append(short(str(error)))
        if not page.metadata.continue_:
            break
        asked["continue"] = page.metadata.continue_
    if left_out:
        log.warning("%d DbtRuns cannot be read and are left out, the first because: %s", len(left_out), left_out[0])
    return found, page.metadata.resource_version


async def create(requests: Requests, path: str, body: Mapping[str, Any]) -> bytes:
    """The answer to a POST.

    Raises:
        AlreadyExists: the name is taken.
        Rejected: the object breaks a rule, or has a field that the installed CRD does not know.
        Unreachable: also when the server was in the middle of something else, as counting a ResourceQuota.
    """
    try:
        return await requests.request("POST", path, query=STRICT, body=body)
    except Conflict as error:
        raise Unreachable(str(error)) from error
