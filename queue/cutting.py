"""From an uploaded file to chunks: one pass that checks every line and cuts by byte offsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from batchsched.clock import IdSource
from batchsched.lines import Checker, Line, LineError, iter_lines, max_tokens
from batchsched.queue.store import Store


class Cut(msgspec.Struct, frozen=True):
    """The outcome. Where `errors` is not empty, the batch fails and `chunks` means nothing."""

    model: str | None
    total: int
    input_bytes: int
    max_tokens_total: int | None
    """Sum of the lines' own limits; None where any line has none."""
    chunks: list[dict[str, Any]]
    errors: list[LineError]


class Cutter:
    """Limits of a chunk: requests and input bytes; and of a file: requests."""

    def __init__(self, store: Store, ids: IdSource, *, chunk_lines: int, chunk_bytes: int, max_lines: int) -> None:
        self._store = store
        self._ids = ids
        self._chunk_lines = chunk_lines
        self._chunk_bytes = chunk_bytes
        self._max_lines = max_lines

    def cut(self, batch_id: str, file_id: str, endpoint: str, models: Mapping[str, int | None] | None) -> Cut:
        """Check and cut a file for a batch."""
        checker = Checker(endpoint, models)
        out: list[dict[str, Any]] = []
        limits: list[int | None] = []
        for line in iter_lines(self._store.blocks(file_id)):
            found = checker.feed(line.data, line.number)
            if checker.lines > self._max_lines:
                text = f"The file has more than {self._max_lines} requests."
                return Cut(None, 0, 0, None, [], [LineError("too_many_requests", text, line.number)])
            if found and not checker.errors:
                self._put(out, batch_id, line, checker.lines)
                limits.append(max_tokens(found[1]) if found[1] else None)
        checker.finish()
        total_limit = None if None in limits else sum(limit for limit in limits if limit is not None)
        size = out[-1]["byte_end"] - out[0]["byte_start"] if out else 0
        return Cut(checker.model, checker.lines, size, total_limit, out, checker.errors)

    def _put(self, out: list[dict[str, Any]], batch_id: str, line: Line, ordinal: int) -> None:
        last = out[-1] if out else None
        if last and last["lines"] < self._chunk_lines and line.end - last["byte_start"] <= self._chunk_bytes:
            last["lines"] += 1
            last["byte_end"] = line.end
            return
        out.append(
            {
                "id": self._ids.new("chunk"),
                "batch_id": batch_id,
                "position": len(out),
                "first_line": ordinal,
                "lines": 1,
                "byte_start": line.start,
                "byte_end": line.end,
                "suspects": [],
            }
        )
