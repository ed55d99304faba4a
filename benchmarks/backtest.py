"""How fast backtests are: a week of 20 pools and some thousand batches, planned every hour, on one core.

A backtest runs production's queue on SQLite, scheduler, planner and ledger; executors are modelled. `--profile` says where the
time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import time
from datetime import UTC, datetime

from batchsched.simulate import POLICIES, Conditions, Grid, backtest, draw_scene
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.rolling import hours_of

ZONES = ("PJM", "CISO", "ISNE", "DE", "NL", "ERCO", "MISO", "ES", "SE", "PL")
START = datetime(2021, 10, 4, tzinfo=UTC)
POLICY = "greedy"


def main() -> None:
    """Run, and print a table and a line of JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--days", type=int, default=7)
    options.add_argument("--batches", type=int, default=3000, help="in all")
    options.add_argument("--load", type=float, default=0.3)
    options.add_argument("--policy", default=POLICY, choices=[*POLICIES])
    options.add_argument("--chunk-s", type=float, default=Conditions().chunk_s)
    options.add_argument("--profile", action="store_true")
    said = options.parse_args()
    scene = draw_scene(ZONES, said.days, 1, load=said.load, batches_a_day=said.batches / said.days)
    grid = Grid(Drawn(START, hours_of(scene), 1), ZONES, START, hours_of(scene))
    profile = cProfile.Profile()
    wall, cpu = time.perf_counter(), time.process_time()
    if said.profile:
        profile.enable()
    outcome, records = backtest(scene, grid, POLICIES[said.policy], Conditions(chunk_s=said.chunk_s))
    profile.disable()
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    leased = sum(one.what == "leased" for one in records.leases)
    print(f"{platform.machine()}, {platform.python_implementation()} {platform.python_version()}; drawn weather, seed 1")
    print(
        f"{said.days} days, {len(scene.fleet.pools)} pools, {len(scene.arrivals)} batches, {leased} leases, policy {said.policy}"
    )
    print(f"{wall_s:.1f} s, {cpu_s:.1f} s of processor; {outcome.replans} plans took {outcome.planning_cpu_s:.1f} s of it")
    starts = f"{outcome.engine_starts} engine starts, {outcome.wasted_starts} of them without any work"
    print(f"{outcome.missed_share:.1%} missed, {outcome.grams / 1000:.1f} kg, {starts}")
    if said.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
    print(
        json.dumps(
            {
                "policy": said.policy,
                "days": said.days,
                "pools": len(scene.fleet.pools),
                "batches": len(scene.arrivals),
                "leases": leased,
                "plans": outcome.replans,
                "engine_starts": outcome.engine_starts,
                "wasted_starts": outcome.wasted_starts,
                "wall_s": round(wall_s, 1),
                "cpu_s": round(cpu_s, 1),
                "planning_cpu_s": round(outcome.planning_cpu_s, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
