"""A dbt Cloud of a few lines: what an honest one would answer, for attackers to start from."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from tests.hostile.wire import Request

ACCOUNT: Final = 7
RUN: Final = 1
JOB: Final = 5


def run(run_id: int = RUN, status: int = 3, **changes: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(sep=" ")
    return {
        "id": run_id, "account_id": ACCOUNT, "project_id": 2, "environment_id": 3, "job_definition_id": JOB,
        "job_id": JOB, "status": status, "status_humanized": "Running", "status_message": None,
        "in_progress": status in (1, 2, 3), "href": None, "created_at": now, "started_at": now,
        "finished_at": now if status >= 10 else None, "trigger": {"cause": "by hand"}, "run_steps": [],
    } | changes  # fmt: skip


def envelope(data: Any, **extra: Any) -> dict[str, Any]:
    return {"status": {"code": 200, "is_success": True, "user_message": "Success!"}, "data": data, **extra}


def listing(items: list[Any], total: int | None = None, /, **filters: Any) -> dict[str, Any]:
    pagination = {"count": len(items), "total_count": len(items) if total is None else total}
    return envelope(items, extra={"filters": filters, "pagination": pagination})


def refusal(code: int, words: str = "No.", data: Any = None) -> dict[str, Any]:
    return {"status": {"code": code, "is_success": False, "user_message": words}, "data": data}


def honest(request: Request) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    path = request.path.split(f"/accounts/{ACCOUNT}/", 1)[-1]
    if path == "runs/" and "pk__in" in request.params:
        return 200, listing([run(run_id) for run_id in request.ids], pk__in=request.ids)
    if path == "runs/":
        return 200, listing([], None, **request.params)
    if path.startswith("jobs/") and path.endswith("/run/"):
        return 200, envelope(run(2, trigger={"cause": (request.body or {}).get("cause", "")}))
    if path.startswith("runs/") and path.endswith("/cancel/"):
        return 200, envelope(run(int(path.split("/")[1]), 30))
    if path.startswith("runs/") and path.count("/") == 2:
        return 200, envelope(run(int(path.split("/")[1])))
    if path in ("projects/", "jobs/") or path.endswith("/environments/"):
        name = request.params.get("name__icontains", "x")
        return 200, listing([{"id": JOB, "name": name, "project_id": JOB, "environment_id": JOB}])
    return 404, refusal(404, "The requested resource was not found.")


def http(body: bytes | dict[str, Any], status: str = "200 OK", *headers: str, length: bool = True) -> bytes:
    """A reply as bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    if length:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content
