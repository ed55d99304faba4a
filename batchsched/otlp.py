"""Spans on their way to a collector, by OpenTelemetry's own SDK. Imported only where traces are on.

What cannot be delivered is dropped, and said once. Nobody waits for a collector: spans lie in a queue of bounded length, which a
thread of its own empties.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context

from batchsched.traces import Place, Span, Value
from batchsched.version import own_version

log = logging.getLogger(__name__)
PARTING_S = 3.0
"""Longest wait for a collector at our end."""
_PATH = "/v1/traces"
_LIBRARY = "opentelemetry"
_SENDING = "opentelemetry.exporter"


class Otlp:
    """A tracer (traces.py) that sends by OTLP over HTTP.

    `endpoint`: of the collector; empty: the environment says all. `where`: the same for people.
    """

    on = True

    def __init__(self, endpoint: str, where: str, service: str, about: Mapping[str, Value]) -> None:
        self._about, self._ids = dict(about), _GivenIds()
        self._exporter = _Exporter(endpoint.rstrip("/").removesuffix(_PATH) + _PATH if endpoint else None, where)
        version = own_version() or "unknown"
        said = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or service, "service.version": version}
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),  # a client that does not sample its trace is not told of it
            resource=Resource.create({**said, "host.name": socket.gethostname()}),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("batchsched", version)

    def write(self, span: Span) -> None:
        """Put it into the queue."""
        try:
            self._write(span)
        except Exception:  # whatever it is: the work goes on without it
            log.exception("A span of the name '%s' could not be written.", span.name)

    def _write(self, span: Span) -> None:
        above = set_span_in_context(NonRecordingSpan(_context(span.parent)), Context()) if span.parent else Context()
        self._ids.give(span.place)
        begun = self._tracer.start_span(
            span.name, above, attributes={**self._about, **span.about}, start_time=_nanoseconds(span.started_at)
        )
        if span.problem:
            begun.set_status(Status(StatusCode.ERROR, span.problem))
        begun.end(_nanoseconds(max(span.started_at, span.ended_at)))

    def close(self) -> None:
        """Send what waits, as far as that is quick; else what the library has to say of it stays unsaid."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(PARTING_S)
        if not ending.is_alive():
            self._exporter.end()


class _GivenIds(IdGenerator):
    """Those of the one span that this thread is about to write."""

    def __init__(self) -> None:
        self._here = threading.local()

    def give(self, place: Place) -> None:
        """The next span is at this place."""
        self._here.place = place

    def generate_span_id(self) -> int:
        """Its own."""
        return int(self._here.place.span_id, 16)

    def generate_trace_id(self) -> int:
        """Its trace's, where there is nothing above it."""
        return int(self._here.place.trace_id, 16)


class _Exporter(SpanExporter):
    """The library's, with its trouble said once: of itself it says so at each try."""

    def __init__(self, url: str | None, where: str) -> None:
        self._where, self._reason, self._down = where, _Reason(), False
        library = logging.getLogger(_LIBRARY)
        library.addHandler(self._reason)
        library.propagate = False
        self._exporter = OTLPSpanExporter(endpoint=url)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a group; what fails is dropped."""
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS and not self._down:
            log.warning("Traces do not reach %s, and are dropped until they do: %s", self._where, self._reason.text)
        elif result is SpanExportResult.SUCCESS and self._down:
            log.info("Traces reach %s again.", self._where)
        self._down = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        """Nothing more is sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here."""
        return self._exporter.force_flush(timeout_millis)

    def end(self) -> None:
        """The library speaks for itself again."""
        library = logging.getLogger(_LIBRARY)
        library.removeHandler(self._reason)
        library.propagate = not any(isinstance(handler, _Reason) for handler in library.handlers)


class _Reason(logging.Handler):
    """What the library said last of why it could not send; its last words, "max retries", say less than those before."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = "it did not say why"
        self._heard = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, where it is of sending: that the queue is full is what follows from that."""
        if not record.name.startswith(_SENDING):
            return
        if record.levelno < logging.ERROR or not self._heard:
            self.text = record.getMessage()
        self._heard = record.levelno < logging.ERROR


def _context(place: Place) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if place.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=True, trace_flags=flags)


def _nanoseconds(at: datetime) -> int:
    """Since 1970, to the microsecond."""
    return round(at.timestamp() * 1e6) * 1000
