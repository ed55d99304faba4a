"""The assignment problem and its solution: plain data in, a plan out. No clock, no database, no network."""

from __future__ import annotations

from typing import Literal

import msgspec

from batchsched.planner.plan import Allotment, Load, Plan
from batchsched.planner.problem import Job, PoolState, Problem, Slot, make_slots, open_share

__all__ = ["Allotment", "Job", "Load", "Plan", "PoolState", "Problem", "Slot", "make_plan", "make_slots", "open_share"]

MOST_CUTS = 96
"""Slots are cut at the first so many due times and deadlines; later ones are rounded down to a slot's end."""


def make_plan(problem: Problem, solver: Literal["cp-sat", "greedy"] = "cp-sat", time_limit_s: float = 2.0, seed: int = 0) -> Plan:
    """A verified plan: the greedy one, improved by CP-SAT where that is asked for and succeeds; a note says where it did not.

    The plan's slots may be finer than the problem's. The same problem and seed give the same plan, unless the wall clock cut
    the solver short. Raises UnsafePlan where even the greedy plan breaks a rule.
    """
    from batchsched.planner.due import due_times
    from batchsched.planner.greedy import greedy
    from batchsched.planner.problem import cut
    from batchsched.planner.verify import verify, violations

    problem = _at_home(problem)
    due = due_times(problem)
    instants = sorted({at for job in problem.jobs for at in (due[job.batch_id], job.deadline_s) if at > 0})
    fine = cut(problem, instants[:MOST_CUTS])
    plan = greedy(fine, due)
    verify(problem, plan)
    if solver == "greedy" or not problem.jobs or not problem.slots:
        return plan
    try:
        from batchsched.planner.cpsat import improve

        better = improve(fine, due, plan, time_limit_s=time_limit_s, seed=seed)
    except Exception as error:  # whatever the solver does, there is a plan
        return _noted(plan, f"CP-SAT failed ({type(error).__name__}: {error}); this is the greedy plan")
    broken = violations(problem, better)
    if broken:
        return _noted(plan, f"CP-SAT's plan was unsafe ({broken[0]}); this is the greedy plan")
    return better


def _at_home(problem: Problem) -> Problem:
    """The same without places that are not among the pools: nothing can run there."""
    known = {pool.name for pool in problem.pools}
    if all(known.issuperset(job.seconds_on) for job in problem.jobs):
        return problem
    jobs = [
        msgspec.structs.replace(job, seconds_on={pool: s for pool, s in job.seconds_on.items() if pool in known})
        for job in problem.jobs
    ]
    return Problem(problem.slots, problem.pools, jobs)


def _noted(plan: Plan, note: str) -> Plan:
    return msgspec.structs.replace(plan, notes=[*plan.notes, note])
