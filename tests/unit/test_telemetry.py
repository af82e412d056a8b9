"""What is seen from outside: lines of the log, the probes, the metrics."""

from __future__ import annotations

import json
import logging
import sys

import httpx

from watcher.telemetry.health import Checks, health_app
from watcher.telemetry.logs import JsonFormatter, TextFormatter
from watcher.telemetry.metrics import Metrics


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "watcher", "levelname": "INFO", "msg": message, "created": 0.0})
    vars(made).update(extra)
    return made


def test_a_line_is_one_json_object_with_its_extras() -> None:
    line = json.loads(JsonFormatter().format(record("Start", run="n/a", attempt=1, run_id=None)))
    assert line == {
        "time": "1970-01-01T00:00:00.000+00:00", "level": "INFO", "logger": "watcher", "message": "Start",
        "run": "n/a", "attempt": 1,
    }  # fmt: skip


def test_an_exception_stays_on_its_line() -> None:
    try:
        int("bad")
    except ValueError:
        failed = record("Oops", exc_info=sys.exc_info())
    text = JsonFormatter().format(failed)
    assert "\n" not in text
    assert "ValueError: invalid literal" in json.loads(text)["exception"]


def test_text_for_people_ends_with_the_extras() -> None:
    assert TextFormatter().format(record("Start", run="n/a")).endswith("INFO    Start  run=n/a")


async def get(path: str, alive: str | None = None, ready: str | None = None) -> httpx.Response:
    metrics = Metrics()
    metrics.decisions.labels("Start").inc()
    app = health_app(Checks(alive=lambda: alive, ready=lambda: ready), metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://watcher") as client:
        return await client.get(path)


async def test_a_probe_says_what_is_wrong() -> None:
    assert (await get("/healthz")).status_code == 200
    late = await get("/healthz", alive="Polling is late.")
    assert (late.status_code, late.text) == (503, "Polling is late.")
    assert (await get("/healthz", ready="Not listed yet.")).status_code == 200
    assert (await get("/readyz", ready="Not listed yet.")).status_code == 503


async def test_metrics_are_served() -> None:
    assert 'dbtrun_decisions_total{decision="Start"} 1.0' in (await get("/metrics")).text
