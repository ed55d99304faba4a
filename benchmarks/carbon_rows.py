"""What `benchmarks/carbon.py` runs, and what each run came to."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

By = Literal["planner", "server"]
"""Simulated by the planner alone, hour by hour, or by the whole server with modelled executors."""
WHOLE = ", whole server"


class Run(msgspec.Struct, frozen=True):
    """One policy in one week of a scenario."""

    scenario: str
    week: datetime
    policy: str
    by: By = "planner"

    @property
    def table(self) -> str:
        """The one that its row stands in."""
        return self.scenario + WHOLE if self.by == "server" else self.scenario


class Row(msgspec.Struct, frozen=True):
    """What it came to. `ceiling_g`: of the planner alone; NaN else, where luck is drawn that the bound does not know."""

    run: Run
    grams: float
    batches: int
    missed: int
    wait_h: float
    gpu_h: float
    money: float
    moved: float
    hurried_h: float
    starting_g: float
    idle_g: float
    planning_s: float
    ceiling_g: float
    promised: int = 0
    """Batches that a server called feasible when they came; of the planner alone, which makes no promise, all."""
    broken: int = 0
    """Of those, not done in time."""
