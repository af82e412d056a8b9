"""Everything that dbt Cloud, or the way to it, can do wrong while a run is followed, and what its owner then reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import httpx

from dbtrun.api import Reason
from watcher.simulator.faults import (
    AnyEffect,
    Drop,
    Hang,
    Huge,
    IgnoreFilters,
    Latency,
    ListLag,
    RateLimit,
    Redirect,
    Reply,
    Slow,
    Truncate,
    UnknownStatus,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One fault that meets every request until it is over."""

    effect: AnyEffect | None = None
    error: httpx.TransportError | None = None
    """Instead of an effect: what the network says."""
    reason: Reason = Reason.ANSWERING
    """Of the condition `Reachable` while it lasts."""


def _reply(status: int, body: str) -> Outage:
    effect = Reply(status=status, body=body)  # type: ignore[arg-type]
    return Outage(effect=effect, reason=Reason.SERVER_ERROR)


OUTAGES: Final[dict[str, Outage]] = {
    "latency of 20 s": Outage(effect=Latency(seconds=20)),
    "latency of two minutes": Outage(effect=Latency(seconds=120), reason=Reason.UNREACHABLE),
    "hang": Outage(effect=Hang(), reason=Reason.UNREACHABLE),
    "connection refused": Outage(error=httpx.ConnectError("Connection refused"), reason=Reason.UNREACHABLE),
    "connection reset": Outage(error=httpx.ReadError("Connection reset by peer"), reason=Reason.UNREACHABLE),
    "no such host": Outage(error=httpx.ConnectError("Name or service not known"), reason=Reason.UNREACHABLE),
    "wrong TLS certificate": Outage(
        error=httpx.ConnectError("certificate verify failed: Hostname mismatch"), reason=Reason.UNREACHABLE
    ),
    "dropped connection": Outage(effect=Drop(), reason=Reason.UNREACHABLE),
    "429 with Retry-After": Outage(
        effect=RateLimit(cooldown=60, retry_after=True), reason=Reason.RATE_LIMITED
    ),
    "429 without Retry-After": Outage(effect=RateLimit(cooldown=300), reason=Reason.RATE_LIMITED),
    "500 enveloped": _reply(500, "enveloped"),
    "500 bare": _reply(500, "bare"),
    "502 HTML": _reply(502, "html"),
    "503 HTML": _reply(503, "html"),
    "504 HTML": _reply(504, "html"),
    "200 HTML": _reply(200, "html"),
    "200 empty": _reply(200, "empty"),
    "truncated JSON": Outage(effect=Truncate(), reason=Reason.SERVER_ERROR),
    "unknown status code": Outage(effect=UnknownStatus(status=42)),
    "body of 200 MB": Outage(effect=Huge(size=200 * 1024 * 1024), reason=Reason.SERVER_ERROR),
    "slow body": Outage(effect=Slow(chunk=16, seconds=10), reason=Reason.UNREACHABLE),
    "redirect to another host": Outage(
        effect=Redirect(location="https://elsewhere.invalid/"), reason=Reason.UNREACHABLE
    ),
    "list lag": Outage(effect=ListLag(seconds=3600)),
    "ignored pk__in": Outage(effect=IgnoreFilters(filters=["pk__in"])),
    "ignored filters": Outage(effect=IgnoreFilters(filters=["pk__in", "status__in", "finished_at__range"])),
    "401": Outage(effect=Reply(status=401, body="enveloped"), reason=Reason.UNAUTHORIZED),
    "403": Outage(effect=Reply(status=403, body="enveloped"), reason=Reason.FORBIDDEN),
}  # fmt: skip
"""By the names of the rows in docs/reliability.md."""
