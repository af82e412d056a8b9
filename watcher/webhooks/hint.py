"""What a webhook of dbt Cloud says, and who signed it. Pure.

The signature has no timestamp, so anyone who has seen a webhook can send it again. And what dbt Cloud signs may be late
or out of order. So a webhook is only a hint: the state of a run always comes from dbt Cloud's API.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from dbtrun.connection.secret import Token
from dbtrun.text import natural

MAX_BODY: Final = 64 * 1024
"""Bytes of a body. Those of dbt Cloud have about one kilobyte."""
MAX_ID: Final = 2**63 - 1


class Kind(StrEnum):
    """What a webhook is about."""

    STARTED = "job.run.started"
    COMPLETED = "job.run.completed"
    ERRORED = "job.run.errored"
    OTHER = "other"

    @property
    def ended(self) -> bool:
        """Whether it says that a run has ended."""
        # Documented: a run that fails sends both, `errored` at once and `completed` when its artifacts are there.
        return self in (Kind.COMPLETED, Kind.ERRORED)


KINDS: Final = {kind.value: kind for kind in Kind}


class Malformed(ValueError):
    """It is signed and cannot be read; the message says in a few words why, and quotes nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """Where to look. Each number is that of a run or an account only if dbt Cloud says so when it is asked."""

    key: str
    """The same for each delivery of one event."""
    kind: Kind
    account_id: int | None
    job_id: int | None
    run_id: int | None


class _Data(msgspec.Struct, rename="camel"):
    # Any: a field of an unexpected type counts as missing and does not cost the others.
    run_id: Any = None
    job_id: Any = None


class _Body(msgspec.Struct, rename="camel"):
    event_id: Any = None
    event_type: Any = None
    account_id: Any = None
    data: _Data = msgspec.field(default_factory=_Data)


_DECODER: Final = msgspec.json.Decoder(_Body)


def signed(body: bytes, signature: str, secrets: Sequence[Token]) -> bool:
    """Whether one of the secrets signs exactly these bytes. Without a secret, nothing is signed.

    Args:
        signature: of the header `Authorization`: the HMAC-SHA256 in lower-case hexadecimal digits, and nothing else.
    """
    # As bytes: compare_digest raises TypeError for a str that is not ASCII, and anyone may send any header.
    given = signature.encode("utf-8", "surrogateescape")
    valid = [hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest().encode() for secret in secrets]
    matches = [hmac.compare_digest(one, given) for one in valid]  # each is compared, always
    return any(matches)


def parse(body: bytes) -> Hint:
    """Reads a webhook whose signature was checked. What is missing or no number is None.

    Raises:
        Malformed: it is no webhook, or too long.
    """
    if len(body) > MAX_BODY:
        raise Malformed(f"it has more than {MAX_BODY} bytes")
    try:
        read = _DECODER.decode(body)
    # Two errors of msgspec are not MsgspecErrors: for deep nesting, and for bytes that are not UTF-8.
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise Malformed("it is not the JSON object of a webhook") from None
    event = read.event_type if isinstance(read.event_type, str) else ""
    named = isinstance(read.event_id, str) and read.event_id
    subject = named.encode("utf-8", "surrogatepass") if named else body
    return Hint(
        key=hashlib.sha256(subject).hexdigest()[:32],  # of bounded length, whatever the event's id is
        kind=KINDS.get(event, Kind.OTHER),
        account_id=_number(read.account_id),
        job_id=_number(read.data.job_id),
        run_id=_number(read.data.run_id),
    )


def _number(value: object) -> int | None:
    """dbt Cloud sends ids as strings, and has sent them as numbers."""
    if isinstance(value, str):
        value = natural(value)
    # JSON's `true` would be number 1.
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 < value <= MAX_ID else None
