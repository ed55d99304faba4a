"""What `benchmarks/ablations.py` switches on and off. Each refinement differs from its opposite in one thing."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec
import numpy as np

from batchsched.forecasts.port import IntensityForecast
from batchsched.forecasts.wrapped import Wrapped
from batchsched.planner import Plan, Problem
from batchsched.planner.problem import Risk
from batchsched.simulate import POLICIES, Policy
from batchsched.simulate.policies import Planner, planned, run_now
from batchsched.simulate.rolling import TICK_S

WORK_S = 0.5
"""Of the solver, a plan."""


class Variant(msgspec.Struct, frozen=True):
    """A way to decide. `nowcast`: forecasts are those of the hour; else of the last midnight."""

    name: str
    policy: Policy
    slot_s: float = TICK_S
    nowcast: bool = True


class Refinement(msgspec.Struct, frozen=True):
    """`default`: is it on where nothing is set? `setting`: what turns it; empty where it is built in. `planner_only`: the whole
    server decides it elsewhere."""

    name: str
    on: Variant
    off: Variant
    default: bool
    setting: str = ""
    planner_only: bool = False


RUN_NOW = Variant("run now", Policy("run now", run_now))


def refinements(base: Policy, *, solver: bool) -> list[Refinement]:
    """All of them. `base`: a policy of ours, as it is set where nothing is. `solver`: the solver against greedy plans too."""
    as_is, risky = Variant("as it is", base), Risk(0.5)

    def but(name: str, **changes: object) -> Variant:
        return Variant(name, msgspec.structs.replace(base, name=name, **changes))

    def option(name: str, setting: str, **changes: object) -> Refinement:
        return Refinement(name, but(name, **changes), as_is, default=False, setting=setting)

    def built_in(name: str, without: Variant, *, planner_only: bool = False) -> Refinement:
        return Refinement(name, as_is, without, default=True, planner_only=planner_only)

    by_means = but("deadlines by means", planner=changed(base.planner, before=_by_means))
    one_by_one = planned("greedy" if base.name == "greedy" else "cp-sat", WORK_S, jointly=False)
    stopped = but("engines stopped when idle", planner=changed(base.planner, after=_none_kept))
    apart = but("zones' futures apart", risk=risky, planner=changed(base.planner, before=_shuffled))
    together = but("risk 0.5", risk=risky)
    found = [
        built_in("all batches weighed at once", but("one by one", planner=one_by_one)),
        built_in("deadlines by quantiles", by_means),
        built_in("nowcast", Variant("forecasts of midnight", base, nowcast=False)),
        built_in("engines kept ready", stopped, planner_only=True),
        *(
            built_in(f"forecast and plan every hour, not every {h} h", but(f"every {h} h", replan_s=h * 3600.0))
            for h in (3, 6, 24)
        ),
        Refinement("slots of 15 minutes, not of an hour", Variant("15 min", base, slot_s=900.0), as_is, True, "planner.slot_s"),
        Refinement("slots of an hour, not of three", as_is, Variant("3 h", base, slot_s=3 * TICK_S), True, "planner.slot_s"),
        option("risk 0.25 (CVaR)", "planner.risk", risk=Risk(0.25)),
        Refinement("risk 0.5 (CVaR)", together, as_is, default=False, setting="planner.risk"),
        option("risk 0.5 (quantile)", "planner.risk_measure", risk=Risk(0.5, "quantile")),
        Refinement("futures of zones together, at risk 0.5", together, apart, default=True),
        option("upper quartile of the forecast for cost", "", lean=0.67),
        option("value of waiting: a quarter deviation below", "", lean=-0.25),
        option("churn 0.05", "planner.churn", churn=0.05),
        option("runs of two hours", "planner.min_run_s", min_run_s=7200.0),
    ]
    if solver:
        by_solver, greedy = but("solver", planner=planned("cp-sat", WORK_S)), but("greedy", planner=planned("greedy"))
        found.append(Refinement("solver", by_solver, greedy, default=True, setting="planner.solver"))
    return found


def base_of(name: str) -> Policy:
    """`greedy`, or `planner`: with the solver."""
    return msgspec.structs.replace(POLICIES[name], planner=planned("cp-sat", WORK_S)) if name == "planner" else POLICIES[name]


def variants(tried: Iterable[Refinement]) -> list[Variant]:
    """Each once; first what savings are counted against."""
    found = {RUN_NOW.name: RUN_NOW}
    for one in tried:
        found |= {variant.name: variant for variant in (one.on, one.off)}
    return list(found.values())


def changed(
    planner: Callable[[], Planner],
    *,
    before: Callable[[Problem], Problem] = lambda problem: problem,
    after: Callable[[Plan], Plan] = lambda plan: plan,
) -> Callable[[], Planner]:
    """A planner that is shown another problem, or whose plans lack something."""

    def made() -> Planner:
        inner = planner()
        return lambda problem, now_s: after(inner(before(problem), now_s))

    return made


def _by_means(problem: Problem) -> Problem:
    """Nothing is left for what may come on top of the expected work. The latest safe start knows better, as ever."""
    jobs = [msgspec.structs.replace(job, confidence=0.5) for job in problem.jobs]
    return msgspec.structs.replace(problem, jobs=jobs)


def _none_kept(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, holds=[])


def _shuffled(problem: Problem) -> Problem:
    """The same futures of each zone, in an order of its own."""
    return msgspec.structs.replace(problem, scenarios={zone: _in_order(zone, rows) for zone, rows in problem.scenarios.items()})


def _in_order(zone: str, rows: list[list[float]]) -> list[list[float]]:
    order = np.random.default_rng(zlib.crc32(zone.encode())).permutation(len(rows))
    return [rows[n] for n in order.tolist()]


class Held(Wrapped):
    """A provider whose forecasts are those of the last midnight, UTC: what came true since has not moved them."""

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """What of it lies ahead. Raises ForecastUnavailable."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        given = self._inner.forecast(zone, midnight, until)
        return msgspec.structs.replace(given, slots=tuple(slot for slot in given.slots if slot.end > now))
