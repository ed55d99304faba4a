"""What policies emit for the same work on real grids, by scenario. The last line is JSON.

`python -m benchmarks.carbon [--minutes M] [--weeks N] [--full] [--quick]`. Forecasts are our own as they would have been issued,
hour by hour; what is paid is what came true. Weeks are sampled by a seed from July to December 2022, on which nothing was tuned.
`single` (a): one job of 6 h at a time (of 1 h in windows of 6 h), without a limit of capacity, in 25 zones of the United
States, windows of 6, 24, 48 and 96 h. `regions, exact` (c): five sites with residency, rates known. `everything` (e): the same
with rates and lengths that nobody knows, servers of online users who leave more or less of them, and slow links. With `--full`,
or by name: `regions`, (c) with such rates and lengths; `site, load 0.3` and so on (b), one site with old and new GPUs, more or
less busy; `shared 25` and `shared 55` (d), such servers at other loads; and bad days (f), of which the `broken feed of 2023`
has weeks of its own.
All policies run on the planner alone, then few of them on the whole server (carbon_whole.py); `by` in the last line says
which simulator a figure is of. What is worth most is run first, and nothing begins that would not be done in time
(carbon_plan.py). See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from batchsched.fleet import Fleet
from batchsched.forecasts import Provider
from batchsched.simulate import POLICIES, Grid, Policy, simulate
from batchsched.simulate.ceiling import Impossible, least_g, tasks
from batchsched.simulate.data import opened
from batchsched.simulate.pictures import Point, compared, write
from batchsched.simulate.policies import cheapest_gpus, planned
from batchsched.simulate.rolling import hours_of
from batchsched.simulate.scenarios import NAMED, Asked, Scenario, regions, single, site
from batchsched.simulate.scene import LOAD
from benchmarks import carbon_grid
from benchmarks.attempts import Failed, complete
from benchmarks.budget import Budget
from benchmarks.carbon_grid import SITES, cache_folder, data_folder
from benchmarks.carbon_plan import Block, blocks, guess_s
from benchmarks.carbon_rows import WHOLE, Row, Run, held_against, share, told
from benchmarks.carbon_whole import (
    PUBLISHED,
    RUN_BY_SERVER,
    SAMPLE,
    SAMPLED,
    Promises,
    differences,
    served,
    show_differences,
    whole_runs,
    worth_it,
)
from benchmarks.forecast_trials import need_data
from benchmarks.kept import Kept
from benchmarks.paired import interval
from benchmarks.taken import Taken

FIRST, LAST = datetime(2022, 7, 2, tzinfo=UTC), datetime(2022, 12, 18, tzinfo=UTC)
"""After the last day everything is done; forecasts end on 28 December."""
WINDOWS_H = {6: 1, 24: 6, 48: 6, 96: 6}
"""Of each window, how long a job works."""
SEED = 9
RUN_NOW, OURS, FORESIGHT = "run now", "planner", "planner, perfect foresight"
GREEDY, GREEDY_FORESIGHT = "greedy", "greedy, perfect foresight"
WORK_S = 0.5
"""Of the solver, a plan."""
ROUNDING = 1e-6
"""Of all grams: policies that choose alike differ by less, since parts are added up in another order and instants are rounded."""
FULL = (13, 6)
"""Weeks with a fleet, and of single jobs, of `--full`."""
SITE, LOADS = "CISO", {f"site, load {load:g}": load for load in (0.3, 0.6, 0.9)}
FLEET = "everything"
"""(e): what the figures of a fleet are of."""
USUAL = [*(f"single, {window_h} h" for window_h in WINDOWS_H), "regions, exact", FLEET]
HARDER = [name for name in NAMED if name not in ("regions", "site", FLEET)]
"""(d), (f), and `regions` with requests as long as those of real services, and with batches that come as those are asked."""
BETA = "broken feed of 2023"
BETA_WEEKS = (datetime(2023, 8, 16, tzinfo=UTC), datetime(2023, 8, 23, tzinfo=UTC))
"""(f) with CarbonCast's beta, stuck, full of gaps, biased and late as it was; it was measured until 13 September."""
EVERY = [*USUAL, "regions", *LOADS, *HARDER, BETA]
BAD_WEEKS = 2
"""Of `--full`, of each of (d) and (f)."""
MINUTES = 37.0
"""After which nothing more is begun: what is under way then, tables and pictures have three more."""
NO_CHOICE = {"FIFO", "EDF", "cleanest place", "GreenLLM", "fastest GPUs", "least energy"}
"""Single jobs in one zone are run at once by these: as by run now."""


def drawn(name: str, week: datetime, days: int = 7) -> Scenario:
    """A scenario's week."""
    if name.startswith("single"):
        window_h = int(name.split(", ")[1].split(maxsplit=1)[0])
        zones = SAMPLE if name.endswith(SAMPLED) else _provider().zones()
        return single(zones, week, days, window_h, WINDOWS_H[window_h], apart=name.endswith(SAMPLED))
    seed = int(week.timestamp()) // 604_800
    if name.startswith("site"):
        return site(SITE, week, days, seed, LOADS[name])
    if name in (FLEET, *HARDER):
        return NAMED[name](Asked(SITES, week, days, seed, LOAD, data_folder()))
    return regions(SITES, week, days, seed, exact=name.endswith("exact"))


def is_solved(name: str) -> bool:
    """Does the solver plan? Where nothing competes for room, the greedy plan is the best one."""
    return not name.startswith("single")


def yardsticks(name: str) -> tuple[str, str]:
    """Ours in a scenario, and ours with perfect foresight."""
    return (OURS, FORESIGHT) if is_solved(name) else (GREEDY, GREEDY_FORESIGHT)


@cache
def _provider() -> carbon_grid.Issued:
    return carbon_grid.issued(data_folder(), cache_folder())


@lru_cache(maxsize=4)  # a week of 25 zones takes tens of megabytes
def _stage(name: str, week: datetime, days: int = 7) -> tuple[Scenario, Grid]:
    scenario = drawn(name, week, days)
    return scenario, scenario.grid(_beta(scenario) if name == BETA else _provider())


_OPEN = ExitStack()
"""Files that are read while this process lives."""


def _beta(scenario: Scenario) -> Provider:
    return _OPEN.enter_context(opened(data_folder(), scenario.zones, scenario.start, hours_of(scenario.scene), 0))


@cache
def _ceiling_g(name: str, week: datetime, days: int) -> float:
    """The linear program's bound over what came true, of all batches in time."""
    scenario, grid = _stage(name, week, days)
    found = tasks(scenario.scene, (), grid.hours * 3600.0)
    return least_g(found, scenario.scene.fleet, grid.truth, shared=is_solved(name))


def policies(name: str, fleet: Fleet) -> dict[str, Policy]:
    """All that are tried in a scenario."""
    same = NO_CHOICE if name.startswith("single") else set[str]()
    found = {key: one for key, one in POLICIES.items() if key not in {OURS, FORESIGHT, *same}}
    if all(pool.price_per_h > 0 for pool in fleet.pools.values()):
        priced = cheapest_gpus({key: pool.price_per_h for key, pool in fleet.pools.items()})
        found[priced.name] = priced
    if is_solved(name):
        for key in (OURS, FORESIGHT):
            found[key] = msgspec.structs.replace(POLICIES[key], planner=planned("cp-sat", WORK_S))
    return found


def run(one: Run) -> Row:
    """Simulate it; a saving above the ceiling is an error, and so is work that was left undone."""
    scenario, grid = _stage(one.scenario, one.week, one.days)
    began = time.perf_counter()
    fleet = scenario.scene.fleet
    policy = policies(one.scenario, fleet)[one.policy]
    if one.by == "server":
        outcome, promises = served(scenario, grid, policy)
    else:
        outcome = simulate(scenario.scene, grid, policy, conditions=scenario.conditions)
        promises = Promises(outcome.batches, len({*outcome.missed, *outcome.unfinished}))
    complete(outcome)
    late = len({*outcome.missed, *outcome.unfinished})
    ceiling_g = _ceiling_g(one.scenario, one.week, one.days) if one.by == "planner" else None
    if ceiling_g is not None and not late and outcome.grams < ceiling_g * (1 - ROUNDING):
        raise Impossible(f"{one} emitted {outcome.grams:.6g} g; nobody can emit less than {ceiling_g:.6g} g.")
    grams = outcome.grams_by_cause()
    return Row(
        run=one,
        grams=outcome.grams,
        batches=outcome.batches,
        missed=late,
        wait_h=outcome.waited_s / 3600 / max(1, outcome.batches),
        gpu_h=outcome.over_pools({name: float(count) for name, count in fleet.replica_gpus.items()}),
        money=outcome.over_pools({name: pool.price_per_h for name, pool in fleet.pools.items()}),
        moved=outcome.churn,
        hurried_h=outcome.hurried_s / 3600,
        starting_g=grams["starts"],
        idle_g=grams["idle"],
        planning_s=outcome.planning_cpu_s,
        ceiling_g=ceiling_g,
        promised=promises.made,
        broken=promises.broken,
        excused=promises.excused,
        took_s=time.perf_counter() - began,
        wasted_g=grams["wasted"],
        files_g=grams["files"],
        wait_p95_h=outcome.waited_at_s(0.95) / 3600,
        latest_h=max(outcome.late_by_s.values(), default=0.0) / 3600,
        embodied_g=outcome.embodied_g,
    )


def summed(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Of one scenario, by policy: over all its weeks. The tails are those of the worst week: `worst_week_pct` (the least saving),
    `wait_p95_h`, `latest_h`. Empty where runs failed that all others are held against."""
    rows = list(rows)
    ours, foresight = yardsticks(rows[0].run.scenario) if rows else ("", "")
    by_policy = held_against(rows, (RUN_NOW, ours, foresight))
    if not by_policy:
        return {}
    now = {row.run.week: row.grams for row in by_policy[RUN_NOW]}
    total_g = sum(now.values())
    possible_g = total_g - sum(row.grams for row in by_policy[foresight])
    ceiling_g = total_g - sum(math.nan if row.ceiling_g is None else row.ceiling_g for row in by_policy[RUN_NOW])
    ours_g = {row.run.week: row.grams for row in by_policy[ours]}
    found: dict[str, dict[str, Any]] = {}
    for name, mine in by_policy.items():
        grams, batches = sum(row.grams for row in mine), sum(row.batches for row in mine)
        found[name] = {
            "kg": grams / 1000,
            "saved_pct": 100 * share(total_g - grams, total_g),
            "worst_week_pct": min(100 * share(now[row.run.week] - row.grams, now[row.run.week]) for row in mine),
            "captured": share(total_g - grams, possible_g),
            "of_ceiling": share(total_g - grams, ceiling_g),
            "misses_pct": 100 * sum(row.missed for row in mine) / max(1, batches),
            "broken_pct": 100 * sum(row.broken for row in mine) / max(1, sum(row.promised for row in mine)),
            "unexcused_pct": 100 * sum(row.broken - row.excused for row in mine) / max(1, sum(row.promised for row in mine)),
            "latest_h": max(row.latest_h for row in mine),
            "wait_h": sum(row.wait_h * row.batches for row in mine) / max(1, batches),
            "wait_p95_h": max(row.wait_p95_h for row in mine),
            "gpu_h": sum(row.gpu_h for row in mine),
            "money": sum(row.money for row in mine),
            "moved_pct": 100 * float(np.mean([row.moved for row in mine])),
            "hurried_h": sum(row.hurried_h for row in mine),
            "starts_pct": 100 * share(sum(row.starting_g for row in mine), grams),
            "idle_pct": 100 * share(sum(row.idle_g for row in mine), grams),
            "wasted_pct": 100 * share(sum(row.wasted_g for row in mine), grams),
            "files_pct": 100 * share(sum(row.files_g for row in mine), grams),
            "embodied_kg": sum(row.embodied_g for row in mine) / 1000,
            "apart": apart([(row.grams, ours_g[row.run.week], now[row.run.week]) for row in mine]),
            "planning_s": sum(row.planning_s for row in mine),
        }
    others = [name for name in found if "foresight" not in name and name not in (ours, GREEDY)]
    better = [name for name in others if _beats(found[name], found[ours])]
    return {name: {**one, "ours": name == ours, "beats_us": name in better} for name, one in found.items()}


def apart(weeks_g: list[tuple[float, float, float]]) -> list[float]:
    """How much more a policy emits than we do, in per cent of what running at once emits; of each week the grams of the three.
    The mean, and its 95 % interval over weeks, drawn again with their pairs kept; of fewer than four weeks the mean alone."""
    more = [100 * (its - ours) / now for its, ours, now in weeks_g if now > 0]
    return interval(more) if more else []


def _beats(one: dict[str, Any], ours: dict[str, Any]) -> bool:
    return bool(one["kg"] < ours["kg"] * (1 - ROUNDING) and one["misses_pct"] <= ours["misses_pct"])


CAUSES = ("starts_pct", "idle_pct", "wasted_pct", "files_pct")
"""Of all grams, beside those of work itself."""
SHARES = ("saved_pct", "worst_week_pct", "captured", "of_ceiling", "misses_pct", *CAUSES, "moved_pct")
HEADS = ("kg", *SHARES, "latest_h", "wait_h", "wait_p95_h", "gpu_h", "money", "hurried_h", "embodied_kg")
TOLD = (*SHARES, "kg", "embodied_kg", "latest_h", "wait_h", "wait_p95_h", "money", "gpu_h")
"""Of a policy, in the last line."""


def show(name: str, found: dict[str, dict[str, Any]]) -> None:
    """A table for people."""
    print(f"\n## {name}")
    print(f"{'policy':28}" + "".join(f"{head:>15}" for head in HEADS) + "  apart")
    for policy, one in sorted(found.items(), key=lambda item: item[1]["kg"]):
        mark = " <- beats us" if one["beats_us"] else " (ours)" if one["ours"] else ""
        print(f"{policy:28}" + "".join(f"{one[head]:15.3f}" for head in HEADS) + f"  {one['apart']}{mark}")


HEADLINES = {
    "scheduler_captured_24h": ("single, 24 h", "captured"),
    "scheduler_captured_96h": ("single, 96 h", "captured"),
    "fleet_captured": (FLEET, "captured"),
    "misses_pct": (FLEET, "broken_pct"),
    "unexcused_misses_pct": (FLEET, "unexcused_pct"),
    "saving_vs_run_now_pct": (FLEET, "saved_pct"),
}
"""By figure: the scenario and the column. The whole server's, where it ran."""


def figures(found: dict[str, dict[str, dict[str, Any]]], failed: Iterable[Failed[Run]] = ()) -> dict[str, Any]:
    """The last line. `by`: the table that each figure is of; None where nothing can be told."""

    def ours(table: str, key: str) -> float | None:
        one = next((row for row in found.get(table, {}).values() if row["ours"]), None)
        return None if one is None else told(one[key], 4)

    tables = {scenario: RUN_BY_SERVER.get(scenario, scenario) + WHOLE for scenario, _ in HEADLINES.values()}
    by = {key: tables[scenario] if tables[scenario] in found else scenario for key, (scenario, _) in HEADLINES.items()}
    return {
        **{key: ours(by[key], column) for key, (_, column) in HEADLINES.items()},
        "by": {key: table for key, table in by.items() if table in found},
        "planner_captured": {name: ours(name, "captured") for name in found if WHOLE not in name},
        "beaten_by": sorted(f"{name} ({where})" for where, rows in found.items() for name in rows if rows[name]["beats_us"]),
        "planner_and_server": differences(found),
        "policies": {where: {name: _rounded(row) for name, row in rows.items()} for where, rows in found.items()},
        "failed": [f"{one.run}: {one.why}" for one in failed],
    }


def _rounded(row: dict[str, Any]) -> dict[str, float | None]:
    return {key: told(row[key], 3) for key in TOLD}


def main() -> None:
    """Run, print."""
    asked = _asked()
    need_data(data_folder())
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores, data in {data_folder()}")
    plan = planned_blocks(asked)
    budget = Budget(math.inf if asked.minutes is None else asked.minutes, asked.jobs, kind_of)  # what is learnt is of its time
    carbon_grid.issued(data_folder(), cache_folder(), asked.jobs)  # in processes of its own
    _provider()  # read once, before there are others
    print("\n".join(budget.said((block, likely(block, asked)) for block in plan)), flush=True)
    found = Found(budget, asked.jobs, Kept(asked.rows, Row) if asked.rows else None)
    waiting: list[Run] = []
    for block in plan:  # what the whole server runs of a block is known once the planner alone has run it
        found.add([*waiting, *runs(block, asked.policy, asked.days)], f"until {block}:", "runs")
        waiting = [] if asked.quick else found.by_server(block, asked.days)
    found.add(waiting, "until the rest:", "runs")
    summaries = found.summaries()
    for name, rows in summaries.items():
        show(name, rows)
        if asked.picture:
            points = [Point(policy, one["saved_pct"], one["misses_pct"], ours=one["ours"]) for policy, one in rows.items()]
            write(asked.picture / f"{name.replace(', ', '-').replace(' ', '-')}.svg", compared(name, points))
    show_differences(differences(summaries))
    for one in found.failed:
        print(f"FAILED, and left out with what was to be held against it: {one.run}: {one.why}")
    for run_ in found.left_out:
        print(f"LEFT OUT for lack of time: {run_}")
    print(
        json.dumps({**figures(summaries, found.failed), "left_out": [str(one) for one in found.left_out], "weeks": found.weeks()})
    )


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weeks", type=int, default=2, help="sampled weeks of the scenarios with a fleet")
    parser.add_argument("--single-weeks", type=int, default=2, help="the same of single jobs")
    parser.add_argument("--days", type=int, default=7, help="of each of them in which work comes")
    parser.add_argument("--scenario", action="append", choices=EVERY, help="only this one (may be repeated)")
    parser.add_argument("--policy", action="append", help="only this one, beside those that shares are counted between")
    parser.add_argument("--minutes", type=float, help="of time, after which nothing more begins: 37, without an end with --full")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rows", type=Path, help="file for rows as they come; those in it are not run again")
    parser.add_argument(
        "--full", action="store_true", help="all scenarios; 13 weeks with a fleet, a quarter of a year, 6 of jobs"
    )
    parser.add_argument("--quick", action="store_true", help="a glance: the planner alone, a week of each scenario")
    parser.add_argument("--picture", type=Path, help="folder for a picture of each table (SVG)")
    asked = parser.parse_args()
    if asked.minutes is None and not asked.full:
        asked.minutes = MINUTES
    return asked


def planned_blocks(asked: argparse.Namespace) -> list[Block]:
    """What is to be run, in order of worth."""
    fleet_weeks, single_weeks = FULL if asked.full else (1, 1) if asked.quick else (asked.weeks, asked.single_weeks)
    counts = {name: single_weeks if name.startswith("single") else fleet_weeks for name in USUAL}
    counts["single, 48 h"] = counts["single, 6 h"] = min(1, single_weeks) if not asked.full else single_weeks
    bad_weeks = BAD_WEEKS if asked.full else fleet_weeks
    whole = {*LOADS, "regions"}
    others = {name: fleet_weeks if name in whole else bad_weeks for name in EVERY if name not in USUAL}
    named = asked.scenario or (EVERY if asked.full else USUAL)
    found = blocks({name: count for name, count in {**counts, **others}.items() if name in named}, FIRST, LAST, SEED)
    beta = iter(BETA_WEEKS)
    dated = [Block(BETA, next(beta, one.week)) if one.scenario == BETA else one for one in found]
    return [one for one in dated if one.scenario != BETA or one.week in BETA_WEEKS]


def kind_of(one: Run) -> tuple[str, float]:
    """What others take as long as a run, and a guess at its seconds."""
    solved = "planner" in one.policy
    return f"{one.table}, {'solved' if solved else 'simple'}", guess_s(one, solved=solved)


def likely(block: Block, asked: argparse.Namespace) -> list[Run]:
    """What of a block will be run. Which of the others the whole server runs is not known before."""
    alone = list(runs(block, asked.policy, asked.days))
    names = [one.policy for one in alone if one.policy in (RUN_NOW, *yardsticks(block.scenario))]
    names += [one.policy for one in alone if one.policy not in names and "greedy" not in one.policy][:PUBLISHED]
    return alone if asked.quick else [*alone, *whole_runs(block.scenario, [block.week], names, asked.days)]


class Found(Taken[Run, Row]):
    """What was run, by table."""

    def __init__(self, budget: Budget[Run], jobs: int, kept: Kept[Row] | None) -> None:
        super().__init__(run, budget, jobs, kept)
        self._served: dict[str, list[str]] = {}

    def by_server(self, block: Block, days: int) -> list[Run]:
        """What the whole server is to run of a block: in all weeks of a scenario the policies that its first week chose."""
        if block.scenario not in self._served:
            summary = summed(self._tables().get(block.scenario, []))
            if not summary:
                return []
            self._served[block.scenario] = worth_it(summary)
        return list(whole_runs(block.scenario, [block.week], self._served[block.scenario], days))

    def summaries(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By table and policy."""
        return {name: summary for name, rows in sorted(self._tables().items()) if (summary := summed(rows))}

    def weeks(self) -> dict[str, list[str]]:
        """That each table is of."""
        used = {name: held_against(rows, (RUN_NOW, *yardsticks(rows[0].run.scenario))) for name, rows in self._tables().items()}
        return {name: [f"{row.run.week:%Y-%m-%d}" for row in by[RUN_NOW]] for name, by in sorted(used.items()) if by}

    def _tables(self) -> dict[str, list[Row]]:
        found: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            found[row.run.table].append(row)
        return dict(found)


def runs(block: Block, names: list[str] | None, days: int) -> Iterable[Run]:
    """What the planner alone runs of a block: first what the others are held against, which takes the longest."""
    first = [*yardsticks(block.scenario), RUN_NOW]
    every = policies(block.scenario, drawn(block.scenario, block.week, days).scene.fleet)
    for policy in [*first, *(name for name in every if name not in first)]:
        if not names or policy in {*names, *first, GREEDY, GREEDY_FORESIGHT}:
            yield Run(block.scenario, block.week, policy, days=days)


if __name__ == "__main__":
    main()
