"""What is seen from outside: lines of the log, the probes, the metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
from prometheus_client import generate_latest

from watcher.telemetry.health import LIMITS, Checks, health_app
from watcher.telemetry.logs import JsonFormatter, TextFormatter
from watcher.telemetry.metrics import Metrics
from watcher.telemetry.serving import Limits, serve
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
    assert late.json()["late"] == {"poller": "The poller has made no progress for 412 s (limit 300 s)."}


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


def lines(metrics: Metrics) -> list[str]:
    return generate_latest(metrics.registry).decode().splitlines()


def test_the_release_and_the_process_are_shown() -> None:
    told = "\n".join(lines(Metrics("1.2.3")))
    assert 'dbtrun_build_info{python="3.' in told
    assert 'version="1.2.3"' in told
    for name in ("process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"):
        assert re.search(rf"^{name} [\d.e+]+$", told, re.MULTILINE), name


def test_a_request_is_counted_and_timed() -> None:
    metrics = Metrics()
    metrics.sent("start", "success", "submit", 0.3)
    told = lines(metrics)
    assert 'dbtrun_dbt_cloud_requests_total{purpose="submit"} 1.0' in told
    name = "dbtrun_dbt_cloud_request_duration_seconds"
    assert f'{name}_bucket{{kind="start",le="0.25",outcome="success"}} 0.0' in told
    assert f'{name}_bucket{{kind="start",le="0.5",outcome="success"}} 1.0' in told


@asynccontextmanager
async def served(limits: Limits = LIMITS) -> AsyncIterator[tuple[str, int]]:
    """The probes' server on a socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()[:2]
    serving = asyncio.create_task(serve(health_app(Checks(Vitals(), ready=lambda: None), Metrics()), listener, limits))
    try:
        yield address
    finally:
        serving.cancel()
        await asyncio.wait([serving])


async def answer(address: tuple[str, int]) -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        return (await client.get("http://{}:{}/healthz".format(*address))).status_code


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_idle_connections_neither_hold_descriptors_nor_the_probes_up() -> None:
    async with served() as address:
        assert await answer(address) == 200
        idle = [await asyncio.open_connection(*address) for _ in range(300)]
        for _, writer in idle[::2]:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert await answer(address) == 200
        assert descriptors() < 300 + 2 * LIMITS.connections + 50, "each of ours has no counterpart any more"
        for _, writer in idle:
            writer.close()


async def test_a_connection_lasts_for_seconds() -> None:
    async with served(Limits(connections=32, seconds=0.2)) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()


async def test_long_headers_are_refused() -> None:
    async with served() as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100_000)
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 4")
        writer.close()
