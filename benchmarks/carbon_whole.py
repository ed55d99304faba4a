"""What `benchmarks/carbon.py` runs on the whole server, and how far that lies from the planner alone.

The whole server takes a hundred times as long as the planner alone, so it runs five policies of each scenario: run now, ours,
ours with perfect foresight, and the two published ones that did best with the planner alone. In windows of single jobs it runs a
sample of zones, in which the planner alone runs the same jobs of the same policies again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from batchsched.simulate import Conditions, Grid, Outcome, Policy, backtest
from batchsched.simulate.scenarios import Scenario
from benchmarks.carbon_rows import WHOLE, Run

SAMPLE = ("CISO", "ERCO", "PJM")
"""Much, some and little to be saved by waiting: 41, 20 and 8 % of a job of 6 h in 48 h, over the years of the data."""
SAMPLED = ", 3 zones"
RUN_BY_SERVER = {"single, 24 h": f"single, 24 h{SAMPLED}", "single, 96 h": f"single, 96 h{SAMPLED}"}
"""By scenario of the planner alone: the one that the whole server runs, where it is another one."""
ALONE = ("single, 6 h", "single, 48 h")
"""The whole server runs these not at all."""
PUBLISHED = 2
EXACT = Conditions(sigma_own=0.0, sigma_chunk=0.0, sigma_watts=0.0, sigma_start=0.0, failures_per_replica_h=0.0)
"""Work takes what profiles say, and nothing fails. What the server makes of its profile runs it still has to find out."""
LATE_S = 1.0
MISSES_PCT = 1.0
"""Of batches: our goal."""
SAME = 1e-6


def conditions_of(scenario: Scenario) -> Conditions:
    """Single jobs, and `regions, exact`, are exact; the others as they say themselves."""
    exact = scenario.name.startswith("single") or scenario.name.endswith("exact")
    return EXACT if exact else scenario.conditions


class Promises(NamedTuple):
    """Batches that a server called feasible when they came; of them those that were late; and of those the ones that took longer
    than the confidence allows for, or lost engines or pools."""

    made: int
    broken: int
    excused: int = 0


def served(scenario: Scenario, grid: Grid, policy: Policy) -> tuple[Outcome, Promises]:
    """What the whole server makes of it."""
    outcome, records = backtest(scenario.scene, grid, policy, conditions_of(scenario))
    promised = [one for one in records.completions if one.feasible]
    broken = [one for one in promised if one.finished_s is None or one.finished_s > one.deadline_s + LATE_S]
    return outcome, Promises(len(promised), len(broken), sum(one.excused for one in broken))


def whole_runs(scenario: str, weeks: Iterable[datetime], names: Sequence[str], days: int = 7) -> Iterator[Run]:
    """After the planner alone has run a scenario in these weeks: the policies that are worth it."""
    runs_on = RUN_BY_SERVER.get(scenario, scenario)
    for week in weeks if scenario not in ALONE else ():
        if runs_on != scenario:
            yield from (Run(runs_on, week, name, days=days) for name in names)
        yield from (Run(runs_on, week, name, "server", days) for name in names)


def worth_it(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ours, foresight of the same planner, run now, and the best of the others: the least grams, where there are such at no more
    misses than ours or than MISSES_PCT, for who is late once more by the planner alone may be late less often on the server.
    Those that did as ours to the gram, as where nothing competes for room, show nothing more."""
    ours = next(name for name, one in summary.items() if one["ours"])
    mine = [ours, f"{ours}, perfect foresight", "run now"]
    allowed, kg = max(MISSES_PCT, summary[ours]["misses_pct"]), summary[ours]["kg"]
    others = [name for name in summary if name not in mine and "greedy" not in name and "planner" not in name]
    others = [name for name in others if not math.isclose(summary[name]["kg"], kg, rel_tol=SAME)]
    best = sorted(others, key=lambda name: (summary[name]["misses_pct"] > allowed, summary[name]["kg"]))
    return [name for name in mine if name in summary] + best[:PUBLISHED]


def differences(summaries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Where both ran, by scenario and policy: what each saved, in per cent of its own run now, and how much was late."""
    both = {name: name + WHOLE for name in summaries if name + WHOLE in summaries}
    return {
        name: {
            policy: {
                "planner_saved_pct": round(one["saved_pct"], 2),
                "server_saved_pct": round(summaries[whole][policy]["saved_pct"], 2),
                "planner_misses_pct": round(one["misses_pct"], 2),
                "server_misses_pct": round(summaries[whole][policy]["misses_pct"], 2),
            }
            for policy, one in summaries[name].items()
            if policy in summaries[whole]
            and all(math.isfinite(of[policy]["saved_pct"]) for of in (summaries[name], summaries[whole]))
        }
        for name, whole in both.items()
    }


def show_differences(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """A table for people."""
    for name, rows in found.items():
        print(f"\n## {name}: the planner alone, and the whole server")
        print(f"{'policy':28}{'saved, %':>12}{'saved, %':>12}{'points':>9}{'missed, %':>12}{'missed, %':>12}")
        for policy, one in rows.items():
            points = one["server_saved_pct"] - one["planner_saved_pct"]
            saved = f"{one['planner_saved_pct']:12.2f}{one['server_saved_pct']:12.2f}{points:+9.2f}"
            print(f"{policy:28}{saved}{one['planner_misses_pct']:12.2f}{one['server_misses_pct']:12.2f}")
