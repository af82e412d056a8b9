"""What a request to dbt Cloud was for and how it ended, in a few words: what is counted of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from watcher.dbtcloud.budget import Priority
from watcher.dbtcloud.errors import DbtCloudError, Unreachable

KINDS: Final = (
    ("POST", r"jobs/\d+/run/", "start"),
    ("POST", r"runs/\d+/cancel/", "cancel"),
    ("POST", r"runs/\d+/retry/", "retry"),
    ("GET", r"runs/", "list_runs"),
    ("GET", r"runs/\d+/", "get_run"),
    ("GET", r"runs/\d+/artifacts/.*", "get_file"),
    ("GET", r"jobs/\d+/", "get_job"),
    ("GET", r"(jobs|projects|environments|projects/\d+/environments)/", "find_job"),
    ("GET", r"webhooks/subscriptions", "list_webhooks"),
    ("PUT", r"webhooks/subscription/[^/]+", "activate_webhook"),
    ("GET", r"", "get_account"),
)
"""Method, path below the account, and the word."""
OTHER: Final = "other"

OUTCOMES: Final = {401: "unauthorized", 403: "forbidden", 404: "not_found", 429: "rate_limited"}


class Sent(NamedTuple):
    """A request that has come to an end."""

    kind: str
    outcome: str
    """As `outcome_of` or `fault_of` say."""
    purpose: str
    """The priority that it had in the account's budget."""
    seconds: float
    """From sending it to the last byte of the reply, or to the fault."""


Observe = Callable[[Sent], object]


def kind_of(method: str, path: str) -> str:
    """What a request is for, by its method and its path below the account."""
    return next((kind for verb, form, kind in KINDS if verb == method and re.fullmatch(form, path)), OTHER)


def purpose_of(priority: Priority | None) -> str:
    """A start has spent its budget before it is sent, so it brings none."""
    return (priority or Priority.SUBMIT).name.lower()


def outcome_of(status: int) -> str:
    """How a request ended that was answered with this HTTP status."""
    if 200 <= status < 300:
        return "success"
    if status in OUTCOMES:
        return OUTCOMES[status]
    return "rejected" if 400 <= status < 500 else "server_error"


def fault_of(error: DbtCloudError) -> str:
    """How a request ended that got no reply, or none that can be read."""
    return "unreachable" if isinstance(error, Unreachable) else "server_error"
