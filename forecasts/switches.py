"""Who served a zone from when on, and why it changed: a file that only grows, a line of JSON for each change."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path

import msgspec

from batchsched.forecasts.chain import Choice

SWITCHES = "switches.jsonl"
"""Its name in the archive's folder."""


class Switch(msgspec.Struct, frozen=True):
    """From `at` on, `source` serves the zone; before it was `before`, None where nobody was."""

    at: datetime
    zone: str
    before: str | None
    source: str
    why: str


class Switches:
    """The record in one file. Thread-safe; one process writes, any may read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._newest: dict[str, Switch] | None = None

    def record(self, choice: Choice) -> Switch | None:
        """Note who serves; the switch where that is another than before, None where it is not."""
        with self._lock:
            if self._newest is None:
                self._newest = self.newest()
            before = self._newest.get(choice.zone)
            if before and before.source == choice.source:
                return None
            switch = Switch(choice.at, choice.zone, before.source if before else None, choice.source, choice.why)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(b"\n" + msgspec.json.encode(switch))  # in front, so that a line cut short by a crash stays alone
            self._newest[choice.zone] = switch
            return switch

    def newest(self) -> dict[str, Switch]:
        """The last change of each zone."""
        return {switch.zone: switch for switch in self.all()}

    def all(self) -> list[Switch]:
        """Every change, the oldest first; a line that a crash cut short is left out."""
        found: list[Switch] = []
        for line in self._path.read_bytes().splitlines() if self._path.is_file() else []:
            try:
                found.append(msgspec.json.decode(line, type=Switch))
            except msgspec.DecodeError:
                continue
        return found
