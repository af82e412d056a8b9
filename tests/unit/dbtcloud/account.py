"""A dbt Cloud account of a few lines, for the client to talk to through httpx's own transport seam."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx

from dbtrun.connection.secret import Connection, Token
from dbtrun.values import Instant
from tests.unit.virtual import NOON as NOON
from watcher.dbtcloud.budget import Budget
from watcher.dbtcloud.client import Client

SECRET = "dbtc_s3cr3t-t0k3n"
ACCOUNT = 4242
CONNECTION = Connection(host="cloud.getdbt.com", account_id=ACCOUNT, token=Token(SECRET))

Handler = Callable[[httpx.Request], httpx.Response]


def noon() -> Instant:
    """A clock that stands still."""
    return Instant(NOON, 1000.0)


def client(handler: Handler, connection: Connection = CONNECTION, budget: Budget | None = None) -> Client:
    """A client whose requests end in the handler."""
    return Client(connection, budget, transport=httpx.MockTransport(handler), clock=noon)


def answering(*replies: httpx.Response | Exception) -> Handler:
    """Replies one after the other; the last one for ever."""
    left = list(replies)

    def handle(request: httpx.Request) -> httpx.Response:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    return handle


def stamp(moment: datetime) -> str:
    """A time as dbt Cloud writes it in runs."""
    return moment.isoformat(sep=" ", timespec="microseconds")


def run(run_id: int, status: int = 3, **changes: Any) -> dict[str, Any]:
    """A run as listed, with some of the fields that nobody here reads."""
    return {
        "id": run_id,
        "trigger_id": run_id + 1,
        "account_id": ACCOUNT,
        "project_id": 7,
        "environment_id": 8,
        "job_definition_id": 99,
        "job_id": 99,
        "status": status,
        "status_message": None,
        "status_humanized": "Running",
        "in_progress": status in (1, 2, 3),
        "trigger": None,
        "job": None,
        "run_steps": [],
        "blocked_by": [],
        "href": f"https://cloud.getdbt.com/deploy/{ACCOUNT}/projects/7/runs/{run_id}/",
        "created_at": stamp(NOON - timedelta(minutes=10)),
        "started_at": stamp(NOON - timedelta(minutes=9)) if status >= 3 else None,
        "finished_at": stamp(NOON) if status >= 10 else None,
        "retrying_run_id": None,
        "can_retry": False,
        "retry_not_supported_reason": None,
        "is_running": None,
    } | changes


def envelope(data: Any, **extra: Any) -> httpx.Response:
    """dbt Cloud's success."""
    status = {"code": 200, "is_success": True, "user_message": "Success!", "developer_message": ""}
    return httpx.Response(200, json={"data": data, "status": status, **extra})


def listing(runs: list[Any], total: int | None = None, **filters: Any) -> httpx.Response:
    """A page of a list, with the applied filters echoed."""
    pagination = {"count": len(runs), "total_count": len(runs) if total is None else total}
    return envelope(runs, extra={"filters": {"limit": 100, **filters}, "order_by": "id", "pagination": pagination})


def refusal(code: int, words: str, data: Any = None, **headers: str) -> httpx.Response:
    """dbt Cloud's error, in its envelope."""
    status = {"code": code, "is_success": False, "user_message": words, "developer_message": None}
    return httpx.Response(code, json={"status": status, "data": data}, headers=headers)


def page_of_a_proxy(code: int) -> httpx.Response:
    """What something between us and dbt Cloud says."""
    return httpx.Response(
        code, html=f"<html><head><title>{code} Gateway</title></head><body>{'x' * 5000}</body></html>"
    )


class Recorder:
    """A handler that keeps what was asked."""

    def __init__(self, handler: Handler) -> None:
        self.requests: list[httpx.Request] = []
        self._handler = handler

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._handler(request)

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]

    def params(self, index: int = -1) -> dict[str, str]:
        return dict(self.requests[index].url.params)

    def body(self, index: int = -1) -> Any:
        return json.loads(self.requests[index].content or "null")
