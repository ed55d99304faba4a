"""In which order `benchmarks/carbon.py` runs what it runs, and what of it fits into its time.

A block is a week of a scenario. Blocks are run in order of their worth, so that where time is short what is worth least is left
out, by name. What a run takes is guessed by what others of its kind have taken in the same run, at first by what was seen once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from batchsched.simulate.scenarios import weeks
from benchmarks.carbon_rows import Row, Run

WORTH = ("regions", "single, 24 h", "single, 96 h", "regions, exact", "single, 48 h", "single, 6 h")
"""Scenarios; the others come after them."""
LAST_OF_ALL = ("single, 48 h", "single, 6 h")
"""After all weeks of the others: no goal is set for them."""
SOLVER_S, SIMPLE_S = 130.0, 5.0
"""Of a processor, a week with a fleet by the planner alone, with the solver and without (2026-11-22, 2 x AMD EPYC)."""
SERVED_S = 45.0
"""More than these, where the whole server runs it."""
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
        before: set[datetime] = set()
        for number in range(1, counts[scenario] + 1):
            now = {*weeks(first, last, number, seed)}
            found += [((scenario in LAST_OF_ALL, number, place), Block(scenario, week)) for week in sorted(now - before)]
            before = now
    return [block for _, block in sorted(found, key=lambda one: one[0])]


def _worth(scenario: str) -> int:
    return WORTH.index(scenario) if scenario in WORTH else len(WORTH)


def guess_s(run: Run, *, solved: bool) -> float:
    """Seconds of a processor, for a week."""
    if run.scenario.startswith("single"):
        alone_s = SINGLE_S[int(run.scenario.split(", ")[1].split()[0])]
    else:
        alone_s = SOLVER_S if solved else SIMPLE_S
    return (alone_s + (SERVED_S if run.by == "server" else 0.0)) * run.days / 7


class Budget:
    """The time that there is, and what runs of each kind take."""

    def __init__(
        self, minutes: float, jobs: int, kind: Callable[[Run], tuple[str, float]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`kind`: of a run, a name of its kind and a guess at the seconds that it takes."""
        self._ends, self._jobs, self._kind, self._clock = clock() + minutes * 60, jobs, kind, clock
        self._longest_s: dict[str, float] = {}
        self._took_s = self._guessed_s = 0.0

    def learn(self, row: Row) -> None:
        """What a run took on the clock."""
        kind, guess = self._kind(row.run)
        self._longest_s[kind] = max(row.took_s, self._longest_s.get(kind, 0.0))
        self._took_s += row.took_s
        self._guessed_s += guess

    def fits(self, run: Run) -> bool:
        """Would it be done in time, if it took as long as the longest of its kind?"""
        kind, guess = self._kind(run)
        slower = self._took_s / self._guessed_s if self._guessed_s > 0 else 1.0
        return self._clock() + self._longest_s.get(kind, guess * slower) <= self._ends

    def said(self, planned: Iterable[tuple[Block, list[Run]]]) -> Iterator[str]:
        """What is planned, a line a block: how many runs, and whether they will fit if guesses hold."""
        left_s = self._ends - self._clock()
        yield f"{timedelta(seconds=round(left_s))} of time, {self._jobs} processes; in order of worth:"
        needed_s = 0.0
        for block, runs in planned:
            mine_s = sum(self._kind(run)[1] for run in runs)
            needed_s += mine_s / self._jobs
            fits = "" if needed_s <= left_s else "; will hardly fit"
            yield f"- {block}: {len(runs)} runs, {mine_s / 60:.1f} minutes of a processor{fits}"
