"""Spans on their way to a collector, by OpenTelemetry's own SDK. Imported only where something is sent.

What cannot be delivered is dropped, and said once. Nobody waits for a collector: spans lie in a queue of bounded length, which a
thread of its own empties.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
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
        self._trouble = Trouble("Traces do not reach %s, and are dropped until they do: %s", "Traces reach %s again.", where)
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),  # a client that does not sample its trace is not told of it
            resource=resource(service),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(signal_url(endpoint, _PATH), self._trouble)))
        self._tracer = self._provider.get_tracer("batchsched", own_version("unknown"))

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
        """Send what waits, as far as that is quick."""
        self._trouble.end(self._provider.shutdown)


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
    """The library's, with its trouble said once."""

    def __init__(self, url: str | None, trouble: Trouble) -> None:
        self._exporter, self._trouble = OTLPSpanExporter(endpoint=url), trouble

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a group; what fails is dropped."""
        result = self._exporter.export(spans)
        self._trouble.tried(result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        """Nothing more is sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here."""
        return self._exporter.force_flush(timeout_millis)


class Trouble:
    """Of one exporter, said once: of itself the library says so at each try. `lost`: of where and why; `back`: of where."""

    def __init__(self, lost: str, back: str, where: str) -> None:
        self._lost, self._back, self._where, self._down = lost, back, where, False
        self._reason = _Reason()
        library = logging.getLogger(_LIBRARY)
        library.addHandler(self._reason)
        library.propagate = False

    def tried(self, well: bool) -> None:
        """Something was sent, or was not."""
        if not well and not self._down:
            log.warning(self._lost, self._where, self._reason.text)
        elif well and self._down:
            log.info(self._back, self._where)
        self._down = not well

    def end(self, shutdown: Callable[[], object]) -> None:
        """Wait for a while for the last sending; what the library has to say of one that takes longer stays unsaid."""
        ending = threading.Thread(target=shutdown, name="telemetry-end", daemon=True)
        ending.start()
        ending.join(PARTING_S)
        if ending.is_alive():
            return
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


def resource(service: str) -> Resource:
    """What this process is; `service`: unless OTEL_SERVICE_NAME says otherwise."""
    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or service, "service.version": own_version("unknown")}
    host = socket.gethostname()
    return Resource.create({**named, "service.instance.id": f"{host}-{os.getpid()}", "host.name": host})


def signal_url(endpoint: str, path: str) -> str | None:
    """Of one signal at a collector; None where the environment says all."""
    return endpoint.rstrip("/").removesuffix(path) + path if endpoint else None


def _context(place: Place) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if place.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(place.trace_id, 16), int(place.span_id, 16), is_remote=True, trace_flags=flags)


def _nanoseconds(at: datetime) -> int:
    """Since 1970, to the microsecond."""
    return round(at.timestamp() * 1e6) * 1000
