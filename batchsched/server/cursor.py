"""Where a reader of partial results stands: the chunks that it has read whole, and its byte in those still growing.

As text: `<round>.<whole chunks>.<growing chunks>`, such as `0.0-119_121-121.120-4096`; `<round>.end` once that is all.
Chunks finish mostly in order, so that the text stays short however large the batch is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from batchsched.errors import InvalidValue
from batchsched.queue.rows import Row

MAX_PIECES = 400
"""Most spans and growing chunks in one cursor: a header has room for them. What lies behind them is told later."""
_PAIRS = r"((?:\d{1,15}-\d{1,15}(?:_\d{1,15}-\d{1,15})*)?)"
_TEXT = re.compile(rf"(\d{{1,9}})\.(?:end|{_PAIRS}\.{_PAIRS})")


class Cursor(msgspec.Struct, frozen=True):
    """`whole`: first and last positions of runs of chunks, ascending; `growing`: bytes read by position."""

    round: int
    whole: list[tuple[int, int]] = []
    growing: dict[int, int] = {}
    ended: bool = False

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises InvalidValue."""
        found = _TEXT.fullmatch(text)
        if found is None or text.count("-") > MAX_PIECES + 1:
            raise InvalidValue("'cursor' is not one that this server gave; leave it out to begin anew.", param="cursor")
        return cls(int(found[1]), sorted(_pairs(found[2])), dict(_pairs(found[3])), text.endswith("end"))

    def __str__(self) -> str:
        if self.ended:
            return f"{self.round}.end"
        return f"{self.round}.{_joined(self.whole)}.{_joined(sorted(self.growing.items()))}"

    @property
    def first(self) -> int:
        """The first position that is not read whole."""
        return self.whole[0][1] + 1 if self.whole and self.whole[0][0] == 0 else 0

    def has(self, position: int) -> bool:
        """Is this chunk read whole?"""
        return any(first <= position <= last for first, last in self.whole)

    def advance(self, rows: Iterable[Row]) -> tuple[list[tuple[Row, int]], Cursor]:
        """What these chunks (ascending) have to read, each from its byte; and the cursor after that."""
        fresh: list[tuple[Row, int]] = []
        whole, growing = list(self.whole), dict(self.growing)
        for row in rows:
            position, at = row["position"], growing.get(row["position"], 0)
            if self.has(position):
                continue
            then_whole, then_growing = whole, growing | {position: row["result_bytes"]}
            if row["state"] == "done":
                then_whole = _with(whole, position)
                del then_growing[position]
            if len(then_whole) + len(then_growing) > MAX_PIECES:
                continue
            whole, growing = then_whole, then_growing
            if row["result_bytes"] > at:
                fresh.append((row, at))
        return fresh, Cursor(self.round, whole, growing)


def _with(spans: list[tuple[int, int]], position: int) -> list[tuple[int, int]]:
    """Spans with one position more, those that touch made one."""
    out: list[tuple[int, int]] = []
    for first, last in sorted([*spans, (position, position)]):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(last, out[-1][1]))
        else:
            out.append((first, last))
    return out


def _pairs(text: str | None) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in (pair.split("-") for pair in (text or "").split("_") if pair)]


def _joined(pairs: Iterable[tuple[int, int]]) -> str:
    return "_".join(f"{a}-{b}" for a, b in pairs)
