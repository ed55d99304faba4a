"""GreenLLM's scheduler (Shi et al., "GreenLLM", Algorithm 1), which chooses a configuration for a workload and shifts nothing.

For each workload: of the configurations whose attainment of the service level reaches the target that with the least carbon,
operational at the present intensity and embodied as plans weigh it; where there is none, the fallback for the priority "SLO",
that with the highest attainment. Its service levels are latencies of online requests: a batch has a deadline, so attainment is
how likely it is done by then if it runs there from now on, in the room that is left, as wide as it can. The gaps that the paper
fills by collaborative filtering are filled by profiles, as for all policies. Chosen once, when a batch comes; where its
configuration has no room in time, the rest runs elsewhere.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from batchsched.planner import Job, Plan, Problem
from batchsched.simulate.policies.policy import Queue
from batchsched.simulate.policies.rows import Rows, fastest

TARGET = 0.9
"""The paper's attainment."""


class GreenLlm:
    """Each batch at once in the configuration that was chosen for it."""

    def __init__(self) -> None:
        self._queue = Queue()
        self._chosen: dict[str, str] = {}

    def __call__(self, problem: Problem, _now_s: float) -> Plan:
        """Batches in order of coming."""
        rows, chosen = Rows(problem), {}
        for job in self._queue.ordered(rows.jobs):
            key = self._chosen.get(job.batch_id, "")
            key = chosen[job.batch_id] = key if key in job.seconds_on else optimal(rows, job)
            rows.fill(job, [(key, slot) for slot in range(rows.in_time(job))])
            rows.rest(job)
        self._chosen = chosen
        return rows.plan()


def optimal(rows: Rows, job: Job) -> str:
    """Algorithm 1 for one workload."""
    attained = {key: attainment(rows, job, key) for key in fastest(job)}
    feasible = [key for key, share in attained.items() if share >= TARGET]
    if feasible:
        return min(feasible, key=lambda key: float(rows.grams(job, key)[0]))
    return max(attained, key=lambda key: attained[key])


def attainment(rows: Rows, job: Job, key: str) -> float:
    """How likely it is done by its deadline if it runs there from now on: its time is lognormal around what is expected."""
    open_s = np.clip((job.deadline_s - rows.start_s) / rows.length_s, 0.0, 1.0) @ rows.free_s(job, key)
    room_s = float(open_s) - min(job.width, rows.pools[job.configuration(key).pool].replicas) * job.startup_s_on[key]
    if room_s <= 0:
        return 0.0
    if job.spread <= 0:
        return float(room_s >= job.seconds_on[key])
    z = (math.log(room_s / job.seconds_on[key]) + job.spread**2 / 2) / job.spread
    return NormalDist().cdf(z)
