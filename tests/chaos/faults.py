"""What dbt Cloud, and the way to it, can do wrong in a campaign. Each kind has a name, by which its hits are counted.

The protocol assumes that a start shows in dbt Cloud's lists within the quiet period of its claim. The durations here
stay within that together: latency, late commit and list lag can all meet one request.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

CHANGES: Final = ("start", "retry", "cancel")
SUBMISSIONS: Final = ("start", "retry")
Rule = dict[str, Any]


def _rule(effect: Rule, kinds: tuple[str, ...] = (), times: int = 1) -> Rule:
    return {"effect": effect, "kinds": list(kinds), "times": times}


def _reply(status: int, body: str, *, commit: bool = False) -> Callable[[Random], Rule]:
    effect = {"type": "reply", "status": status, "body": body, "commit": commit}
    return lambda random: _rule(effect, CHANGES if commit or random.random() < 0.5 else (), random.randint(1, 3))


FAULTS: Final[dict[str, Callable[[Random], Rule]]] = {
    "latency": lambda r: _rule({"type": "latency", "seconds": r.uniform(0.1, 1.5)}, (), r.randint(1, 8)),
    "hang": lambda _: _rule({"type": "hang", "commit": False}),
    "hang after commit": lambda _: _rule({"type": "hang", "commit": True}, CHANGES),
    "drop before commit": lambda _: _rule({"type": "drop", "when": "before"}, CHANGES),
    "drop after commit": lambda r: _rule({"type": "drop", "when": "after"}, CHANGES, r.randint(1, 3)),
    "late commit": lambda r: _rule(
        {"type": "late-commit", "seconds": r.uniform(0.3, 2.5)}, SUBMISSIONS, r.randint(1, 3)
    ),
    "500 enveloped": _reply(500, "enveloped"),
    "500 bare": _reply(500, "bare"),
    "502 HTML": _reply(502, "html"),
    "503 HTML": _reply(503, "html"),
    "504 HTML after commit": _reply(504, "html", commit=True),
    "500 after commit": _reply(500, "bare", commit=True),
    "200 HTML": _reply(200, "html"),
    "200 HTML after commit": _reply(200, "html", commit=True),
    "200 empty after commit": _reply(200, "empty", commit=True),
    "429": lambda r: _rule({"type": "rate-limit", "cooldown": r.uniform(0.5, 2.0), "retry_after": True}),
    "401": _reply(401, "enveloped"),
    "403": _reply(403, "enveloped"),
    "404 on the job": lambda _: _rule({"type": "reply", "status": 404, "body": "enveloped"}, ("start",)),
    "body of 64 MB": lambda _: _rule({"type": "huge"}),
    "truncated JSON": lambda r: _rule({"type": "truncate"}, (), r.randint(1, 3)),
    "slow body": lambda _: _rule({"type": "slow", "chunk": 64, "seconds": 0.2}),
    "redirect": lambda _: _rule({"type": "redirect", "location": "https://elsewhere.invalid/"}),
    "list lag": lambda r: _rule({"type": "list-lag", "seconds": r.uniform(0.3, 1.5)}, ("list-runs",), 10),
    "ignored pk__in": lambda _: _rule({"type": "ignore-filters", "filters": ["pk__in"]}, ("list-runs",), 2),
    "ignored filters": lambda _: _rule(
        {"type": "ignore-filters", "filters": ["pk__in", "status__in", "finished_at__range"]}, ("list-runs",), 4
    ),
    "unknown status": lambda _: _rule({"type": "unknown-status", "status": 42}, ("list-runs", "get-run"), 2),
}
DOUBTFUL: Final = ("drop after commit", "hang after commit", "late commit", "list lag")
"""Those that make a start hard to find out about."""
