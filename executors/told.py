"""What a worker tells of a lease: a span (traces.py), from its taking to the last word about it, and its requests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit

from batchsched.executors.answers import Answer
from batchsched.operations import NOBODY, Operation, Operations
from batchsched.traces import OPERATIONS, Span, Tracer, Value, place_of
from batchsched.wire import Lease, Meter, Result

_GOOD_ENDS = frozenset({"finish", "release"})


class LeaseTold:
    """Counts what goes through a reporter. Where it is told of, its lease names this span from now on, for the engine.

    `engine`: which kind serves it.
    """

    def __init__(
        self, tracer: Tracer, lease: Lease, now: Callable[[], datetime], engine: str = "", operations: Operations = NOBODY
    ) -> None:
        above = place_of(lease.traceparent) if tracer.on else None
        self._place = above.within("lease", lease.chunk_id, lease.token) if above else None
        self._tracer, self._lease, self._now, self._above = tracer, lease, now, above
        self._began_at = now() if above else None
        self._answered = self._failed = self._input = self._cached = self._output = 0
        self._energy_j = 0.0
        self._source, self._engine, self._operations = "", engine, operations
        if self._place:
            lease.traceparent = self._place.traceparent

    def asked(self, url: str, took_s: float, problem: str, answer: Answer) -> None:
        """An engine was asked for a line, unless it took no time. `problem`: a status, or the kind of an error."""
        if not took_s:
            return
        parts, name = urlsplit(url), OPERATIONS.get(self._lease.endpoint, self._lease.endpoint)
        read, _, written = answer.tokens if answer.usage else (None, None, None)
        operation = Operation(
            name=name,
            provider=self._engine,
            model=self._lease.model,
            host=parts.hostname or "",
            port=parts.port or (443 if parts.scheme == "https" else 80),
            took_s=took_s,
            problem=problem,
            read=read,
            written=None if name == "embeddings" else written,
        )
        self._operations.ended(operation)

    def result(self, result: Result) -> None:
        """A line has its result."""
        self._answered += result.ok
        self._failed += not result.ok
        self._input += result.input_tokens
        self._cached += result.cached_tokens
        self._output += result.output_tokens

    def took(self, meter: Meter | None) -> None:
        """What the server acknowledged to have been used for it."""
        if meter and meter.energy_source != "unmeasured":
            self._energy_j += meter.energy_j + meter.host_j
            self._source = meter.energy_source

    def over(self, end: str) -> None:
        """The last word about it, whose first one counts."""
        if self._place is None or self._began_at is None:
            return
        place, self._place = self._place, None
        problem = "" if end in _GOOD_ENDS else end
        self._tracer.write(Span("chunk", place, self._above, self._began_at, self._now(), self._about(end), problem))

    def _about(self, end: str) -> dict[str, Value]:
        lease = self._lease
        about: dict[str, Value] = {
            "batchsched.batch.id": lease.batch_id,
            "batchsched.chunk.id": lease.chunk_id,
            "batchsched.chunk.end": end,
            "batchsched.chunk.attempt": lease.attempt,
            "batchsched.requests": lease.lines - len(lease.done),
            "batchsched.requests.completed": self._answered,
            "batchsched.requests.failed": self._failed,
            "gen_ai.operation.name": OPERATIONS.get(lease.endpoint, lease.endpoint),
            "gen_ai.provider.name": self._engine,  # the conventions leave a name of one's own to engines that they do not list
            "gen_ai.request.model": lease.model,
            "gen_ai.usage.input_tokens": self._input,
            "gen_ai.usage.cache_read.input_tokens": self._cached,
            "gen_ai.usage.output_tokens": self._output,
        }
        return about | ({"batchsched.energy_j": self._energy_j, "batchsched.energy_source": self._source} if self._source else {})
