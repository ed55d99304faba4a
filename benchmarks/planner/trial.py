"""One fleet planned by the product, in a process of its own: `python -m benchmarks.planner.trial FLEET SEED LIMIT_S`.

FLEET is a pickled Instance. Prints one line of JSON (`Trial`). Starts from nothing; every plan that is counted is verified.
"""

from __future__ import annotations

import importlib
import json
import math
import pickle
import sys
import time
from pathlib import Path

import msgspec

from batchsched.planner.fleet import Step, plans
from batchsched.planner.fleet_model import FleetModel, FleetPlan
from batchsched.planner.fleet_verify import fleet_violations
from benchmarks.planner.events import events
from benchmarks.planner.instance import Instance

MARKS_S = (1.0, 3.0, 10.0, 30.0)
REPLAN_LIMIT_S = 15.0
MODULES = ("ortools.math_opt.model_pb2", "ortools.math_opt.core.python.solver", "ortools.sat.python.cp_model")


class Trial(msgspec.Struct):
    """Costs in grams by the second at which they stood; infinite before the first plan."""

    first_s: float
    costs: dict[str, float]
    bound_g: float
    broken: list[str]
    """By plans that therefore do not count."""
    replan_s: dict[str, float]
    shares: dict[str, float]
    """Of the work after the first plan, by improver."""


def main() -> None:
    """Plan, replan, print."""
    path, seed, limit_s = sys.argv[1:]
    fleet: Instance = pickle.loads(Path(path).read_bytes())
    print(json.dumps(msgspec.to_builtins(run(fleet, int(seed), float(limit_s)))))


def run(fleet: Instance, seed: int, limit_s: float) -> Trial:
    """One trial."""
    _warm_up()
    trial = Trial(math.inf, {}, 0.0, [], {}, {})
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
    trial.replan_s = {name: _first_s(model, seed) for name, model in events(fleet, seed).items()}
    return trial


def _first_s(model: FleetModel, seed: int) -> float:
    """Seconds to the first verified plan after an event."""
    began = time.perf_counter()
    for step in plans(model, seed=seed):
        if step.plan is not None and not fleet_violations(model, step.plan):
            return time.perf_counter() - began
        if time.perf_counter() - began > REPLAN_LIMIT_S:
            break
    return math.inf


def _warm_up() -> None:
    """What a server has loaded long before."""
    for name in MODULES:
        importlib.import_module(name)


if __name__ == "__main__":
    main()
