"""What can go wrong with a request to dbt Cloud, by meaning: each error is a reason and one sentence for people."""

from __future__ import annotations

from typing import ClassVar, Final

from dbtrun.api import Reason
from dbtrun.values import Instant
from watcher.lifecycle.facts import NotSent, Refused, Submission, Trouble, Undecided

COOL_DOWN: Final = 300.0
"""Seconds of silence after a 429 that names none: dbt Cloud's documented penalty for exceeding the limit."""


class DbtCloudError(Exception):
    """dbt Cloud did not answer as hoped.

    Attributes:
        message: one sentence that never holds the token, nor more of a reply than a short cleaned excerpt.
        retry_after: seconds that dbt Cloud asked us to wait; None if it asked for none.
        not_sent: no byte of the request can have reached dbt Cloud.
        final: dbt Cloud itself said no in its own words: the same request will be refused again, and did nothing.
    """

    reason: ClassVar[Reason] = Reason.SERVER_ERROR

    def __init__(
        self, message: str, *, retry_after: float | None = None, not_sent: bool = False, final: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.not_sent = not_sent
        self.final = final

    def trouble(self, now: Instant, since: Instant | None = None) -> Trouble:
        """The same as a fact, first met at `since` (default: now)."""
        retry_at = None if self.retry_after is None else now.mono + self.retry_after
        return Trouble(reason=self.reason, message=self.message, since=since or now, retry_at=retry_at)


class Unreachable(DbtCloudError):
    """No answer: name, network, TLS, time-out, or a redirect to somewhere else."""

    reason = Reason.UNREACHABLE


class ServerFault(DbtCloudError):
    """An answer that is not dbt Cloud's usual one: a 5xx, a page of a proxy, JSON of an unknown shape."""


class UnknownStatus(ServerFault):
    """A run with a status that this version does not know: never taken for an end."""


class TooLarge(ServerFault):
    """The reply is larger than we read."""


class Surprise(ServerFault):
    """An exception that nobody foresaw, while a reply was read or processed."""


class RateLimited(DbtCloudError):
    """429: everything on the account pauses for `retry_after` seconds."""

    reason = Reason.RATE_LIMITED


class Unauthorized(DbtCloudError):
    """401: the token is wrong, revoked, or of an account without API access."""

    reason = Reason.UNAUTHORIZED


class Forbidden(DbtCloudError):
    """403: the token may not do this, or is another account's."""

    reason = Reason.FORBIDDEN


class NotFound(DbtCloudError):
    """404 in dbt Cloud's own words: there is no such thing, or the token may not see it."""

    reason = Reason.RUN_NOT_FOUND


class JobNotFound(DbtCloudError):
    """No job, or several, of the names asked for; the message says which of the three names."""

    reason = Reason.JOB_NOT_FOUND


class Rejected(DbtCloudError):
    """dbt Cloud refuses the request as it is (400, 405, 409, 422): the message has its words."""

    reason = Reason.SUBMISSION_REJECTED


def submission_of(error: DbtCloudError, now: Instant, not_found: Reason) -> Submission:
    """What a failed start says about whether a run exists: in doubt, it may.

    Args:
        now: when the request failed.
        not_found: what a 404 means for this request.
    """
    # Assumed: the token and the rate limit are checked before a request is carried out, so neither started a run.
    if error.not_sent or isinstance(error, Unauthorized | RateLimited):
        return NotSent(error.trouble(now))
    # Field reports: a start that was answered by 502 or 504, or dropped, has often started its run.
    if not error.final:
        return Undecided(error.message)
    return Refused(not_found if isinstance(error, NotFound) else error.reason, error.message)
