"""What a launcher must not forget over a restart: the launch of each pool that is known to work, those that were taken back, and
the last number given to a replica."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from batchsched.disk import put
from batchsched.errors import LaunchFailed
from batchsched.executors.launchers.port import Spec

_FILE = "launches.json"
_REFUSALS_KEPT = 20


class Launch(msgspec.Struct):
    """Of one pool. `good`: what its replicas run, once one of them has shown that it works; until then what was configured first.
    `refused`: why others were taken back, by digest."""

    good: Spec
    refused: dict[str, str] = {}
    devices: list[str] = []
    """What each place has of the machine, by the replicas that run: see loop.py."""
    refused_in: dict[str, int] = {}
    """Of those of `refused` against which all that spoke happened in one place, by digest: which."""
    grace_s: float | None = None
    """How long its replicas may take to end, as it was declared last: for when its pool is not served here any more. None: a
    launcher of an older version wrote this."""

    def refuse(self, digest: str, why: str, place: int | None) -> None:
        """A launch is taken back."""
        self.refused[digest] = why
        if place is not None:
            self.refused_in[digest] = place

    def pardon(self, broken: Collection[int]) -> list[str]:
        """Digests of launches that were refused for what happened in places that turned out to be broken: not any more."""
        pardoned = [digest for digest, place in self.refused_in.items() if place in broken]
        for digest in pardoned:
            del self.refused_in[digest]
            self.refused.pop(digest, None)
        return pardoned


class Memory(msgspec.Struct):
    """All of it; `number` grows with each start."""

    pools: dict[str, Launch] = {}
    number: int = 0


class Notebook:
    """The memory and its file."""

    def __init__(self, folder: Path) -> None:
        """Raises LaunchFailed where the file cannot be read for what it should be."""
        self._path = folder / _FILE
        self.memory = Memory()
        if self._path.exists():
            try:
                self.memory = msgspec.json.decode(self._path.read_bytes(), type=Memory)
            except (OSError, msgspec.DecodeError) as problem:
                raise LaunchFailed(
                    f"The launcher's memory, {self._path}, cannot be read: {problem}.",
                    hint="Take the file away: the launcher then goes by its configuration alone.",
                ) from problem

    def keep(self) -> None:
        """Write it down: it survives a crash once this returns. Raises StorageFull."""
        for launch in self.memory.pools.values():
            for digest in list(launch.refused)[:-_REFUSALS_KEPT]:
                del launch.refused[digest]
                launch.refused_in.pop(digest, None)
        put(self._path, msgspec.json.encode(self.memory))

    def next_number(self) -> int:
        """A number that was never given before, whatever happens next."""
        self.memory.number += 1
        self.keep()
        return self.memory.number
