"""The trace that Airflow makes of a task, as the DbtRun names it: the watcher links its own traces to it."""

from __future__ import annotations

from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator


def traceparent() -> str | None:
    """The `traceparent` of the span that the task runs in; None: Airflow makes no traces here."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")
