"""What refinements of a plan earn when it is made again and again: a rolling simulation. The last line is JSON.

`python -m benchmarks.rolling [--seeds 4] [--days 4] [--load 0.3] [--half 2021] [--solver]`. Each seed draws its batches and a
week of the half-year; all variants of a seed have the same batches, forecasts and truth, so that differences are paired. See
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from batchsched.planner.problem import Risk
from batchsched.simulate import POLICIES, Grid, Outcome, Policy, captured, draw_scene, simulate
from batchsched.simulate.data import opened
from batchsched.simulate.policies import planned
from batchsched.simulate.rolling import hours_of

HALVES = {
    "2021": (datetime(2021, 8, 16, tzinfo=UTC), ("PJM", "CISO", "ISNE", "DE", "NL")),
    "2022": (datetime(2022, 8, 16, tzinfo=UTC), ("PJM", "CISO", "ISNE", "ERCO", "MISO")),
}
"""The first start, so that the correction has something to learn from, and the zones. Tuning looks at 2021 alone."""
WEEKS = 17
BASE = "greedy"
LEANS = (-0.5, -0.25, 0.25, 0.67)
RISKS = (0.25, 0.5, 1.0)
PERIODS_H = (3, 6, 24)


def variants(solver: bool) -> list[Policy]:
    """Everything that is tried. The first two are what shares are counted between."""
    simple = ("run now", "greedy, perfect foresight", BASE, "EDF, cheapest slot", "lowest window", "carbon-time")
    found = [POLICIES[name] for name in simple]
    base = POLICIES[BASE]
    found += [msgspec.structs.replace(base, name=f"lean {lean:+g}", lean=lean) for lean in LEANS]
    found += [msgspec.structs.replace(base, name=f"replan {hours} h", replan_s=hours * 3600.0) for hours in PERIODS_H]
    found += [msgspec.structs.replace(base, name=f"risk {weight:g}", risk=Risk(weight)) for weight in RISKS]
    if solver:
        found += [msgspec.structs.replace(base, name="planner", planner=planned("cp-sat"))]
        found += [msgspec.structs.replace(base, name="planner, perfect", planner=planned("cp-sat"), sees="perfect")]
    return found


def trial(folder: Path | None, half: str, seed: int, days: int, load: float, policies: list[Policy]) -> dict[str, Outcome]:
    """All variants under one seed."""
    first, zones = HALVES[half]
    start = first + timedelta(days=7 * int(np.random.default_rng(seed).integers(0, WEEKS)))
    scene = draw_scene(zones, days, seed, load=load)
    found: dict[str, Outcome] = {}
    with opened(folder, zones, start, hours_of(scene), seed) as provider:
        grid = Grid(provider, zones, start, hours_of(scene))
        for policy in policies:
            found[policy.name] = simulate(scene, grid, policy)
    return found


def figures(trials: list[dict[str, Outcome]]) -> list[dict[str, Any]]:
    """A row a variant: medians over the seeds; `points` are captured shares less those of the base, mean and 95 % by seeds."""
    rows: list[dict[str, Any]] = []
    for name in trials[0]:
        shares = np.array([captured(t["run now"], t[name], t["greedy, perfect foresight"]) for t in trials])
        apart = shares - [captured(t["run now"], t[BASE], t["greedy, perfect foresight"]) for t in trials]
        wide = 1.96 * float(apart.std(ddof=1)) / len(trials) ** 0.5 if len(trials) > 1 else 0.0
        rows.append(
            {
                "variant": name,
                "saved": _median([1 - t[name].grams / t["run now"].grams for t in trials]),
                "captured": _median(shares.tolist()),
                "points": [round(100 * float(apart.mean() + end), 2) for end in (0.0, -wide, wide)],
                "missed": _median([t[name].missed_share for t in trials]),
                "starts": _median([t[name].engine_starts / t[name].batches for t in trials]),
                "moved": _median([t[name].churn for t in trials]),
                "plan_s": _median([t[name].planning_cpu_s / t[name].replans for t in trials]),
            }
        )
    return rows


def _median(values: list[float]) -> float:
    return round(float(np.median(values)), 4)


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("--load", type=float, default=0.3)
    parser.add_argument("--half", choices=HALVES, default="2021")
    parser.add_argument("--solver", action="store_true")
    asked = parser.parse_args()
    folder = Path(os.environ.get("BATCHSCHED_DATA", "../shared/data"))
    if not folder.is_dir():
        print(
            f"There is no data in {folder} (set BATCHSCHED_DATA): the weather is drawn, which says nothing about real forecasts."
        )
    began, policies, trials = time.process_time(), variants(asked.solver), []
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {asked.half}, load {asked.load:g}")
    for seed in range(asked.seeds):
        trials.append(trial(folder if folder.is_dir() else None, asked.half, seed, asked.days, asked.load, policies))
        print(f"seed {seed}: {time.process_time() - began:.0f} s of CPU", file=sys.stderr, flush=True)
    rows = figures(trials)
    heads = ("variant", "saved", "captured", "points", "missed", "starts", "moved", "plan_s")
    titles: dict[str, Any] = dict(zip(heads, heads, strict=True))
    for row in (titles, *rows):
        print("{:27}{:>9}{:>10}{!s:>24}{:>9}{:>9}{:>9}{:>9}".format(*(row[head] for head in heads)))
    said = {"half": asked.half, "load": asked.load, "days": asked.days, "seeds": asked.seeds, "drawn": not folder.is_dir()}
    print(json.dumps({**said, "rows": rows}))


if __name__ == "__main__":
    main()
