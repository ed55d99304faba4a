"""What `benchmarks/carbon.py` runs, and what each run came to."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
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
    days: int = 7

    @property
    def table(self) -> str:
        """The one that its row stands in."""
        return self.scenario + WHOLE if self.by == "server" else self.scenario

    def __str__(self) -> str:
        return f"{self.policy} ({self.table}, {'week' if self.days == 7 else f'{self.days} days'} of {self.week:%Y-%m-%d})"


class Row(msgspec.Struct, frozen=True):
    """What it came to. `ceiling_g`: of the planner alone; None else, where luck is drawn that the bound does not know."""

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
    ceiling_g: float | None
    promised: int = 0
    """Batches that a server called feasible when they came; of the planner alone, which makes no promise, all."""
    broken: int = 0
    """Of those, not done in time."""
    excused: int = 0
    """Of those, batches that took longer than the confidence allows for, or lost engines or pools."""
    took_s: float = 0.0
    """By the clock."""
    wasted_g: float = 0.0
    """Of starts without any work, and work that was lost."""
    files_g: float = 0.0
    """Of the network."""
    wait_p95_h: float = 0.0
    latest_h: float = 0.0
    """By how much the latest batch missed its deadline."""
    embodied_g: float = 0.0
    """Of making the hardware, where plans weigh that; not in `grams`."""


def share(part: float, of: float) -> float:
    """NaN where there is nothing to have a share of."""
    return part / of if of > 0 else math.nan


def told(value: float, digits: int) -> float | None:
    """As JSON has it: None where nothing can be told."""
    return round(value, digits) if math.isfinite(value) else None


def held_against(rows: Iterable[Row], yardsticks: Collection[str]) -> dict[str, list[Row]]:
    """Of one table, by policy, the weeks that all yardsticks came through; of the others only such as have each of these weeks.
    Empty where there is no such week."""
    found: dict[str, dict[datetime, Row]] = {}
    for row in rows:
        found.setdefault(row.run.policy, {})[row.run.week] = row
    weeks = sorted(set[datetime].intersection(*(set(found.get(name, ())) for name in yardsticks)))
    return {name: [mine[week] for week in weeks] for name, mine in found.items() if weeks and mine.keys() >= set(weeks)}
