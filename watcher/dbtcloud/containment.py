"""Whatever goes wrong with a connection is that connection's trouble: one place around each poll, question and start.

A Secret's host makes a tenant "dbt Cloud", so every answer is hostile input to a process that all tenants share. An
exception that nobody foresaw becomes a DbtCloudError here, like the ones that were.
"""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from dbtrun.api import Reason
from dbtrun.connection.secret import MASK, Connection
from watcher.dbtcloud.errors import DbtCloudError, Surprise

OF_THE_CONNECTION: Final = frozenset(
    {Reason.UNREACHABLE, Reason.SERVER_ERROR, Reason.RATE_LIMITED, Reason.UNAUTHORIZED, Reason.FORBIDDEN}
)
"""Reasons that are logged. Any other is about one object, and is in its status."""
REPEAT_SECONDS: Final = 300.0
"""Between two log lines about the same reason on a connection that answers now and then."""
MAX_KINDS: Final = 50
"""Tracebacks that one connection may put into the log."""
MAX_NAMED: Final = 10
"""Objects that a log line names; it also says how many there are."""

log = logging.getLogger(__name__)


class Containment:
    """Turns whatever goes wrong with one connection into a DbtCloudError, and reports it.

    Args:
        objects: names of the objects that use the connection, for the log.
        mono: monotonic seconds.
        count: called with the reason of each fault.
    """

    def __init__(
        self,
        connection: Connection,
        objects: Callable[[], Iterable[str]],
        mono: Callable[[], float],
        count: Callable[[Reason], object] = lambda _reason: None,
    ) -> None:
        self._connection = connection
        self._objects = objects
        self._mono = mono
        self._count = count
        self._reported: dict[Reason, float] = {}
        self._kinds: set[tuple[str, str]] = set()
        self._told: Reason | None = None
        self.reason: Reason | None = None
        """Of the last fault; None: the connection answers, or was not asked yet."""

    @contextmanager
    def contain(self, what: str) -> Iterator[None]:
        """As `surprises`, and judges the connection by how it ends.

        Args:
            what: is being done, for the log: "poll", "start".
        """
        try:
            with self.surprises(what):
                yield
        except DbtCloudError as error:
            self.report(error.reason, error.message)
            raise
        self.reason = None
        if self._told is not None:
            self._told = None
            log.info("dbt Cloud can be used again.", extra=self._extra())

    @contextmanager
    def surprises(self, what: str) -> Iterator[None]:
        """Lets nothing out but DbtCloudError and the cancellation of the caller's own task."""
        try:
            yield
        except DbtCloudError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            # A CancelledError that nobody asked for comes from within a library. It would end the poller as if the
            # process was being stopped, and with it the polls of every object of the connection.
            if isinstance(error, asyncio.CancelledError) and being_ended():
                raise
            self._log_once(what, error)
            raise Surprise(
                f"The reply of {self._connection.host} could not be processed ({type(error).__name__}); "
                "the watcher's log has the details"
            ) from None

    def report(self, reason: Reason, message: str) -> None:
        """Counts a fault, and logs it with the connection and its objects: once, until the reason changes."""
        if reason not in OF_THE_CONNECTION:
            return
        self.reason = reason
        self._count(reason)
        now = self._mono()
        if self._told is reason or now - self._reported.get(reason, -math.inf) < REPEAT_SECONDS:
            return
        self._reported[reason], self._told = now, reason
        log.warning("dbt Cloud cannot be used: %s", message, extra=self._extra(reason=reason.value))

    def _log_once(self, what: str, error: BaseException) -> None:
        """Writes the traceback the first time that this kind of exception comes from this line."""
        frames = traceback.extract_tb(error.__traceback__)
        # By the place, not by the message: a hostile reply could make a new message each time.
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        kind = (type(error).__qualname__, place)
        if kind in self._kinds or len(self._kinds) >= MAX_KINDS:
            return
        self._kinds.add(kind)
        # An exception may quote the request, whose headers have the token.
        told = "".join(traceback.format_exception(error)).replace(self._connection.token.reveal(), MASK)
        log.error(
            "A %s failed with an unexpected %s. Other connections are not affected.",
            what,
            type(error).__name__,
            extra=self._extra(trace=told),
        )

    def _extra(self, **more: str) -> dict[str, object]:
        objects = sorted(self._objects())
        named = objects[:MAX_NAMED]
        return {"connection": str(self._connection), "objects": named, "object_count": len(objects), **more}


def being_ended() -> bool:
    """Whether the current task was cancelled from outside, and not just something within it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
