"""The small HTTP server for probes and metrics: /healthz, /readyz, /metrics.

It runs in the loop of all parts, so a probe times out when that loop is blocked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from watcher.telemetry.metrics import Metrics
from watcher.telemetry.serving import Limits
from watcher.telemetry.vitals import Vitals

LIMITS: Final = Limits(connections=32, seconds=10.0)
"""Probes and scrapes need a handful. The chart's probes wait half as long."""


class Checks(NamedTuple):
    """What the two probes ask."""

    vitals: Vitals
    ready: Callable[[], str | None]
    """None, or one sentence that says what is missing."""
    notes: Callable[[], str | None] = lambda: None
    """What a ready watcher does not do, in sentences."""


def health_app(checks: Checks, metrics: Metrics) -> Starlette:
    """The three pages as an ASGI app."""

    async def alive(_: Request) -> Response:
        # Fails only for what a restart mends. While dbt Cloud or the API server is away, a restart would lose what is
        # known of each object and gain nothing.
        late = checks.vitals.late()
        silent = {part.name: round(seconds, 1) for part, seconds in checks.vitals}
        return JSONResponse({"late": late, "silentSeconds": silent}, status_code=503 if late else 200)

    async def ready(_: Request) -> Response:
        missing = checks.ready()
        if missing is not None:
            return PlainTextResponse(missing, status_code=503)
        notes = checks.notes()
        return PlainTextResponse("ok" if notes is None else f"ok\n{notes}")

    async def page(_: Request) -> Response:
        # The parts are asked in their loop. Their answers do not change any more, so a thread can write them: hundreds
        # of jobs make thousands of lines.
        answers = CollectorRegistry()
        answers.register(_Collected(tuple(metrics.registry.collect())))
        return Response(await asyncio.to_thread(generate_latest, answers), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", alive), Route("/readyz", ready), Route("/metrics", page)])


@dataclass(eq=False)
class _Collected(Collector):
    answers: tuple[Metric, ...]

    def collect(self) -> Iterator[Metric]:
        return iter(self.answers)
