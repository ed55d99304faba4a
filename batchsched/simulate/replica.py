"""One modelled executor: the engine that it has, the chunk that it holds, and what its meter saw that was nobody's."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from batchsched.simulate.rooms import ALONE, Room
from batchsched.simulate.scene import Arrival
from batchsched.simulate.truth import Lines
from batchsched.wire import Lease, Meter, SpentPart


class Held(msgspec.Struct):
    """A lease at work. Seconds count from the start of the simulation."""

    lease: Lease
    arrival: Arrival
    lines: Lines
    todo: list[int]
    """Line numbers, in order; those that are recorded are taken off."""
    began_s: float
    """When the first of `todo` as it was at first began: what had to be moved is there."""
    luck: float
    """How many times as long its lines take as those of its batch usually do."""
    line_s: float
    power_w: float
    metered_s: float
    """Until when the server knows what it took."""
    done: int = 0
    stopping: bool = False
    """It is to be given back at the end of the line in hand."""
    lost: bool = False
    """It is somebody else's, or its batch has ended."""
    room: Room = ALONE
    """What others leave of its server: `line_s` is what a line would take alone."""

    @property
    def ends_s(self) -> float:
        """When all of it is done."""
        return self.room.when(self.began_s, (self.done + len(self.todo)) * self.line_s)

    @property
    def done_s(self) -> float:
        """When the lines that were done by then were."""
        return self.room.when(self.began_s, self.done * self.line_s)

    def due(self, now_s: float) -> int:
        """Lines that are done by now and not recorded."""
        if now_s <= self.began_s:
            return 0
        return max(0, min(len(self.todo), int(self.room.worked_s(self.began_s, now_s) / self.line_s + 1e-6) - self.done))


class Replica(msgspec.Struct):
    """`turn` grows with each thing that it begins, so that what was to end another is known to be late."""

    name: str
    pool: str
    worker_id: str
    state: Literal["idle", "starting", "working", "down"] = "idle"
    model: str | None = None
    """Of its engine."""
    held: Held | None = None
    keep: bool = False
    """The plan counts on its engine."""
    idle_s: float = 0.0
    """Since when its engine has no work, as the server was told it."""
    free_s: float = 0.0
    """Since when it has none."""
    seen_s: float = 0.0
    """When the server last heard of it."""
    began_s: float = 0.0
    """When its engine's last start began."""
    startup: Meter | None = None
    """Of a start that no chunk was charged for yet."""
    unsaid: list[SpentPart] = []
    said: int = 0
    starts: int = 0
    failures: int = 0
    left_s: float = 0.0
    """Seconds of work until it fails."""
    cut_s: float = -math.inf
    """Until when nothing is heard of it."""
    turn: int = 0

    def goes_down(self) -> None:
        """Its engine and what it held are gone."""
        self.state, self.held, self.model, self.startup = "down", None, None, None
        self.turn += 1

    @property
    def ready(self) -> list[str]:
        """What its engine serves right now."""
        return [self.model] if self.model is not None and self.state in {"idle", "working"} else []
