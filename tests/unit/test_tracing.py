"""What OpenTelemetry gets: one trace for each attempt, linked to the trace of whoever created the object."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from dbtrun.api import Phase
from tests.unit.lifecycle.builders import wall
from tests.unit.lifecycle.test_spans import CLAIMED, ENDED, PARENT, before, traces
from watcher.lifecycle.spans import Trace
from watcher.telemetry.tracing import Tracing, TracingMissing, tracing


def exported(*told: Trace) -> list[ReadableSpan]:
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    exporter = Tracing(provider)
    for trace in told:
        exporter.export(trace)
    exporter.close()
    return list(memory.get_finished_spans())


def attempt(**changes: Any) -> Trace:
    (trace,) = traces(before(CLAIMED), replace(ENDED, **changes))
    return trace


def test_an_attempt_is_one_trace_of_its_four_parts() -> None:
    spans = {span.name: span for span in exported(attempt())}
    assert list(spans) == ["claim", "start", "wait", "end", "dbtrun attempt"]
    whole = spans["dbtrun attempt"]
    assert {span.context.trace_id for span in spans.values() if span.context} == {
        whole.context and whole.context.trace_id
    }
    assert whole.parent is None
    parts = [span for name, span in spans.items() if name != "dbtrun attempt"]
    assert {span.parent and span.parent.span_id for span in parts} == {whole.context and whole.context.span_id}
    assert whole.attributes is not None
    assert whole.attributes["dbtrun.phase"] == "Succeeded"
    assert whole.status.status_code is StatusCode.UNSET
    assert whole.start_time == wall(0).timestamp() * 1e9
    assert whole.end_time == wall(82).timestamp() * 1e9
    assert spans["wait"].start_time == wall(7).timestamp() * 1e9


def test_two_attempts_are_two_traces() -> None:
    spans = exported(attempt(), attempt())
    assert len({span.context.trace_id for span in spans if span.context}) == 2


def test_a_failure_is_an_error_with_its_cause() -> None:
    whole = exported(attempt(phase=Phase.FAILED, message="Run 7 failed."))[-1]
    assert (whole.status.status_code, whole.status.description) == (StatusCode.ERROR, "Run 7 failed.")


def test_the_creators_trace_is_linked() -> None:
    (link,) = exported(attempt()._replace(linked=PARENT))[-1].links
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}" in PARENT


@pytest.mark.parametrize("nonsense", ["", "00-0-0-01", "x" * 10_000, "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_what_is_no_traceparent_is_ignored(nonsense: str) -> None:
    assert exported(attempt()._replace(linked=nonsense))[-1].links == ()


def test_a_trace_without_spans_is_none() -> None:
    assert exported(attempt()._replace(spans=())) == []


def test_without_the_packages_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def lacking(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(TracingMissing, match=r"install dbtrun\[tracing\]"):
        tracing("1")
