"""Files that somebody may still be writing: a recurring job takes one once it has come to rest.

At rest is a file that two looks saw as it is, and whose last change is some seconds ago by the server's clock; where it is dated
ahead of that, the looks themselves have to lie so far apart. What is written without that its size or its date change is not told
from rest. A last line that is cut off is given more time, and never becomes a request.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from batchsched.clock import Clock

LOOKS_APART_S = 1.0
"""Two looks sooner than that are one."""
CUT_FOR_S = 300.0
"""A file whose last line is cut off and that rests for so long will not be written on."""
NOT_AT_REST = "It waits: it may still be written, until it has not changed for {:g} s."
CUT = "It waits: its last line is cut off."
STAYS_CUT = "Its last line is cut off, and it has not changed for {:g} s."
_BLOCK_BYTES = 1 << 16


class Seen(NamedTuple):
    """How a file is now."""

    size: int
    mtime_ns: int

    @property
    def mark(self) -> str:
        """By which it is told from itself after a change."""
        return f"{self.size} {self.mtime_ns}"


class Rest(NamedTuple):
    """Whether a file is at rest; `again_s`: worth another look after so many seconds."""

    why_not: str | None = None
    again_s: float = 0.0
    given_up: bool = False
    """It will not come to rest: `why_not` is what is wrong with it."""
    unsure: bool = False
    """It may have come to rest while nobody looked: it was not seen to change, or long ago by its date."""


class _Look(NamedTuple):
    """A file as it was seen last, and since when (monotonic) it is so."""

    seen: Seen
    since_s: float
    changed: bool
    """It was seen otherwise before."""


class Settling:
    """What was seen of the files of one schedule. `settle_s`: so long a file has not changed; 0: all are taken as they are."""

    def __init__(self, clock: Clock, settle_s: float, longest_line_bytes: int) -> None:
        self._clock, self._settle_s, self._longest = clock, settle_s, longest_line_bytes
        self._looks: dict[Path, _Look] = {}

    def look(self, files: Iterable[tuple[Path, Seen]]) -> dict[Path, Rest]:
        """Each of them, as it stands; what was seen of others is forgotten."""
        found, now_s = dict(files), self._clock.monotonic()
        self._looks = {path: self._noted(path, seen, now_s) for path, seen in found.items()}
        return {path: self._rest(path, look, now_s) for path, look in self._looks.items()}

    def still(self, stream: IO[bytes], seen: Seen) -> bool:
        """Is a file that was read to its end still the one that was seen at rest?"""
        found = os.fstat(stream.fileno())
        return self._settle_s <= 0 or seen == (found.st_size, found.st_mtime_ns)

    def changed(self, path: Path, before: Seen) -> bool:
        """Is a file another by now than the one that was seen at rest, or gone?"""
        return self._settle_s > 0 and seen(path) != before

    def _noted(self, path: Path, seen: Seen, now_s: float) -> _Look:
        before = self._looks.get(path)
        return before if before and before.seen == seen else _Look(seen, now_s, before is not None)

    def _rest(self, path: Path, look: _Look, now_s: float) -> Rest:
        if self._settle_s <= 0:
            return Rest()
        watched_s = now_s - look.since_s
        quiet_s = max(watched_s, self._clock.now().timestamp() - look.seen.mtime_ns / 1e9)
        if watched_s < LOOKS_APART_S or quiet_s < self._settle_s:
            again_s = max(LOOKS_APART_S - watched_s, self._settle_s - quiet_s)
            unsure = not look.changed or quiet_s >= self._settle_s
            return Rest(NOT_AT_REST.format(self._settle_s), again_s, unsure=unsure)
        if not is_cut(path, self._longest):
            return Rest()
        if quiet_s < CUT_FOR_S:
            return Rest(CUT, CUT_FOR_S - quiet_s)
        return Rest(STAYS_CUT.format(CUT_FOR_S), given_up=True)


def seen(path: Path) -> Seen | None:
    """How a file is now; None where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Seen(found.st_size, found.st_mtime_ns)


def is_cut(path: Path, longest_line_bytes: int) -> bool:
    """Does a file end within a line: with the beginning of an object, and no end of it? A last line without a line's end is whole
    where its object is. What cannot be read, or is no text of lines, is not judged here."""
    try:
        last = _last_line(path, longest_line_bytes)
    except OSError:
        return False
    if last is None or not last.lstrip().startswith(b"{"):
        return False
    try:
        msgspec.json.decode(last)
    except msgspec.DecodeError:
        return True
    return False


def _last_line(path: Path, longest_bytes: int) -> bytes | None:
    """What stands after a file's last end of line, None where it is longer than a line may be."""
    with path.open("rb") as stream:
        end, tail = stream.seek(0, os.SEEK_END), b""
        while (start := end - len(tail)) > 0 and b"\n" not in tail:
            size = min(_BLOCK_BYTES, start)
            stream.seek(start - size)
            if len(tail) > longest_bytes or not (block := stream.read(size)):
                return None
            tail = block + tail
        return tail.rpartition(b"\n")[2]
