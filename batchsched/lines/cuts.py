"""Where a file is cut into chunks."""

from __future__ import annotations

from collections.abc import Iterable


class Cuts:
    """Gathers lines into chunks of at most so many lines and bytes (a longer line is a chunk of its own)."""

    def __init__(self, chunk_lines: int, chunk_bytes: int) -> None:
        self._chunk_lines, self._chunk_bytes = chunk_lines, chunk_bytes
        self._done: list[tuple[int, int, int]] = []
        self._lines, self._start, self._end = 0, 0, 0

    def add(self, start: int, lengths: Iterable[int]) -> None:
        """The next lines: their first byte, and the bytes of each."""
        lines, first, last = self._lines, self._start, self._end
        for length in lengths:
            end = start + length
            if lines == 0:
                first = start
            elif lines >= self._chunk_lines or end - first > self._chunk_bytes:
                self._done.append((lines, first, last))
                lines, first = 0, start
            lines += 1
            start = last = end
        self._lines, self._start, self._end = lines, first, last

    def all(self) -> list[tuple[int, int, int]]:
        """Each chunk's number of lines, first byte, and byte after the last."""
        return [*self._done, (self._lines, self._start, self._end)] if self._lines else self._done
