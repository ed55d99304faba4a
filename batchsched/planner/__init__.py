"""The assignment problem and its solution: plain data in, a plan out. No clock, no database, no network."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from batchsched.planner.plan import Allotment, Load, Plan
from batchsched.planner.problem import Configuration, Job, Link, PoolState, Problem, Slot, make_slots, open_share

__all__ = [
    "Allotment",
    "Configuration",
    "Job",
    "Link",
    "Load",
    "Plan",
    "PoolState",
    "Problem",
    "Slot",
    "make_plan",
    "make_slots",
    "noted",
    "open_share",
    "prepared",
    "solve",
    "sorted_out",
]

MOST_CUTS = 96
"""Slots are cut at up to so many due times and deadlines; of more, only where rounding down to a slot's end costs much."""


def make_plan(
    problem: Problem,
    solver: Literal["cp-sat", "greedy", "at-once"] = "cp-sat",
    work_s: float = 2.0,
    seed: int = 0,
    wall_s: float = math.inf,
    *,
    jointly: bool = True,
) -> Plan:
    """A verified plan: the greedy one, improved by a solver where that is asked for and succeeds; a note says where it did not.

    `jointly`: few batches are also weighed all at once (joint.py). `at-once` shifts nothing: each job where it is done soonest.
    The plan's slots may be finer than the problem's. The solver's work is counted: `work_s` is about its seconds on an idle core,
    and the same problem, seed and work give the same plan, unless `wall_s` of the clock cut the solver short. Numbers that make
    no sense are left out, and a note says which. Raises UnsafePlan where even the greedy plan breaks a rule, ValueError where the
    slots have gaps.
    """
    from batchsched.planner.at_once import at_once
    from batchsched.planner.greedy import greedy
    from batchsched.planner.risk import hedged
    from batchsched.planner.sound import sound
    from batchsched.planner.verify import verify, violations

    problem, wrong = sound(problem)
    plan, fine, due = _greedy(problem, jointly=jointly)
    if solver == "at-once":
        plan = at_once(fine, due)
    elif solver == "greedy":
        try:
            plan = hedged(fine, due, plan, lambda priced, _: greedy(priced, due))
        except Exception as error:  # without the program that mixes plans the one for the mean stands
            plan = noted(plan, f"Risk could not be weighed ({type(error).__name__}: {error}); this is the plan for the mean")
    verify(problem, plan)
    if solver == "cp-sat" and problem.jobs and problem.slots:
        try:
            better = _improved(plan, fine, due, work_s, seed, wall_s)
            broken = violations(problem, better)
            unsafe = f"The solver's plan was unsafe ({broken[0]}); this is the greedy plan" if broken else ""
            plan = noted(plan, unsafe) if unsafe else better
        except Exception as error:  # whatever the solver does, there is a plan
            plan = noted(plan, f"The solver failed ({type(error).__name__}: {error}); this is the greedy plan")
    plan = with_interval(fine, plan)
    return sorted_out(plan, wrong)


def solve(problem: Problem, work_s: float = 2.0, seed: int = 0, wall_s: float = math.inf) -> Plan:
    """The plan of `make_plan` before it is verified. Raises whatever the solver does."""
    from batchsched.planner.sound import sound

    plan, fine, due = _greedy(sound(problem)[0])
    return with_interval(fine, _improved(plan, fine, due, work_s, seed, wall_s))


def _greedy(problem: Problem, *, jointly: bool = True) -> tuple[Plan, Problem, dict[str, float]]:
    """The greedy plan, or that of all batches at once where it weighs less; the problem in slots cut at due times; those."""
    from batchsched.planner.greedy import greedy

    fine, due = prepared(problem)
    plan = _tidied(fine, due, greedy(fine, due))
    try:
        other = _joint(fine, due) if jointly else None
    except Exception as error:  # without the program there is the greedy plan
        return noted(plan, f"All batches at once could not be weighed ({type(error).__name__}: {error})"), fine, due
    return min(plan, other or plan, key=lambda one: one.objective), fine, due


def _joint(fine: Problem, due: dict[str, float]) -> Plan | None:
    from batchsched.planner.joint import joint
    from batchsched.planner.verify import violations

    found = joint(fine, due)
    if found is None or violations(fine, tidied := _tidied(fine, due, found)):
        return None
    return msgspec.structs.replace(tidied, solver="greedy", status="feasible")


def _tidied(fine: Problem, due: dict[str, float], plan: Plan) -> Plan:
    """A plan without short runs and crumbs, as far as can be."""
    from batchsched.planner.crumbs import swept
    from batchsched.planner.runs import merged

    return swept(fine, due, merged(fine, due, plan))


def prepared(problem: Problem, *others: Problem) -> tuple[Problem, dict[str, float]]:
    """What every planner begins with: the problem in slots that are cut at due times, and those. `others`: problems on the same
    slots whose due times are to be cuts too."""
    from batchsched.planner.due import due_times
    from batchsched.planner.hastened import hastened
    from batchsched.planner.problem import cut, telling

    due = due_times(problem)
    dues = [(problem, due), *((other, due_times(other)) for other in others)]
    instants = {at for one, of in dues for job in one.jobs for at in (of[job.batch_id], job.deadline_s) if at > 0}
    fine = cut(problem, instants if len(instants) <= MOST_CUTS else telling(problem.slots, instants))
    return fine, hastened(fine, due)


def _improved(plan: Plan, fine: Problem, due: dict[str, float], work_s: float, seed: int, wall_s: float) -> Plan:
    from batchsched.planner.cpsat import improve
    from batchsched.planner.greedy import greedy
    from batchsched.planner.risk import ROUNDS, hedged

    def again(priced: Problem, standing: Plan) -> Plan:
        start = min(standing, greedy(priced, due), key=lambda plan: plan.objective)
        return improve(priced, due, start, work_s=work_s / ROUNDS, seed=seed, wall_s=wall_s / (2 * ROUNDS))

    first = improve(fine, due, plan, work_s=work_s, seed=seed, wall_s=wall_s if fine.risk.weight <= 0 else wall_s / 2)
    return _tidied(fine, due, hedged(fine, due, first, again))


def with_interval(fine: Problem, plan: Plan) -> Plan:
    """The plan with what its grams may come to, or a note where that cannot be told. `fine`: the problem in the plan's slots."""
    from batchsched.planner.futures import Futures

    if not plan.allotments:
        return plan
    carbon = msgspec.structs.replace(fine, pools=[msgspec.structs.replace(pool, energy_g_per_kwh=0.0) for pool in fine.pools])
    try:
        return msgspec.structs.replace(plan, grams_interval=Futures(carbon).interval(plan))
    except Exception as error:  # it is only shown: no reason to do without the plan
        return noted(plan, f"What its grams may come to cannot be told ({type(error).__name__}: {error})")


def sorted_out(plan: Plan, wrong: list[str]) -> Plan:
    """The plan with a note of what made no sense in its problem."""
    return noted(plan, f"What makes no sense is left out: {'; '.join(wrong)}.") if wrong else plan


def noted(plan: Plan, note: str) -> Plan:
    """The same with a note more."""
    return msgspec.structs.replace(plan, notes=[*plan.notes, note])
