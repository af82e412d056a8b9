"""OpenTelemetry traces, if the extra `tracing` is installed and they are switched on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SCOPE: Final = "dbtrun.watcher"


class Span(Protocol):
    """A part of a trace."""

    @property
    def name(self) -> str: ...
    @property
    def start(self) -> datetime: ...
    @property
    def end(self) -> datetime: ...


class Trace(Protocol):
    """What is exported of an attempt that has ended."""

    @property
    def attributes(self) -> Mapping[str, str | int]: ...
    @property
    def failed(self) -> str | None: ...
    @property
    def linked(self) -> str | None: ...
    @property
    def spans(self) -> Iterable[Span]: ...


class TracingMissing(Exception):
    """The packages of the extra are not installed."""


class Tracing:
    """Exports traces.

    Args:
        provider: where they go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(SCOPE)

    def export(self, trace: Trace) -> None:
        """Hands a trace over; a thread of the library sends it."""
        from opentelemetry.context import Context
        from opentelemetry.trace import Link, Status, StatusCode, get_current_span, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        spans = list(trace.spans)
        if not spans:
            return
        # The trace that created the object; anything that is not a `traceparent` is ignored.
        carrier = {"traceparent": trace.linked} if trace.linked is not None else {}
        creator = TraceContextTextMapPropagator().extract(carrier, context=Context())
        linked = get_current_span(creator).get_span_context()
        # An empty context, or the trace would become a part of whatever span is current here.
        whole = self._tracer.start_span(
            "dbtrun attempt",
            context=Context(),
            attributes=trace.attributes,
            links=[Link(linked)] if linked.is_valid else [],
            start_time=_nanoseconds(spans[0].start),
        )
        for span in spans:
            part = self._tracer.start_span(
                span.name, context=set_span_in_context(whole, Context()), start_time=_nanoseconds(span.start)
            )
            part.end(_nanoseconds(span.end))
        if trace.failed is not None:
            whole.set_status(Status(StatusCode.ERROR, trace.failed))
        whole.end(_nanoseconds(spans[-1].end))

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def tracing(version: str) -> Tracing:
    """Traces to where the variables OTEL_EXPORTER_OTLP_* say.

    Raises:
        TracingMissing: the packages are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracingMissing(
            f"Traces need packages that are not installed ({error.name}): install dbtrun[tracing], or unset --tracing."
        ) from None
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have precedence.
    named = Resource({"service.name": "dbtrun-watcher", "service.version": version})
    provider = TracerProvider(resource=named.merge(Resource.create()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _nanoseconds(moment: datetime) -> int:
    # By way of microseconds: a float with the nanoseconds since 1970 is exact only to 256 ns.
    return int(moment.timestamp() * 1_000_000) * 1_000
