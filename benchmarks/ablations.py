"""Does each refinement of a plan earn its place? Each on and off, on the same batches, weeks and grids. The last line is JSON.

`python -m benchmarks.ablations [--weeks 6] [--days 4] [--solver] [--server] [--confirm]`. Half-years by which things may be set:
July to December 2021 (CarbonCast as issued) and January to June 2022 (our own models, learnt before), both corrected by what came
true since. `--confirm` looks at July to December 2022 instead, by which nothing may be changed. A week is sampled by a seed and
has batches of its own; all variants of a week have the same, so that differences are paired. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from batchsched.forecasts import Provider
from batchsched.forecasts.corrected import Corrected
from batchsched.simulate import Conditions, Grid, Outcome, Scene, backtest, draw_scene, simulate
from batchsched.simulate.data import opened
from batchsched.simulate.rolling import hours_of
from batchsched.simulate.scenarios import weeks
from benchmarks.ablations_tried import RUN_NOW, Held, Refinement, Variant, base_of, refinements, variants
from benchmarks.attempts import Failed, LeftOut, complete, ran
from benchmarks.carbon_grid import SITES, cache_folder, data_folder, issued_before
from benchmarks.forecast_ours import Remaining
from benchmarks.paired import interval

SEED = 11


class Half(msgspec.Struct, frozen=True):
    """A half-year: its weeks lie within these two instants."""

    name: str
    first: datetime
    last: datetime
    zones: tuple[str, ...]
    own: bool = False
    """Forecasts are our own models'; else CarbonCast's."""


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


class Asked(msgspec.Struct, frozen=True):
    """What all trials have in common. `only`: refinements whose names hold one of these words, all where empty; `folder`: of the
    data, without which the weather is drawn; `cache`: of what was learnt."""

    base: str
    solver: bool
    only: tuple[str, ...]
    days: int
    load: float
    server: bool
    folder: Path | None
    cache: Path

    def tried(self) -> list[Refinement]:
        """What is switched."""
        found = refinements(base_of(self.base), solver=self.solver)
        found = [one for one in found if not (self.server and one.planner_only)]
        return [one for one in found if not self.only or any(word in one.name for word in self.only)]


class Trial(msgspec.Struct, frozen=True):
    """A week and its batches."""

    half: Half
    week: datetime
    seed: int


class Came(msgspec.Struct, frozen=True):
    """What a variant came to in a trial."""

    grams: float
    missed_pct: float
    engine_starts: int
    moved: float
    planning_s: float


def trial(asked: Asked, one: Trial) -> dict[str, Came]:
    """All variants in one week."""
    scene = draw_scene(one.half.zones, asked.days, one.seed, load=asked.load)
    hours, found = hours_of(scene), dict[str, Came]()
    with provider_of(asked, one, hours) as provider:
        grids = {fresh: Grid(provider if fresh else Held(provider), one.half.zones, one.week, hours) for fresh in (True, False)}
        for variant in variants(asked.tried()):
            came = complete(run(scene, grids[variant.nowcast], variant, server=asked.server))
            spent_s = came.planning_cpu_s / max(1, came.replans)
            found[variant.name] = Came(came.grams, 100 * came.missed_share, came.engine_starts, came.churn, spent_s)
    return found


def run(scene: Scene, grid: Grid, variant: Variant, *, server: bool) -> Outcome:
    """By the whole server, or by the planner alone."""
    if server:
        return backtest(scene, grid, variant.policy, Conditions(slot_s=variant.slot_s))[0]
    return simulate(scene, grid, variant.policy, slot_s=variant.slot_s)


@contextmanager
def provider_of(asked: Asked, one: Trial, hours: int) -> Generator[Provider]:
    """Forecasts as plans read them."""
    if asked.folder is not None and one.half.own:
        yield Corrected(issued_before(asked.folder, SITES, asked.cache))
        return
    with opened(asked.folder, one.half.zones, one.week, hours, one.seed) as provider:
        yield provider


def judged(tried: Sequence[Refinement], trials: Sequence[dict[str, Came]]) -> list[dict[str, Any]]:
    """A row a refinement. `points`: what it saves beside its opposite, in per cent of what running at once emits, with its 95 %
    interval over the weeks; `more_missed`: points of the batches."""
    rows: list[dict[str, Any]] = []
    for one in tried:
        pairs = [(came[one.on.name], came[one.off.name], came[RUN_NOW.name]) for came in trials]
        points = interval([100 * (off.grams - on.grams) / now.grams for on, off, now in pairs])
        more_missed = float(np.mean([on.missed_pct - off.missed_pct for on, off, _ in pairs]))
        rows.append(
            {
                "refinement": one.name,
                "default": "on" if one.default else "off",
                "setting": one.setting,
                "points": points,
                "more_missed": round(more_missed, 2),
                "starts": _ratio([(on.engine_starts, off.engine_starts) for on, off, _ in pairs]),
                "moved": _ratio([(on.moved, off.moved) for on, off, _ in pairs]),
                "planning": _ratio([(on.planning_s, off.planning_s) for on, off, _ in pairs]),
                "verdict": verdict(points, more_missed),
            }
        )
    return rows


def verdict(points: Sequence[float], more_missed: float) -> str:
    """Does it earn its place? Only where the whole interval says so; and deadlines come before grams."""
    low, high = points[-2:] if len(points) > 1 else (points[0], points[0])
    if len(points) == 1:
        return "too few weeks"
    if high < 0:
        return "costs"
    if low > 0:
        return "earns" if more_missed <= 0 else "earns, but misses more"
    return "keeps deadlines" if more_missed < 0 else "not seen"


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Of the sums."""
    below = sum(off for _, off in pairs)
    return round(sum(on for on, _ in pairs) / below, 2) if below else 1.0


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A table for people, and what it comes to."""
    heads = ("default", "points", "more_missed", "starts", "moved", "planning", "verdict")
    titles: dict[str, Any] = dict(zip(heads, heads, strict=True))
    for row in ({"refinement": "refinement", **titles}, *rows):
        said = "{:<9}{!s:>22}{:>13}{:>8}{:>8}{:>10}  {}".format(*(row[head] for head in heads))
        print(f"{row['refinement']:46}{said}")
    for key, names in named(rows).items():
        print(f"{key.replace('_', ' ')}: {'; '.join(names) or 'none'}")


def named(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """What is on by default and earns nothing; what is off and would earn."""
    good = {"earns", "keeps deadlines"}
    return {
        "on_and_does_not_earn": [row["refinement"] for row in rows if row["default"] == "on" and row["verdict"] not in good],
        "off_and_would_earn": [row["refinement"] for row in rows if row["default"] == "off" and row["verdict"] == "earns"],
    }


def trials_of(halves: Sequence[Half], count: int) -> list[Trial]:
    """So many weeks of each half-year; the batches of each from a seed of its own."""
    found = [(half, week) for half in halves for week in weeks(half.first, half.last, count, SEED)]
    return [Trial(half, week, seed) for seed, (half, week) in enumerate(found)]


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weeks", type=int, default=6, help="of each half-year")
    parser.add_argument("--days", type=int, default=4, help="for which batches come in each")
    parser.add_argument("--load", type=float, default=0.3)
    parser.add_argument("--base", choices=("greedy", "planner"), default="greedy", help="`planner`: with the solver, much slower")
    parser.add_argument("--solver", action="store_true", help="the solver against greedy plans too")
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="refinements with this in their names")
    parser.add_argument("--server", action="store_true", help="by the whole server, not the planner alone")
    parser.add_argument("--confirm", action="store_true", help="July to December 2022, on which nothing is tuned")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    said = parser.parse_args()
    folder = data_folder() if data_folder().is_dir() else None
    if folder is None:
        print(f"There is no data in {data_folder()} (set BATCHSCHED_DATA): drawn weather says nothing of real grids.")
    asked = Asked(said.base, said.solver, tuple(said.only), said.days, said.load, said.server, folder, cache_folder())
    halves = CONFIRMS if said.confirm else TUNED
    by = "server" if said.server else "planner"
    print(f"{platform.machine()}, Python {platform.python_version()}; {said.base}, by the {by}; load {said.load:g}")
    print("; ".join(f"{said.weeks} weeks of {half.name}: {', '.join(half.zones)}" for half in halves))
    if folder is not None and any(half.own for half in halves):
        issued_before(folder, SITES, cache_folder(), said.jobs)  # learnt once, before there are processes
    plan = trials_of(halves, said.weeks)
    told, found = Remaining("tried", len(plan), "weeks"), list[dict[str, Came]]()
    failed: list[Failed[Trial]] = []
    for came in ran(partial(trial, asked), plan, said.jobs):
        if isinstance(came, Failed):
            failed.append(came)
        elif not isinstance(came, LeftOut):
            found.append(came)
        told.done()
    if not found:
        sys.exit(f"Every week failed, the first one so: {failed[0].why}")
    rows = judged(asked.tried(), found)
    show(rows)
    lost = [f"{one.run.half.name}, week of {one.run.week:%Y-%m-%d}: {one.why}" for one in failed]
    for one in lost:
        print(f"FAILED, and left out: {one}")
    about = {
        "halves": [half.name for half in halves],
        "by": by,
        "base": said.base,
        "weeks": len(found),
        "failed": lost,
        "drawn": folder is None,
    }
    print(json.dumps({**about, **named(rows), "rows": rows}))


if __name__ == "__main__":
    main()
