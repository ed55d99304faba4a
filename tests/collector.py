"""A collector for tests: takes spans and metrics by OTLP over HTTP, and reads them by the protocol's own definitions."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse


class Seen(NamedTuple):
    """A span as it came in. Ids are hexadecimal, `parent` is empty at a root; times in nanoseconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    started_ns: int
    ended_ns: int
    about: dict[str, Any]
    problem: str
    service: str


class Point(NamedTuple):
    """One series of a histogram as it came in last."""

    name: str
    unit: str
    about: dict[str, Any]
    times: int
    total: float
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    service: dict[str, Any]


class Collector:
    """`spans` and `points` that came, and the `bodies` that they came in; `status`: what it answers from now on."""

    def __init__(self, port: int) -> None:
        self.spans: list[Seen] = []
        self.points: list[Point] = []
        """Those of the newest message of metrics."""
        self.bodies: list[bytes] = []
        self.status = 200
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def of(self, trace_id: str) -> list[Seen]:
        """The spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def take(self, path: str, body: bytes) -> int:
        """The status of the answer."""
        status = self.status if path in {"/v1/traces", "/v1/metrics"} else 404
        if status == 200 and path == "/v1/traces":
            self.spans += _read(body)
        elif status == 200:
            self.points = list(_points(body))
        self.bodies.append(body)  # last: who waits for it finds what it said, and may say another status for the next
        return status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status = collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        return Handler


@contextmanager
def collecting(port: int = 0) -> Generator[Collector]:
    """A collector that listens; port 0 takes a free one."""
    collector = Collector(port)
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        collector.server.server_close()
        thread.join()


def _read(body: bytes) -> Iterator[Seen]:
    for told in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _plain(told.resource.attributes)["service.name"]
        for scope in told.scope_spans:
            for span in scope.spans:
                ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                times = span.start_time_unix_nano, span.end_time_unix_nano
                yield Seen(span.name, *ids, *times, _plain(span.attributes), span.status.message, service)


def _points(body: bytes) -> Iterator[Point]:
    for told in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        service = _plain(told.resource.attributes)
        for scope in told.scope_metrics:
            for metric in scope.metrics:
                for point in metric.histogram.data_points:
                    buckets = tuple(point.explicit_bounds), tuple(point.bucket_counts)
                    about = _plain(point.attributes)
                    yield Point(metric.name, metric.unit, about, point.count, point.sum, *buckets, service)


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
