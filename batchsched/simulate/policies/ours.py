"""Our planner, as production sets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from batchsched.planner import make_plan
from batchsched.planner.churn import settled
from batchsched.simulate.policies.policy import Planner


def planned(solver: Literal["cp-sat", "greedy"], work_s: float = 2.0, *, jointly: bool = True) -> Callable[[], Planner]:
    """Our planner, with so much work of the solver a plan. `jointly`: all batches are also weighed at once."""
    return lambda: lambda problem, _now_s: settled(problem, make_plan(problem, solver, work_s=work_s, jointly=jointly))
