"""Which sources do not answer, for whoever looks from outside the server: a small file, written anew at each change."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

FAILING = "failing.json"
"""Its name in the archive's folder."""


class State(msgspec.Struct, frozen=True):
    """How a source is doing: failures since it last answered, with the last one in words, and since when there is a problem.

    One that answers has no failure, and yet a problem where it did not answer about some zone.
    """

    source: str
    failures: int
    problem: str
    answered_at: datetime | None
    since: datetime | None = None


class Failing:
    """The file. Thread-safe; the server that asks writes, any process may read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def note(self, states: Iterable[State]) -> None:
        """Keep those that have a problem, in place of what was known of them; who has not been asked stays as it was."""
        asked = {state.source: state for state in states if state.problem or state.answered_at}
        with self._lock:
            before = self.all()
            now = {name: state for name, state in {**before, **asked}.items() if state.problem}
            if now != before:
                half = self._path.with_suffix(".half")
                with contextlib.suppress(OSError):  # a full disk, which others complain of
                    half.write_bytes(msgspec.json.encode(now))
                    half.replace(self._path)

    def all(self) -> dict[str, State]:
        """Those with a problem; a file that cannot be read says nothing."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, State])
        except (OSError, msgspec.DecodeError):
            return {}
