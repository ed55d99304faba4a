"""Does each refinement of a plan earn its place? Each on and off, on the same batches, weeks and grids. The last line is JSON.

`python -m benchmarks.ablations [--weeks 6] [--days 4] [--solver] [--server] [--confirm] [--minutes M] [--rows FILE]`.
Half-years by which things may be set: July to December 2021 (CarbonCast as issued) and January to June 2022 (our own models,
learnt before), both corrected by what came true since. `--confirm` looks at July to December 2022 instead, by which nothing
may be changed. A week is sampled by a seed and has batches of its own; all variants of a week have the same, so that
differences are paired. It is run week by week: each run is said as it comes, after each week what stands so far, and `--rows
FILE --minutes 0` tells what a run that was stopped has. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from batchsched.forecasts import Provider
from batchsched.forecasts.corrected import Corrected
from batchsched.simulate import Conditions, Grid, Outcome, Scene, backtest, draw_scene, simulate
from batchsched.simulate.data import opened
from batchsched.simulate.rolling import hours_of
from benchmarks.ablations_judged import Asked, Half, Row, Run, Trial, by_trial, judged, named, show
from benchmarks.ablations_tried import Held, Refinement, Variant, base_of, refinements, variants
from benchmarks.attempts import Failed, LeftOut, complete
from benchmarks.budget import Budget
from benchmarks.carbon_grid import SITES, cache_folder, data_folder, issued_before
from benchmarks.carbon_plan import SERVED_S, SIMPLE_S, SOLVER_S, in_turn
from benchmarks.kept import Kept
from benchmarks.taken import Taken

SEED = 11
WEEK_S = 604_800
TUNED = (
    Half(
        "2021, second half",
        datetime(2021, 8, 16, tzinfo=UTC),
        datetime(2021, 12, 13, tzinfo=UTC),
        ("PJM", "CISO", "ISNE", "DE", "NL"),
    ),
    Half("2022, first half", datetime(2022, 1, 3, tzinfo=UTC), datetime(2022, 6, 13, tzinfo=UTC), SITES, own=True),
)
"""The first starts so late that the correction has something to learn from."""
CONFIRMS = (Half("2022, second half", datetime(2022, 8, 15, tzinfo=UTC), datetime(2022, 12, 12, tzinfo=UTC), SITES),)


class Week:
    """A week's batches and grids: kept for the variants of it that a process runs one after the other."""

    last: tuple[tuple[Asked, Trial], Week] | None = None

    def __init__(self, asked: Asked, trial: Trial) -> None:
        self.scene = draw_scene(trial.half.zones, asked.days, trial.seed, load=asked.load)
        hours, self._open = hours_of(self.scene), ExitStack()
        provider = self._open.enter_context(provider_of(asked, trial, hours))
        self._fresh = Grid(provider, trial.half.zones, trial.week, hours)
        self._held = Grid(Held(provider), trial.half.zones, trial.week, hours)

    def grid(self, variant: Variant) -> Grid:
        """As a variant sees it."""
        return self._fresh if variant.nowcast else self._held

    @classmethod
    def of(cls, asked: Asked, trial: Trial) -> Week:
        """This one; the one before it is let go."""
        if cls.last is None or cls.last[0] != (asked, trial):
            if cls.last is not None:
                cls.last[1]._open.close()
            cls.last = (asked, trial), cls(asked, trial)
        return cls.last[1]


@contextmanager
def provider_of(asked: Asked, one: Trial, hours: int) -> Generator[Provider]:
    """Forecasts as plans read them."""
    if one.half.own and not asked.drawn:
        yield Corrected(issued_before(data_folder(), SITES, cache_folder()))
        return
    with opened(None if asked.drawn else data_folder(), one.half.zones, one.week, hours, one.seed) as provider:
        yield provider


def run(one: Run) -> Row:
    """Simulate it; work that was left undone is an error."""
    began, week = time.perf_counter(), Week.of(one.asked, one.trial)
    variant = {of.name: of for of in variants(refinements(base_of(one.asked.base), solver=True))}[one.variant]
    came = complete(simulated(week.scene, week.grid(variant), variant, server=one.asked.by == "server"))
    return Row(
        run=one,
        grams=came.grams,
        missed_pct=100 * came.missed_share,
        engine_starts=came.engine_starts,
        moved=came.churn,
        planning_s=came.planning_cpu_s / max(1, came.replans),
        took_s=time.perf_counter() - began,
    )


def simulated(scene: Scene, grid: Grid, variant: Variant, *, server: bool) -> Outcome:
    """By the whole server, or by the planner alone."""
    if server:
        return backtest(scene, grid, variant.policy, Conditions(slot_s=variant.slot_s))[0]
    return simulate(scene, grid, variant.policy, slot_s=variant.slot_s)


def tried(base: str, only: Sequence[str], *, solver: bool, server: bool) -> list[Refinement]:
    """What is switched. `only`: with one of these words in its name, all where empty."""
    found = [one for one in refinements(base_of(base), solver=solver) if not (server and one.planner_only)]
    return [one for one in found if not only or any(word in one.name for word in only)]


def trials_of(halves: Sequence[Half], count: int) -> list[Trial]:
    """So many weeks of each half-year, each with batches of its own: first one of each, then a second one. A week has the same
    batches however many there are, so that more may be added to the rows of few."""
    weeks = [(number, half, week) for half in halves for number, week in enumerate(in_turn(half.first, half.last, count, SEED))]
    return [Trial(half, week, int(week.timestamp()) // WEEK_S) for _, half, week in sorted(weeks, key=lambda one: one[0])]


def kind_of(one: Run) -> tuple[str, float]:
    """What others take as long as a run, and a guess at its seconds."""
    solved = one.variant == "solver" or (one.asked.base == "planner" and one.variant not in ("run now", "greedy"))
    guess_s = (SOLVER_S if solved else SIMPLE_S) + (SERVED_S if one.asked.by == "server" else 0.0)
    fine = one.variant == "15 min"
    name = f"{one.asked.by}, {'solved' if solved else 'simple'}{', fine' if fine else ''}"
    return name, guess_s * one.asked.days / 7 * (4 if fine and solved else 1)


class Found(Taken[Run, Row]):
    """What was run; each is said as it comes."""

    def __init__(self, budget: Budget[Run], jobs: int, kept: Kept[Row] | None) -> None:
        super().__init__(run, budget, jobs, kept)

    def _take(self, one: Row | Failed[Run] | LeftOut[Run]) -> None:
        if isinstance(one, Failed):
            print(f"FAILED: {one.run}: {one.why}", flush=True)
        elif isinstance(one, Row):
            print(one, flush=True)
        super()._take(one)


def main() -> None:
    """Run, print."""
    said = _said()
    drawn = not data_folder().is_dir()
    if drawn:
        print(f"There is no data in {data_folder()} (set BATCHSCHED_DATA): drawn weather says nothing of real grids.")
    asked = Asked(said.base, "server" if said.server else "planner", said.days, said.load, drawn)
    halves = CONFIRMS if said.confirm else TUNED
    print(f"{platform.machine()}, Python {platform.python_version()}; {asked.base}, by the {asked.by}; load {asked.load:g}")
    print("; ".join(f"{said.weeks} weeks of {half.name}: {', '.join(half.zones)}" for half in halves))
    if not drawn and any(half.own for half in halves):
        issued_before(data_folder(), SITES, cache_folder(), said.jobs)  # learnt once, before there are processes
    switched = tried(asked.base, said.only, solver=said.solver, server=said.server)
    budget = Budget(math.inf if said.minutes is None else said.minutes, said.jobs, kind_of)
    plan = {one: [Run(asked, one, variant.name) for variant in variants(switched)] for one in trials_of(halves, said.weeks)}
    print("\n".join(budget.said(plan.items())), flush=True)
    found = Found(budget, said.jobs, Kept(said.rows, Row) if said.rows else None)
    for trial, runs in plan.items():
        fresh = found.add(runs, "tried", "variants of the week")
        if fresh and trial != list(plan)[-1] and (so_far := judged(switched, by_trial(found.rows))):
            print(f"\n## Until {trial}")
            show(so_far)
    _tell(found, switched, asked, halves)


def _tell(found: Found, switched: Sequence[Refinement], asked: Asked, halves: Sequence[Half]) -> None:
    """The table, and the last line."""
    rows = judged(switched, by_trial(found.rows))
    print("\n## All of it")
    show(rows)
    for one in found.failed:
        print(f"FAILED, and left out: {one.run}: {one.why}")
    for left in found.left_out:
        print(f"LEFT OUT for lack of time: {left}")
    about = {
        "halves": [half.name for half in halves],
        "by": asked.by,
        "base": asked.base,
        "days": asked.days,
        "load": asked.load,
        "drawn": asked.drawn,
        "weeks": max((row["weeks"] for row in rows), default=0),
        "failed": [f"{one.run}: {one.why}" for one in found.failed],
        "left_out": [str(one) for one in found.left_out],
    }
    print(json.dumps({**about, **named(rows), "rows": rows}))
    if not rows and not found.left_out:
        sys.exit("No refinement came through a week.")


def _said() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weeks", type=int, default=6, help="of each half-year")
    parser.add_argument("--days", type=int, default=4, help="for which batches come in each")
    parser.add_argument("--load", type=float, default=0.3)
    parser.add_argument("--base", choices=("greedy", "planner"), default="greedy", help="`planner`: with the solver, much slower")
    parser.add_argument("--solver", action="store_true", help="the solver against greedy plans too")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="refinements with this in their names")
    parser.add_argument("--server", action="store_true", help="by the whole server, not the planner alone")
    parser.add_argument("--confirm", action="store_true", help="July to December 2022, on which nothing is tuned")
    parser.add_argument("--minutes", type=float, help="of time, after which nothing more begins; 0 shows what --rows has")
    parser.add_argument("--rows", type=Path, help="file for rows as they come; those in it are not run again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
