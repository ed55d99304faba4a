"""Traces: what became of a batch, told to a collector as spans of one tree (OpenTelemetry, by OTLP); off unless one is named.

A span is written once what it tells of is over, with its true times, so nothing is held open. Ids follow from those of batches
and leases: servers and workers tell of one tree without asking each other, and a thing that is told twice is one span.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from batchsched.errors import InvalidConfiguration, MissingExtra

log = logging.getLogger(__name__)
OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/embeddings": "embeddings",
}
"""Of endpoints, in the words of the semantic conventions (gen_ai.operation.name)."""
Value = str | int | float | bool
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Traces(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a server and its workers send the spans of batches; each needs the extra `traces`."""

    endpoint: Annotated[
        str, Meta(description="OTLP/HTTP collector, as http://127.0.0.1:4318; empty: that of OTEL_EXPORTER_OTLP_ENDPOINT, if set")
    ] = ""


class Place(msgspec.Struct, frozen=True):
    """Of one span: its trace (32 hexadecimal digits) and its own id (16), as in W3C Trace Context."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The header by which others go on below it."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def within(self, *what: object) -> Place:
        """Of another span of this trace, which is named by what it tells of."""
        return Place(self.trace_id, _digits(self.trace_id, *what)[:16], self.sampled)


def place_of(traceparent: str) -> Place | None:
    """The span that a header names; None for one that is not valid, which counts as none at all."""
    found = _TRACEPARENT.fullmatch(traceparent.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Place(trace_id, span_id, bool(int(flags, 16) & 1))


def batch_place(batch_id: str, traceparent: str = "", retries: int = 0) -> tuple[Place, Place | None]:
    """The place of a batch's own span, and of the one above it, if any.

    `traceparent`: what came with its creation; the batch then lies in its client's trace. A retry lies below the first try.
    """
    above = place_of(traceparent) if traceparent else None
    trace = above or Place(_digits("trace", batch_id)[:32], "")
    first = trace.within("batch", batch_id)
    return (trace.within("batch", batch_id, retries), first) if retries else (first, above)


def file_place(file_id: str, traceparent: str = "") -> tuple[Place, Place | None]:
    """The place of an upload's span, and of the one above it, if any: it came before the batches that use it, maybe for several.

    `traceparent`: what came with it; it then lies in its client's trace, else in one of its own.
    """
    above = place_of(traceparent) if traceparent else None
    trace = above or Place(_digits("trace", file_id)[:32], "")
    return trace.within("upload", file_id), above


class Span(msgspec.Struct, frozen=True):
    """Something that is over. `about`: its attributes; `problem`: why it failed, empty where it did not."""

    name: str
    place: Place
    parent: Place | None
    started_at: datetime
    ended_at: datetime
    about: Mapping[str, Value]
    problem: str = ""


class Tracer(Protocol):
    """Who takes the spans of this process."""

    @property
    def on(self) -> bool:
        """Does anybody take them? Otherwise none need be made."""
        ...

    def write(self, span: Span) -> None:
        """Take one; at once, without raising, from any thread."""
        ...

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        ...


class Untold:
    """Nobody does."""

    on = False

    def write(self, span: Span) -> None:
        """Nothing happens."""

    def close(self) -> None:
        """Nothing waits."""


OFF = Untold()


def opened(traces: Traces, env: Mapping[str, str], service: str, about: Mapping[str, Value] | None = None) -> Tracer:
    """Who takes the spans of this process: nobody, unless a collector is configured or the environment names one.

    `service`: what the process is; `about`: said with each of its spans. Raises InvalidConfiguration, MissingExtra. A collector
    that only the environment names may be meant for others: then a missing extra is a warning.
    """
    named = collector("traces", traces.endpoint, env)
    if not named:
        return OFF
    try:
        from batchsched.otlp import Otlp
    except ModuleNotFoundError as problem:
        lacking("traces", problem, named, configured=bool(traces.endpoint))
        return OFF
    return Otlp(traces.endpoint, named, service, about or {})


def collector(signal: Literal["traces", "metrics"], endpoint: str, env: Mapping[str, str]) -> str:
    """Where a signal goes: what is configured, else what the environment names; empty: nowhere. Raises InvalidConfiguration."""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    named = endpoint or next((env[name] for name in names if env.get(name)), "")
    all_off = env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if all_off or env.get(f"OTEL_{signal.upper()}_EXPORTER") == "none" or not named:
        return ""
    if not named.startswith(("http://", "https://")):
        raise InvalidConfiguration(f"Key '{signal}.endpoint' must be a URL such as http://127.0.0.1:4318, not '{named}'.")
    return named


def lacking(signal: str, problem: ModuleNotFoundError, named: str, *, configured: bool) -> None:
    """OpenTelemetry is not there: where it is `configured` raises MissingExtra; a warning where only the environment asks."""
    if not (problem.name or "").startswith("opentelemetry"):
        raise problem
    missing = MissingExtra(
        f"{signal.capitalize()} for a collector need the extra 'traces'.", hint="pip install 'batchsched[traces]'"
    )
    if configured:
        raise missing from None
    log.warning("The environment names %s for %s, and none are sent: %s", named, signal, missing.hint)


def _digits(*what: object) -> str:
    """Hexadecimal digits that follow from these words."""
    return hashlib.sha256(" ".join(map(str, what)).encode()).hexdigest()
