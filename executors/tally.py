"""How often and how long an engine was asked, for the server's metrics: counts since it last heard of them."""

from __future__ import annotations

from bisect import bisect_left

from batchsched.operations import DURATION_BOUNDS_S, TOKEN_BOUNDS, Operation, Operations
from batchsched.wire import AskedPart


class Tally:
    """Takes operations, counts them, and passes each `onward`."""

    def __init__(self, onward: Operations) -> None:
        self._onward = onward
        self._parts: dict[tuple[str, str, str, str], AskedPart] = {}

    def ended(self, operation: Operation) -> None:
        """Count it."""
        self._onward.ended(operation)
        about = operation.name, operation.provider, operation.model, operation.problem
        if (part := self._parts.get(about)) is None:
            tokens = len(TOKEN_BOUNDS) + 1
            part = AskedPart(*about, [0] * (len(DURATION_BOUNDS_S) + 1), 0.0, [0] * tokens, 0, [0] * tokens, 0)
            self._parts[about] = part
        part.took[bisect_left(DURATION_BOUNDS_S, operation.took_s)] += 1
        part.took_s += operation.took_s
        if operation.read is not None:
            part.read[bisect_left(TOKEN_BOUNDS, operation.read)] += 1
            part.read_tokens += operation.read
        if operation.written is not None:
            part.written[bisect_left(TOKEN_BOUNDS, operation.written)] += 1
            part.written_tokens += operation.written

    def take(self) -> list[AskedPart]:
        """What was counted since the last time."""
        parts, self._parts = list(self._parts.values()), {}
        return parts

    def close(self) -> None:
        """Whoever opened what lies onward closes it."""
