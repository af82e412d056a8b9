"""What is seen from outside: lines of the log, the probes, the metrics."""

from __future__ import annotations

import json
import logging
import sys

import httpx

from watcher.telemetry.health import Checks, health_app
from watcher.telemetry.logs import JsonFormatter, TextFormatter
from watcher.telemetry.metrics import Metrics
from watcher.telemetry.vitals import Vitals


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


async def get(path: str, silent: float = 0.0, ready: str | None = None) -> httpx.Response:
    metrics, vitals = Metrics(), Vitals()
    vitals.watch("poller", 300, lambda: silent)
    metrics.watch_parts(vitals)
    metrics.decisions.labels("Start").inc()
    app = health_app(Checks(vitals, ready=lambda: ready), metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://watcher") as client:
        return await client.get(path)


async def test_liveness_names_the_part_that_stands_still() -> None:
    well = await get("/healthz", silent=1.23)
    assert (well.status_code, well.json()) == (200, {"late": {}, "silentSeconds": {"poller": 1.2}})
    late = await get("/healthz", silent=412)
    assert late.status_code == 503
    assert late.json()["late"] == {"poller": "The poller has stood still for 412 s (limit 300 s)."}


async def test_readiness_says_what_is_missing_and_is_no_matter_of_life() -> None:
    missing = await get("/readyz", ready="Not listed yet.")
    assert (missing.status_code, missing.text) == (503, "Not listed yet.")
    assert (await get("/healthz", ready="Not listed yet.")).status_code == 200
    assert (await get("/readyz", silent=412)).status_code == 200


async def test_the_silence_of_each_part_is_a_metric_beside_its_limit() -> None:
    told = (await get("/metrics", silent=412)).text
    assert 'dbtrun_part_silent_seconds{part="poller"} 412.0' in told
    assert 'dbtrun_part_limit_seconds{part="poller"} 300.0' in told


async def test_metrics_are_served() -> None:
    assert 'dbtrun_decisions_total{decision="Start"} 1.0' in (await get("/metrics")).text
