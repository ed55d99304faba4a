"""In which order `benchmarks/carbon.py` runs what it runs, and what of it fits into its time.

A block is a week of a scenario. Blocks are run in order of their worth, so that where time is short what is worth least is left
out, by name. What a run takes is guessed by what others of its kind have taken in the same run (budget.py), at first by what was
seen once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import msgspec

from batchsched.simulate.scenarios import weeks
from benchmarks.carbon_rows import Run

WORTH = ("everything", "single, 24 h", "single, 96 h", "regions, exact", "single, 48 h", "single, 6 h")
"""Scenarios; the others come after them."""
LAST_OF_ALL = ("single, 48 h", "single, 6 h")
"""After all weeks of the others: no goal is set for them."""
SOLVER_S, SIMPLE_S = 130.0, 5.0
"""Of a processor, a week with a fleet by the planner alone, with the solver and without (2026-11-22, 2 x AMD EPYC)."""
SERVED_S = 45.0
"""More than these, where the whole server runs it."""
LARGER = {"everything": 2.0}
"""How many times as long it takes where there are half as many pools again (2026-11-23)."""
SINGLE_S = {6: 6.0, 24: 11.0, 48: 20.0, 96: 45.0}
"""A week of single jobs of 25 zones by the planner alone, by window."""


class Block(msgspec.Struct, frozen=True):
    """A week of a scenario."""

    scenario: str
    week: datetime

    def __str__(self) -> str:
        return f"{self.scenario}, week of {self.week:%Y-%m-%d}"


def blocks(counts: Mapping[str, int], first: datetime, last: datetime, seed: int) -> list[Block]:
    """In order of worth: first weeks of all, then second ones. `counts`: how many weeks of each scenario; the weeks that a seed
    takes for a smaller number are among those of a larger one."""
    found: list[tuple[tuple[bool, int, int], Block]] = []
    for place, scenario in enumerate(sorted(counts, key=_worth)):
        for number, week in enumerate(in_turn(first, last, counts[scenario], seed)):
            found.append(((scenario in LAST_OF_ALL, number, place), Block(scenario, week)))
    return [block for _, block in sorted(found, key=lambda one: one[0])]


def in_turn(first: datetime, last: datetime, count: int, seed: int) -> Iterator[datetime]:
    """So many sampled weeks, first the one that is taken where only one is asked for, then the second one, and so on."""
    before: set[datetime] = set()
    for number in range(1, count + 1):
        now = {*weeks(first, last, number, seed)}
        yield from sorted(now - before)
        before = now


def _worth(scenario: str) -> int:
    return WORTH.index(scenario) if scenario in WORTH else len(WORTH)


def guess_s(run: Run, *, solved: bool) -> float:
    """Seconds of a processor, for a week."""
    if run.scenario.startswith("single"):
        alone_s = SINGLE_S[int(run.scenario.split(", ")[1].split()[0])]
    else:
        alone_s = SOLVER_S if solved else SIMPLE_S
    return (alone_s + (SERVED_S if run.by == "server" else 0.0)) * LARGER.get(run.scenario, 1.0) * run.days / 7
