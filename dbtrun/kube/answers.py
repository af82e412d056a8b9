"""Answers of the API server, decoded in one way everywhere.

What stands between the caller and the API server may answer in its place: a proxy with a page of HTML, half of a JSON,
an object of another kind. That is a fault of the network, `Unreachable`, and asking again is right. Only a whole DbtRun
that does not have the fields of this version is `Unreadable`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

import msgspec

from dbtrun.api import GROUP, KIND
from dbtrun.kube.errors import UNREADABLE, Unreachable, Unreadable, short
from dbtrun.text import natural

T = TypeVar("T")

Read = Callable[[bytes | msgspec.Raw], T]
"""Makes an object of its JSON. Raises one of `errors.UNREADABLE` where it is not one."""
JSON: Final = "application/json"
FOREIGN: Final = "the answer is not one of a Kubernetes API"

_decoder = cache(msgspec.json.Decoder)


class _Kind(msgspec.Struct, rename="camel"):
    kind: str = ""
    api_version: str = ""


def decode(answer: bytes | bytearray | msgspec.Raw, kind: type[T]) -> T:
    """An answer as `kind`.

    Raises:
        Unreachable: it is not of that shape.
    """
    hashable: Any = kind  # which mypy does not know of a type[T]
    try:
        decoded: T = _decoder(hashable).decode(answer)
    except UNREADABLE as error:
        raise Unreachable(f"{FOREIGN}: {short(str(error))}") from None
    return decoded


def one(answer: bytes | msgspec.Raw, read: Read[T], wanted: str = KIND) -> T:
    """A DbtRun, or an object of another kind of ours.

    Raises:
        Unreadable: it is one, and of another version.
        Unreachable: it is not one.
    """
    kind = decode(answer, _Kind)
    # By the group alone: an object of another version is ours, too, and Unreadable.
    is_ours = kind.kind == wanted and kind.api_version.partition("/")[0] == GROUP
    if kind.kind and not is_ours:
        raise Unreachable(f"the answer is not a {wanted}: {short(kind.api_version)} {short(kind.kind)}")
    try:
        return read(answer)
    except UNREADABLE as error:
        problem = short(str(error))
    if is_ours:
        raise Unreadable(f"The {wanted} cannot be read: {problem}; is the chart's CRD of another version?")
    raise Unreachable(f"the answer is not a {wanted}: {problem}")


def comparable(version: str) -> str:
    """A resourceVersion that can be compared.

    Raises:
        Unreachable: it is not a number.
    """
    if natural(version) is None:
        raise Unreachable(f"{FOREIGN}: resourceVersion {short(version)!r}")
    return version
