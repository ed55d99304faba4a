"""The trials of a profile on this machine's disk: written as they end, so that a run that was stopped goes on from there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from batchsched.disk import append, room, sync_folder
from batchsched.wire import Probe, Trial


class TrialLog:
    """One file for a model on a pool. A line that a crash cut off is passed over."""

    def __init__(self, folder: Path, pool: str, model: str) -> None:
        self._mine = pool, model
        self.path = folder / f"profile-{_slug(pool)}-{_slug(model)}.jsonl"
        self.trials: list[Trial] = []
        lines = self.path.read_bytes().split(b"\n") if self.path.is_file() else []
        for line in lines:
            try:
                self.trials.append(msgspec.json.decode(line, type=Trial))
            except msgspec.DecodeError:
                continue

    def of(self, probe: Probe, setting: str) -> list[Trial]:
        """What was measured of a probe in this setting, oldest first."""
        wanted = (*self._mine, probe, setting)  # two names may make one file name
        return [trial for trial in self.trials if (trial.pool, trial.model, trial.probe, trial.setting) == wanted]

    def in_setting(self, setting: str) -> int:
        """How many trials of any probe there are in this setting."""
        return sum((trial.pool, trial.model, trial.setting) == (*self._mine, setting) for trial in self.trials)

    def add(self, trial: Trial) -> None:
        """Keep one; it survives a crash once this returns. Raises StorageFull."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with room():
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                # On a line of its own, also after one that a crash cut off.
                append(descriptor, b"\n" + msgspec.json.encode(trial))
            finally:
                os.close(descriptor)
        sync_folder(self.path.parent)
        self.trials.append(trial)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
