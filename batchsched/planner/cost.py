"""What a set of allotments amounts to: grams, lateness, one figure to compare plans by. Shared by all solvers."""

from __future__ import annotations

from batchsched.planner.holding import holds
from batchsched.planner.plan import Allotment, Load, Plan, key_of
from batchsched.planner.price import RISK_SHARE, Prices, late_marks, work_s
from batchsched.planner.problem import Job, Problem

_EPS_S = 1e-6
_NONE_LEFT = 1e-6
"""A share of a job smaller than this is rounding."""


def assess(problem: Problem, prices: Prices, due: dict[str, float], allotments: list[Allotment], loads: list[Load]) -> Plan:
    """The plan that these allotments make."""
    jobs = {job.batch_id: job for job in problem.jobs}
    mine: dict[str, list[Allotment]] = {job.batch_id: [] for job in problem.jobs}
    for allotment in allotments:
        mine[allotment.batch_id].append(allotment)
    grams: dict[str, float | None] = {}
    objective = 0.0
    uses: list[Allotment | Load] = [*allotments, *loads]
    unknown = {pool.name: [g is None for g in pool.intensity_g_per_kwh] for pool in problem.pools}
    for use in uses:
        job = jobs[use.batch_id]
        key = key_of(job, use)
        config = job.configuration(key)
        running = prices.running_g(config, job.power_w_on[key], use.slot_index) * use.seconds
        weighs = prices.replica_g(config, job.power_w_on[key], use.slot_index) + prices.wait_g_per_s[use.slot_index]
        if isinstance(use, Load):
            objective += use.starts * job.load_g_on.get(key, 0.0)
        else:
            weighs += job.transfer_g_per_s(key)
        objective += weighs * use.seconds
        known = not unknown[use.pool][use.slot_index]
        so_far = grams.get(use.batch_id, 0.0)
        # What is expected of a batch is what its running emits: that of making its hardware is reported apart.
        grams[use.batch_id] = so_far + running if known and so_far is not None else None
    kept, idle_g = holds(problem, prices, allotments, loads)
    objective += idle_g
    for hold in kept:
        config = jobs[hold.batch_id].configuration(jobs[hold.batch_id].key_of(hold.config))
        idling = prices.running_g(config, hold.power_w, hold.slot_index) * hold.seconds
        so_far = grams.get(hold.batch_id, 0.0)
        grams[hold.batch_id] = so_far + idling if so_far is not None and not unknown[hold.pool][hold.slot_index] else None
    late: dict[str, float] = {}
    later: dict[str, float] = {}
    ends = [slot.end_s for slot in problem.slots]
    for job in problem.jobs:
        missing, penalty = _shortfall(problem, prices, job, due[job.batch_id], mine[job.batch_id], ends)
        objective += penalty
        if missing > _NONE_LEFT and job.remaining_requests > 0:
            (late if job.deadline_s <= problem.end_s else later)[job.batch_id] = missing * job.remaining_requests
    return Plan(
        problem.slots,
        sorted(allotments, key=lambda a: (a.slot_index, a.pool, a.batch_id)),
        sorted(loads, key=lambda a: (a.slot_index, a.pool, a.batch_id)),
        late,
        later,
        {key: at for key, at in due.items() if at > float("-inf")},
        grams,
        objective,
        holds=kept,
    )


def late_s(problem: Problem, plan: Plan) -> float:
    """Weighted seconds of work that a plan leaves late."""
    share = {job.batch_id: job.weight * work_s(job) / max(1, job.remaining_requests) for job in problem.jobs}
    return sum(requests * share[batch_id] for batch_id, requests in plan.late.items())


def lateness_g(problem: Problem, prices: Prices, plan: Plan) -> float:
    """What of a plan's objective is lateness, for deadlines and for due times. `problem`: in the plan's slots."""
    ends = [slot.end_s for slot in problem.slots]
    never = float("-inf")
    return sum(
        _shortfall(problem, prices, job, plan.due_s.get(job.batch_id, never), plan.of(job.batch_id), ends)[1]
        for job in problem.jobs
    )


def _shortfall(
    problem: Problem, prices: Prices, job: Job, due_s: float, mine: list[Allotment], ends: list[float]
) -> tuple[float, float]:
    """Share of a job that is not done by its deadline (or by the horizon's end), and what all its lateness costs in grams."""
    price = prices.loss_g_per_s * job.weight * work_s(job)
    shares = [(ends[a.slot_index], a.seconds / job.seconds_on[a.key]) for a in mine]

    def undone(at: float) -> float:
        return max(0.0, 1.0 - sum(share for end, share in shares if end <= at + _EPS_S))

    if not job.seconds_on or work_s(job) <= 0:
        return (1.0 if not mine else 0.0), 0.0
    if job.deadline_s > problem.end_s:
        missing = undone(problem.end_s)
        return missing, RISK_SHARE * price * missing
    missing = undone(job.deadline_s)
    late = missing + sum(undone(at) for at in late_marks(problem, job))
    return missing, price * (late + RISK_SHARE * undone(due_s))
