"""How long to wait for an answer: by how long the request is, and by the pace at which this engine has answered.

A limit that is the same for all is too short for a long answer on an old GPU, or leaves a request that hangs in its place for an
hour. An engine's pace is seconds a token written (a token read counts for a sixteenth: prompts are read many at once), waiting in
the engine's own queue included. The slowest of late counts, ten times: a limit is for what will never come.
"""

from __future__ import annotations

from batchsched.executors.demand import Demand

FLOOR_S = 60.0
FACTOR = 10.0
ANSWERS = 8
"""Before so many answers nothing is known of an engine."""
_READ_SHARE = 1 / 16
_OVERHEAD_TOKENS = 8
_FADING = 0.995
"""Of what was slowest, for each further answer: half is forgotten after 140."""
_BYTES_PER_TOKEN = 2.0
"""Prompts of other alphabets come close to it; a guess that is too long does no harm here."""


class Patience:
    """With one engine. `longest_s`: never wait longer for one answer (`worker.request_timeout_s`)."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._slowest_s, self._answers = 0.0, 0

    def begin(self) -> None:
        """Another engine, or the same one begun anew: it may be slower."""
        self._slowest_s, self._answers = 0.0, 0

    def learn(self, seconds: float, read: int, written: int) -> None:
        """An answer came after so long."""
        pace_s = seconds / _weight(read, written)
        self._slowest_s = max(pace_s, _FADING * self._slowest_s)
        self._answers += 1

    def limit_s(self, demand: Demand, context: int | None, tries: int = 0, excused_s: float = 0.0) -> float:
        """How long to wait for it; each try doubles it. `context`: tokens that prompt and answer can have together. `excused_s`:
        of its time so far, with others at the engine, whose work no pace of ours foretells; the setting holds all the same."""
        written = context if demand.answer_tokens is None else demand.answer_tokens
        if self._answers < ANSWERS or written is None:
            return self._longest_s
        expected_s = self._slowest_s * _weight(demand.prompt_bytes / _BYTES_PER_TOKEN, written)
        return min(self._longest_s, max(FLOOR_S, FACTOR * expected_s) * float(2**tries) + excused_s)


def _weight(read: float, written: float) -> float:
    return written + _READ_SHARE * read + _OVERHEAD_TOKENS
