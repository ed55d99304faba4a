"""The least that any plan of a tiny problem can come to: one exact program, job by job and slot by slot, solved to proof.

No classes, no units of work, no prefix rows: nothing of the solvers' ideas is in it. Of theirs it has the prices, which say what
the objective is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from batchsched.planner import Job, Problem
from batchsched.planner.price import RISK_SHARE, Prices, late_marks, price, work_s

Terms = dict[tuple[str, int], list[Any]]
"""By configuration or pool, and slot."""


def least_objective(problem: Problem, due: dict[str, float]) -> float:
    """What the best plan's objective is. `problem`: in the slots that the plan may use; each job's engines start alike."""
    from ortools.math_opt.python import mathopt

    program: Any = mathopt.Model()
    prices = price(problem)
    busy: Terms = defaultdict(list)
    taken: Terms = defaultdict(list)
    cost = [_job(program, problem, prices, job, due[job.batch_id], busy, taken) for job in problem.jobs]
    startup = {(job.model, pool): s for job in problem.jobs for pool, s in job.startup_s_on.items()}
    power = {(job.model, pool): w for job in problem.jobs for pool, w in job.power_w_on.items()}
    held: Terms = defaultdict(list)
    for (model, pool), startup_s in startup.items():
        job = next(job for job in problem.jobs if job.model == model and pool in job.startup_s_on)
        before: Any = problem.pool(pool).loaded.count(model)
        for t, slot in enumerate(problem.slots):
            starts, after = (program.add_integer_variable(lb=0, ub=20) for _ in range(2))
            left = startup_s
            for later in range(t, len(problem.slots)):
                seconds = min(left, problem.slots[later].length_s)
                left -= seconds
                if seconds > 0:
                    busy[f"{model} on {pool}", later].append(seconds * starts)
                    taken[pool, later].append(seconds * starts)
                    second_g = prices.second_g(job, pool, later) / job.power_w_on[pool] * power[model, pool]
                    cost.append(seconds * (second_g + prices.wait_g_per_s[later]) * starts)
            program.add_linear_constraint(sum(busy[f"{model} on {pool}", t]) - (before + starts) * slot.length_s <= 0)
            program.add_linear_constraint(after - before - starts <= 0)
            held[pool, t].append(after)
            before = after
    for (pool, t), uses in taken.items():
        program.add_linear_constraint(sum(uses) <= problem.pool(pool).capacity[t] * problem.slots[t].length_s)
    for (pool, _), kept in held.items():
        state = problem.pool(pool)
        program.add_linear_constraint(sum(kept) <= max(math.ceil(max(state.capacity)), len(state.loaded)))
    program.minimize(sum(cost))
    result = mathopt.solve(program, mathopt.SolverType.HIGHS, params=mathopt.SolveParameters(relative_gap_tolerance=1e-7))
    assert result.termination.reason == mathopt.TerminationReason.OPTIMAL, result.termination
    return float(result.objective_value())


def _job(program: Any, problem: Problem, prices: Prices, job: Job, due_s: float, busy: Terms, taken: Terms) -> Any:
    """Its work, and what that and its lateness cost."""
    shares: list[tuple[float, Any]] = []
    cost: Any = program.add_variable(lb=0, ub=0)
    for t, slot in enumerate(problem.slots):
        in_slot = []
        for pool, work in job.seconds_on.items():
            if job.finish_late or slot.end_s <= job.deadline_s + 1e-6:
                seconds = program.add_variable(lb=0)
                in_slot.append(seconds)
                shares.append((slot.end_s, seconds / work))
                busy[f"{job.model} on {pool}", t].append(seconds)
                taken[pool, t].append(seconds)
                cost += (prices.second_g(job, pool, t) + prices.wait_g_per_s[t]) * seconds
        if in_slot:
            program.add_linear_constraint(sum(in_slot) <= job.width * slot.length_s)
    done: Any = sum(share for _, share in shares) + program.add_variable(lb=0, ub=0)
    program.add_linear_constraint(done <= 1)
    loss = prices.loss_g_per_s * job.weight * work_s(job)
    beyond = job.deadline_s > problem.end_s
    marks = [(problem.end_s, RISK_SHARE)] if beyond else [(due_s, RISK_SHARE), (job.deadline_s, 1.0)]
    for at, share in [*marks, *((at, 1.0) for at in ([] if beyond else late_marks(problem, job)))]:
        missing = program.add_variable(lb=0)
        by_then: Any = sum(part for end, part in shares if end <= at + 1e-6) + missing
        program.add_linear_constraint(by_then >= 1)
        cost += loss * share * missing
    return cost
