"""A real watcher sends a trace of each attempt to a collector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.controlplane import ControlPlane
from tests.stack import Own, Stack, until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """What was sent to /v1/traces."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    threading.Thread(target=collector.server.serve_forever, daemon=True).start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


async def test_a_run_becomes_a_trace_linked_to_its_creators(
    plane: ControlPlane, namespace: str, tmp_path: Path, collector: Collector
) -> None:
    settings = {
        "DBTRUN_TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.server_port}",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    async with Stack.up(plane, namespace, tmp_path, settings=settings) as stack:
        own = Own(stack, "traced")
        await own.apply("success", suspend=True)
        await stack.kubectl("annotate", "dr", own.name, f"dbtrun.dev/traceparent={PARENT}")
        await own.patch(suspend=False)
        await own.reaches("Succeeded")

        async def sent() -> bool:
            return len(collector.spans) >= 5

        await until(sent, 60, "a trace")
    assert [span.name for span in collector.spans] == ["claim", "start", "wait", "end", "dbtrun attempt"]
    assert len({span.trace_id for span in collector.spans}) == 1
    (link,) = collector.spans[-1].links
    assert link.trace_id.hex() in PARENT
