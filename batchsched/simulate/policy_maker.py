"""A policy in the place of the scheduler's solver."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchsched.planner import Plan, Problem
from batchsched.simulate.policies import Policy
from batchsched.solving import Solved


class PolicyMaker:
    """Makes a policy's plans. What goes wrong in one is kept (`trouble`): the scheduler goes on, a simulation must not."""

    def __init__(self, policy: Policy, now_s: Callable[[], float]) -> None:
        self._planner = policy.planner()
        self._now_s = now_s
        self.cpu_s = 0.0
        self.trouble: Exception | None = None

    def start(self) -> None:
        """There is nothing to load."""

    def stop(self) -> None:
        """There is nothing to end."""

    def plan(
        self,
        problem: Problem,
        work_s: float | None = None,  # noqa: ARG002 - the port's
        *,
        ready_s: float = 0.0,  # noqa: ARG002
        meanwhile: Callable[[Plan], None] | None = None,  # noqa: ARG002
    ) -> Solved:
        """The policy's plan, whatever the scheduler would allow the solver."""
        began = time.process_time()
        try:
            return Solved(self._planner(problem, self._now_s()))
        except Exception as problem_with_it:
            self.trouble = problem_with_it
            raise
        finally:
            self.cpu_s += time.process_time() - began
