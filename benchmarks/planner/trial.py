"""One fleet planned by the product, in a process of its own: `python -m benchmarks.planner.trial FLEET SEED LIMIT_S`.

FLEET is a pickled Instance. Prints one line of JSON (`Trial`). Starts from nothing; every plan that is counted is verified.
After the last second one event each comes to the plan that stands then, and is planned from there.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from batchsched.planner.fleet import Standing, Step, plans
from batchsched.planner.fleet_ascent import STEPS, Ascent
from batchsched.planner.fleet_gap import gap_parts
from batchsched.planner.fleet_model import FleetModel, FleetPlan
from batchsched.planner.fleet_relax import relax
from batchsched.planner.fleet_verify import fleet_violations
from benchmarks.planner.events import events
from benchmarks.planner.generate import Size, generate
from benchmarks.planner.instance import Instance

MARKS_S = (1.0, 3.0, 10.0, 30.0)
REPLAN_LIMIT_S = 15.0
COMPILED_STEPS = 7
"""After so many steps of a plan all that is compiled has run."""
MODULES = ("ortools.math_opt.model_pb2", "ortools.math_opt.core.python.solver", "ortools.sat.python.cp_model")


class Trial(msgspec.Struct):
    """Costs in grams by the second at which they stood; infinite before the first plan."""

    first_s: float
    costs: dict[str, float]
    bound_g: float
    broken: list[str]
    """By plans that therefore do not count."""
    replan_s: dict[str, float]
    """To the first verified plan after each event."""
    replan_gap: dict[str, tuple[float, float]]
    """Of that plan, and of the one that stands some seconds later."""
    shares: dict[str, float]
    """Of the work after the first plan, by improver."""
    parts: dict[str, float]
    """Of the gap at the end, in grams (fleet_gap.py)."""


def main() -> None:
    """Plan, replan, print."""
    path, seed, limit_s = sys.argv[1:]
    fleet: Instance = pickle.loads(Path(path).read_bytes())
    print(json.dumps(msgspec.to_builtins(run(fleet, int(seed), float(limit_s)))))


def run(fleet: Instance, seed: int, limit_s: float) -> Trial:
    """One trial."""
    warm_up()
    trial = Trial(math.inf, {}, 0.0, [], {}, {}, {}, {})
    stood: list[tuple[float, float]] = []
    seen: FleetPlan | None = None
    step: Step | None = None
    began = time.perf_counter()
    for step in plans(fleet.model, seed=seed):
        if step.plan is not None and step.plan is not seen:
            seen = step.plan
            broken = fleet_violations(fleet.model, seen)
            trial.broken += broken
            if not broken:
                stood.append((time.perf_counter() - began, seen.cost_g))
        if time.perf_counter() - began >= limit_s:
            break
    trial.first_s = stood[0][0] if stood else math.inf
    trial.bound_g = step.bound_g if step else 0.0
    for mark in [mark for mark in MARKS_S if mark <= limit_s]:
        trial.costs[f"{mark:g}"] = min((cost for at, cost in stood if at <= mark), default=math.inf)
    trial.shares = {name: float(share.work) for name, share in step.shares.items()} if step else {}
    if seen is not None:
        _after(fleet, seed, replace(seen, bound_g=trial.bound_g), trial, more_s(limit_s))
    return trial


def _after(fleet: Instance, seed: int, plan: FleetPlan, trial: Trial, further_s: float) -> None:
    """Where the gap of the last plan comes from, and what events do to it."""
    relaxation = relax(fleet.model)
    ascent = Ascent(fleet.model, relaxation.last.prices)
    ascent.climb(STEPS)
    trial.parts = msgspec.structs.asdict(gap_parts(fleet.model, plan, ascent.prices, relaxation.last.worth))
    standing = Standing(plan.run, plan.starts, plan.held, relaxation.best.prices, relaxation.lp.basis())
    for name, model in events(fleet, seed).items():
        trial.replan_s[name], trial.replan_gap[name] = _replanned(model, standing, seed, further_s)


def _replanned(model: FleetModel, standing: Standing, seed: int, further_s: float) -> tuple[float, tuple[float, float]]:
    """Seconds to the first verified plan, its gap, and the gap `further_s` later."""
    began = time.perf_counter()
    first_s, first_g, best_g, bound_g = math.inf, math.inf, math.inf, 0.0
    for step in plans(model, seed, standing):
        if step.plan is not None and step.plan.cost_g < best_g and not fleet_violations(model, step.plan):
            best_g = step.plan.cost_g
            if math.isinf(first_s):
                first_s, first_g = time.perf_counter() - began, best_g
        bound_g = max(bound_g, step.bound_g)
        if time.perf_counter() - began > (REPLAN_LIMIT_S if math.isinf(first_s) else first_s + further_s):
            break
    return first_s, (first_g / bound_g - 1, best_g / bound_g - 1)


def more_s(limit_s: float) -> float:
    """So many seconds a replan goes on after its first plan: of half a minute's trial three."""
    return min(3.0, limit_s / 10)


def warm_up() -> None:
    """What a server has loaded and compiled long before."""
    for name in MODULES:
        importlib.import_module(name)
    small = generate(Size(12, 4, 96, 24), 0)
    *_, step = itertools.islice(plans(small.model), COMPILED_STEPS)
    plan = step.plan
    if plan is None or not step.shares:
        raise AssertionError("The search has not run.")
    for _ in itertools.islice(plans(small.model, 0, Standing(plan.run, plan.starts, plan.held)), 3):
        pass


if __name__ == "__main__":
    main()
