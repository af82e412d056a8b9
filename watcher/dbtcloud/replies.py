"""From an HTTP reply to what was asked for, or to an error by meaning. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from dbtrun.connection.secret import MASK, Token
from dbtrun.text import clean, natural
from dbtrun.values import Instant, http_date
from watcher.dbtcloud import wire
from watcher.dbtcloud.errors import (
    COOL_DOWN,
    DbtCloudError,
    Forbidden,
    NotFound,
    RateLimited,
    Rejected,
    ServerFault,
    Unauthorized,
    Unreachable,
)

MAX_EXCERPT: Final = 200
"""Characters of a reply that a message may quote."""
MAX_DETAILS: Final = 5
"""Fields that a message names as wrong."""
MAX_WAIT: Final = 3600.0
"""Seconds of a Retry-After that we obey: a mistaken one must not silence an account for days."""
OTHERS_WORDS: Final = "not in dbt Cloud's own words"
UNDECODABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)
"""What decoding raises for a body that is not what we know; a RecursionError if it is nested too deep."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Received:
    """One reply, read to its end."""

    request: str
    """What was asked, for messages: "GET /runs/1/ at cloud.getdbt.com"."""
    status: int
    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes | bytearray
    sent: Instant
    clock_offset: timedelta
    token: Token

    def data(self, decoder: msgspec.json.Decoder[T]) -> T:
        """The body of a success in the shape that the decoder knows.

        Raises:
            DbtCloudError: the reply is an error, or nothing that we know.
        """
        if not 200 <= self.status < 300:
            raise self.error()
        try:
            return decoder.decode(self.body)
        except UNDECODABLE:
            words = f"answered {self.status} with something that is not dbt Cloud's JSON ({len(self.body):,} bytes)"
            raise ServerFault(f"{self.request} {words}") from None

    def error(self) -> DbtCloudError:
        """The error that this reply is."""
        if 300 <= self.status < 400:
            try:
                target = urlsplit(self.headers.get("location", "")).hostname
            except ValueError:
                target = None
            where = f"to {clean(target, MAX_EXCERPT)}" if target else "elsewhere on the same host"
            what = f"redirects {where}, which is not followed"
            return Unreachable(self._sentence(what, "is `host` of the connection the right one?"))
        words = _words(self.body)
        final = words is not None
        message = self._sentence(f"answered {self.status}", OTHERS_WORDS if words is None else words)
        # Observed: 405 comes without the envelope, after a redirect from POST to GET: nothing was done.
        if self.status == 405:
            return Rejected(message, final=True)
        if self.status in MEANINGS:
            kind = MEANINGS[self.status]
            if kind is NotFound and not final:
                return ServerFault(message)  # a proxy's page says nothing about dbt Cloud's runs
            return kind(message, retry_after=self._retry_after(), final=final)
        # 408 is a proxy's: the request may have been carried out.
        if 400 <= self.status < 500 and self.status != 408 and final:
            return Rejected(message, final=True)
        return ServerFault(message, retry_after=self._retry_after())

    def _retry_after(self) -> float | None:
        # Documented for the SCIM API only; the Administrative API may send neither.
        value = self.headers.get("retry-after") or self.headers.get("x-rate-limit-retry-after-seconds") or ""
        try:
            # RFC 9110, 10.2.3: seconds or a date.
            seconds: float | None = natural(value.strip())
            if seconds is None:
                seconds = (http_date(value) - self.sent.wall - self.clock_offset).total_seconds()
        except (ValueError, OverflowError):
            return COOL_DOWN if self.status == 429 else None
        return min(max(seconds, 1.0), MAX_WAIT)

    def _sentence(self, what: str, words: str) -> str:
        secret = self.token.reveal()
        safe = clean(" ".join(words.replace(secret, MASK).split()), MAX_EXCERPT)
        return f"{self.request} {what.replace(secret, MASK)}: {safe or 'no message'}"


MEANINGS: Final[dict[int, type[DbtCloudError]]] = {
    # Observed: also of an account without API access ("The API is not accessible to unpaid accounts.").
    401: Unauthorized,
    # Observed: also when the account is not that of the token ("Access denied: Token is not scoped to account.").
    403: Forbidden,
    # Observed: the same words for a missing run and for one that the token may not see.
    404: NotFound,
    429: RateLimited,
}


def _words(body: bytes | bytearray) -> str | None:
    """What dbt Cloud said in its own envelope; None: these may be anybody's words, which are not repeated."""
    try:
        refusal = wire.REFUSAL.decode(body)
        # An envelope that says success is not an error in dbt Cloud's words, whatever the HTTP status.
        if refusal.status.is_success is True:
            return None
        said, fields = [refusal.status.user_message or ""], refusal.data
        # The fields that dbt Cloud calls wrong, as "(cause: required key not provided)".
        if isinstance(fields, dict) and fields:
            encode = msgspec.json.encode
            named = (f"{name}: {why if isinstance(why, str) else encode(why).decode()}" for name, why in fields.items())
            said.append(f"({'; '.join(itertools.islice(named, MAX_DETAILS))})")
        return " ".join(filter(None, said))
    except UNDECODABLE:
        return None
