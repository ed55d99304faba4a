"""Policies that divide a batch freely over the hours and places that emit least for it.

- **EDF, cheapest slot**: by deadline, planned anew each time.
- **marginal allocation** (CarbonScaler, Hanafy et al., POMACS 2023, arXiv 2302.08681): as they come, server by server where one
  more does most work for a gram, planned anew each time, as there where things turn out otherwise. Here a batch is as much
  faster as it has replicas, up to its width, so that its curve of marginal work is flat and the best place is filled before the
  next. The paper ignores capacity: here what came before keeps its room.
"""

from __future__ import annotations

from collections.abc import Callable

from batchsched.planner import Job, Plan, Problem
from batchsched.simulate.policies.at_once import by_deadline
from batchsched.simulate.policies.policy import Planner, Queue
from batchsched.simulate.policies.rows import Rows


def cheapest_slot() -> Planner:
    """By deadline."""
    return _cheapest(by_deadline)


def marginal_allocation() -> Planner:
    """As they come."""
    return _cheapest(Queue().ordered)


def _cheapest(ordered: Callable[[list[Job]], list[Job]]) -> Planner:
    def plan(problem: Problem, _now_s: float) -> Plan:
        rows = Rows(problem)
        for job in ordered(rows.jobs):
            rows.fill(job, rows.cheapest(job))
            rows.rest(job)
        return rows.plan()

    return plan
