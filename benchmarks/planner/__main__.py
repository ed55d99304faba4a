"""How near to the best plans of whole fleets come, how fast, and what others make of the same fleets. The last line is JSON.

`python -m benchmarks.planner [--rows 1000x20x96,...] [--seeds 5] [--limit-s 30] [--no-peers]`. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from batchsched.planner.fleet_ascent import Ascent
from batchsched.planner.fleet_model import FleetPlan
from batchsched.planner.fleet_relax import relax
from batchsched.planner.fleet_verify import fleet_violations
from benchmarks.planner import cpsat, eased, mathopt, policies
from benchmarks.planner.classmodel import ClassModel
from benchmarks.planner.generate import ROWS, Size, generate
from benchmarks.planner.instance import Instance
from benchmarks.planner.intensities import folder
from benchmarks.planner.trial import Trial, more_s, warm_up

POLICIES: dict[str, policies.Policy] = {
    "EDF on the cheapest slot": policies.earliest_deadline,
    "lowest window": policies.lowest_window,
    "carbon-time": policies.carbon_time,
    "marginal allocation": policies.marginal,
    "run now": policies.run_now,
}
WHOLE: dict[str, Callable[[ClassModel, float, int], FleetPlan | None]] = {
    "CP-SAT, whole model": cpsat.solve,
    "HiGHS, whole model": lambda model, limit_s, _: mathopt.branch_and_bound(model, limit_s),
}
GOALS = {
    "1000x20x96": "first plan 2 s, gap 1 % after 10 s, replan 3 s after any event, 0.5 s after a new batch, 1,000 MB",
    "20000x20x96": "gap 0.5 % after 10 s, 1,000 MB",
}
MOST_WHOLE = 2_000_000
"""Fleets with more batches x pools x slots are not given to whole-model solvers: at this size they find next to nothing."""
WHOLE_SEEDS = 3
"""Of these, since they take all their time on both cores."""
MOST_BOUND, BOUND_LIMIT_S = 30_000, 240.0
"""Up to this many batches x pools the relaxation is solved whole; above, the planner's own climbs on, a little lower."""
CLIMB_STEPS = 20_000
LARGE_SEEDS = 2
"""So many of these are planned by simple policies above it, since they take minutes there."""


@dataclass
class Found:
    """Of one row, a value a seed. `peers`: cost and share of late requests."""

    trials: list[Trial] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    peers: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    eased: list[tuple[float, float, float]] = field(default_factory=list)
    """Of make_plan's greedy plan on the easier problem: grams, share late, seconds."""


def main() -> None:
    """Run the rows, print the tables, and the figures last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=",".join(size.name for size in ROWS), help="batches x pools x slots, by commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit-s", type=float, default=30.0)
    parser.add_argument("--no-peers", action="store_true")
    asked = parser.parse_args()
    known = {size.name: size for size in ROWS}
    sizes = [known[name] for name in asked.rows.split(",")]
    where = f"measured intensity in {folder()}" if folder() else "drawn intensity (BATCHSCHED_DATA is absent)"
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores, load {load}; {where}", flush=True)
    warm_up()  # what is compiled stays on disk
    results = {size: run_row(size, asked.seeds, asked.limit_s, not asked.no_peers) for size in sizes}
    print_tables(results)
    print(json.dumps(figures(results)))


def run_row(size: Size, seeds: int, limit_s: float, peers: bool) -> Found:
    """All seeds of a row, its table printed."""
    began = time.perf_counter()
    fleets = [generate(size, seed) for seed in range(seeds)]
    found = Found()
    for fleet in fleets:
        trial, rss_mb = planned(fleet, limit_s)
        found.trials.append(trial)
        found.rss_mb.append(rss_mb)
    with ProcessPoolExecutor(2) as others:
        relaxed = others.map(relaxation, fleets)
        some = fleets if size.batches * size.pools <= MOST_BOUND else fleets[:LARGE_SEEDS]
        simple = {name: others.map(by_policy, [name] * len(some), some) for name in (POLICIES if peers else {})}
        easy = others.map(eased.greedy, fleets if peers and size.batches * size.pools * size.slots <= MOST_WHOLE else [])
        found.bounds = [max(trial.bound_g, least) for trial, least in zip(found.trials, relaxed, strict=True)]
        found.peers = {name: list(values) for name, values in simple.items()}
        found.eased = list(easy)
    if peers and size.batches * size.pools * size.slots <= MOST_WHOLE:
        found.peers |= {name: [by_solver(name, fleet, limit_s) for fleet in fleets[:WHOLE_SEEDS]] for name in WHOLE}
    print_row(size, fleets, found, time.perf_counter() - began, more_s(limit_s))
    return found


def planned(fleet: Instance, limit_s: float) -> tuple[Trial, float]:
    """A trial in a process of its own, and the most memory that it and its children held, in MB."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "fleet"
        path.write_bytes(pickle.dumps(fleet))
        command = [sys.executable, "-m", "benchmarks.planner.trial", str(path), str(fleet.seed), str(limit_s)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            process, most = psutil.Process(child.pid), 0
            while child.poll() is None:
                most = max(most, _rss(process))
                time.sleep(0.05)
            said = child.stdout.read() if child.stdout else b""
    if child.returncode:
        sys.exit(f"The trial of seed {fleet.seed} failed.")
    return msgspec.convert(json.loads(said.splitlines()[-1]), Trial), most / 1e6


def _rss(process: psutil.Process) -> int:
    try:
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def relaxation(fleet: Instance) -> float:
    """The bound; 0 where it took too long."""
    if len(fleet.model.work) * len(fleet.model.capacity) <= MOST_BOUND:
        return mathopt.bound(ClassModel(fleet), BOUND_LIMIT_S) or 0.0
    ascent = Ascent(fleet.model, relax(fleet.model).last.prices, CLIMB_STEPS)
    ascent.climb(CLIMB_STEPS)
    return ascent.bound_g


def by_policy(name: str, fleet: Instance) -> tuple[float, float]:
    """Cost and share of late requests."""
    return _judged(name, fleet, POLICIES[name](fleet))


def by_solver(name: str, fleet: Instance, limit_s: float) -> tuple[float, float]:
    """The same; everything late where nothing was found."""
    plan = WHOLE[name](ClassModel(fleet), limit_s, fleet.seed)
    return (math.inf, 1.0) if plan is None else _judged(name, fleet, plan)


def _judged(name: str, fleet: Instance, plan: FleetPlan) -> tuple[float, float]:
    broken = fleet_violations(fleet.model, plan)
    if broken:
        sys.exit(f"{name}, seed {fleet.seed}: {'; '.join(broken)}")
    return plan.cost_g, float(plan.late.sum() / fleet.model.work.sum())


def gaps(found: Found, mark: str) -> list[float]:
    """Of each seed, at that second."""
    return [trial.costs[mark] / least - 1 for trial, least in zip(found.trials, found.bounds, strict=True)]


def print_row(size: Size, fleets: list[Instance], found: Found, took_s: float, further_s: float) -> None:
    """A row's table: medians over seeds, with their range. `further_s`: of replans."""
    a_pool = [int(count) for fleet in fleets for count in fleet.gpus]
    total = sum(a_pool) / len(fleets)
    print(f"\n## {size.batches} batches, {size.pools} pools, {size.slots} slots, {total:.0f} GPUs; took {took_s:.0f} s")
    print(f"GPUs a pool: {min(a_pool)} to {max(a_pool)}, median {statistics.median(a_pool):g}")
    if size.name in GOALS:
        print(f"goals: {GOALS[size.name]}")
    print(f"first plan {spread([t.first_s for t in found.trials])} s; memory {spread(found.rss_mb, '.0f')} MB")
    for mark in found.trials[0].costs:
        print(f"gap after {mark:>2} s: {spread(gaps(found, mark), '.2%')}")
    for name in found.trials[0].parts:
        of_bound = [t.parts.get(name, math.inf) / t.bound_g for t in found.trials]
        print(f"  of the last gap, {name.removesuffix('_g')}: {spread(of_bound, '.2%')}")
    for event in found.trials[0].replan_s:
        took = spread([t.replan_s.get(event, math.inf) for t in found.trials])
        first, later = (spread([t.replan_gap[event][i] for t in found.trials if t.replan_gap], ".2%") for i in (0, 1))
        print(f"replan, {event}: first plan {took} s, its gap {first}; {further_s:g} s later {later}")
    for name in sorted({name for t in found.trials for name in t.shares}):
        print(f"work of {name}: {spread(shares_of(found, name), '.0%')}")
    for name, values in found.peers.items():
        above, late = peer(found, values)
        print(f"{name}: {spread(above, '.1%')} above the bound, late {spread(late, '.2%')}; {len(values)} seeds")
    if found.eased:
        above = [grams / least - 1 for (grams, _, _), least in zip(found.eased, found.bounds, strict=True)]
        took = spread([seconds for _, _, seconds in found.eased])
        print(f"make_plan's greedy plan, of an easier problem: {spread(above, '.1%')} above the bound, in {took} s")
    for seed, trial in enumerate(found.trials):
        if trial.broken:
            print(f"UNSAFE, seed {seed}: {'; '.join(trial.broken[:3])}")
    sys.stdout.flush()


def peer(found: Found, values: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Of each seed that it planned: the gap, and the share of late requests."""
    return [cost / least - 1 for (cost, _), least in zip(values, found.bounds, strict=False)], [late for _, late in values]


def print_tables(results: dict[Size, Found]) -> None:
    """All rows once more, as docs/benchmarks.md has them."""
    marks = list(next(iter(results.values())).trials[0].costs)
    heads = ["fleet", "GPUs", "first plan, s", *(f"gap at {mark} s" for mark in marks), "memory, MB"]
    heads += ["replan, slowest event, s", "after a new batch, s"]
    print("\n" + _line(heads) + "\n" + _line(["---"] * len(heads)))
    for size, found in results.items():
        slowest = [max(trial.replan_s.values(), default=math.inf) for trial in found.trials]
        new_batch = [trial.replan_s.get("new batch", math.inf) for trial in found.trials]
        cells = [size.name, str(size.gpus), spread([trial.first_s for trial in found.trials])]
        cells += [spread(gaps(found, mark), ".2%") for mark in marks]
        print(_line([*cells, spread(found.rss_mb, ".0f"), spread(slowest), spread(new_batch)]))
    names = list(dict.fromkeys(name for found in results.values() for name in found.peers))
    if names:
        print("\n" + _line(["gap (late)", *(size.name for size in results)]) + "\n" + _line(["---"] * (1 + len(results))))
    for name in names:
        told = [peer(found, found.peers[name]) if name in found.peers else None for found in results.values()]
        cells = [
            f"{_told(above, '.1%')} ({_told(late, '.1%')})" if both else "-"
            for both in told
            for above, late in [both or ([], [])]
        ]
        print(_line([name, *cells]))
    improvers = sorted({name for found in results.values() for trial in found.trials for name in trial.shares})
    print("\n" + _line(["share of the work", *(size.name for size in results)]) + "\n" + _line(["---"] * (1 + len(results))))
    for name in improvers:
        print(_line([name, *(_told(shares_of(found, name), ".0%") for found in results.values())]))


def shares_of(found: Found, name: str) -> list[float]:
    """Of each seed's work after the first plans, what one improver had."""
    return [trial.shares.get(name, 0.0) / (sum(trial.shares.values()) or 1.0) for trial in found.trials]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _told(values: Sequence[float], form: str) -> str:
    """The median."""
    return spread(values, form).split(" ")[0]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median and range; `never` for what was not reached."""
    told = [format(x, form) if math.isfinite(x) else "never" for x in (statistics.median(values), min(values), max(values))]
    return f"{told[0]} ({told[1]} to {told[2]})"


def figures(results: dict[Size, Found]) -> dict[str, object]:
    """The figures of the last line, medians over seeds."""
    rows = []
    peers: dict[str, dict[str, dict[str, float | None]]] = {}
    for size, found in results.items():
        slowest = [max(trial.replan_s.values(), default=math.inf) for trial in found.trials]
        rows.append(
            {
                "batches": size.batches,
                "pools": size.pools,
                "slots": size.slots,
                "gpus": size.gpus,
                "first_s": median([trial.first_s for trial in found.trials]),
                **{f"gap_{mark}s": median(gaps(found, mark)) for mark in found.trials[0].costs},
                "rss_mb": median(found.rss_mb),
                "replan_s": median(slowest),
            }
        )
        for name, values in found.peers.items():
            above, late = peer(found, values)
            peers.setdefault(name, {})[size.name] = {"gap": median(above), "late": median(late)}
    return {"rows": rows, "peers": peers}


def median(values: Sequence[float]) -> float | None:
    """None where there is none for half of them."""
    found = statistics.median(values)
    return round(found, 5) if math.isfinite(found) else None


if __name__ == "__main__":
    main()
