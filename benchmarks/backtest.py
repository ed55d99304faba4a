"""How fast backtests are: a week of 20 pools and a thousand batches, planned every hour, with greedy plans and with the solver.

`python -m benchmarks.backtest [--policy NAME]... [--days D] [--batches N]`. The last line is JSON. A backtest runs production's
queue on SQLite, scheduler, planner and ledger; executors are modelled. All time is that of one process on the processor, so other
work beside it changes figures little. `--profile` says where it goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from batchsched.simulate import POLICIES, Conditions, Grid, Scene, backtest, draw_scene
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.policies import Policy, planned
from batchsched.simulate.rolling import hours_of

ZONES = ("PJM", "CISO", "ISNE", "DE", "NL", "ERCO", "MISO", "ES", "SE", "PL")
START = datetime(2021, 10, 4, tzinfo=UTC)
SEED = 1
SOLVED = "planner"
GOAL_S = {"greedy": 20.0, SOLVED: 300.0}
"""For the whole week on one core, by policy."""
WORK_S = 0.5
"""Of the solver, a plan."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run each policy, print a table and a line of JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--days", type=int, default=7)
    options.add_argument("--batches", type=int, default=1000, help="in all")
    options.add_argument("--load", type=float, default=0.3)
    options.add_argument("--policy", action="append", choices=[*POLICIES], help="may be given several times")
    options.add_argument("--work-s", type=float, default=WORK_S, help="of the solver, a plan")
    options.add_argument("--chunk-s", type=float, default=Conditions().chunk_s)
    options.add_argument("--profile", action="store_true")
    said = options.parse_args(arguments)
    scene = draw_scene(ZONES, said.days, SEED, load=said.load, batches_a_day=said.batches / said.days)
    grid = Grid(Drawn(START, hours_of(scene), SEED), ZONES, START, hours_of(scene))
    asked = f"{said.days} days, {len(scene.fleet.pools)} pools, {len(scene.arrivals)} batches"
    print(f"{platform.machine()}, {platform.python_implementation()} {platform.python_version()}; {asked}; drawn, seed {SEED}")
    print(f"{'policy':28}{'cpu, s':>9}{'a day':>8}{'plans, s':>10}{'plans':>7}{'leases':>8}{'missed':>8}{'kg':>9}{'starts':>8}")
    found: dict[str, dict[str, Any]] = {}
    for name in said.policy or [*GOAL_S]:
        solved = msgspec.structs.replace(POLICIES[name], planner=planned("cp-sat", said.work_s))
        policy = solved if name == SOLVED else POLICIES[name]
        row = found[name] = run(scene, grid, policy, Conditions(chunk_s=said.chunk_s), profiled=said.profile)
        shown = f"{name:28}{row['cpu_s']:9.1f}{row['cpu_s'] / said.days:8.1f}{row['planning_cpu_s']:10.1f}{row['plans']:7}"
        print(f"{shown}{row['leases']:8}{row['missed']:8}{row['kg']:9.1f}{row['engine_starts']:8}", flush=True)
    size = {"days": said.days, "pools": len(scene.fleet.pools), "batches": len(scene.arrivals), "work_s": said.work_s}
    print(json.dumps({**size, "goal_cpu_s": GOAL_S, "policies": found}))


def run(scene: Scene, grid: Grid, policy: Policy, conditions: Conditions, *, profiled: bool = False) -> dict[str, Any]:
    """What a backtest took, and what came of it."""
    profile = cProfile.Profile(time.process_time)
    cpu = time.process_time()
    if profiled:
        profile.enable()
    outcome, records = backtest(scene, grid, policy, conditions)
    profile.disable()
    cpu_s = time.process_time() - cpu
    if profiled:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
    return {
        "cpu_s": round(cpu_s, 1),
        "planning_cpu_s": round(outcome.planning_cpu_s, 1),
        "plans": outcome.replans,
        "leases": sum(one.what == "leased" for one in records.leases),
        "missed": len(outcome.missed),
        "kg": round(outcome.grams / 1000, 2),
        "engine_starts": outcome.engine_starts,
        "wasted_starts": outcome.wasted_starts,
    }


if __name__ == "__main__":
    main()
