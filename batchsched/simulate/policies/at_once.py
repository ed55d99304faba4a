"""Policies that shift nothing: each batch as soon as there is room, in one order or another, on one choice of hardware or
another.

- **run now**: as batches come, on the newest hardware: what savings are counted against.
- **FIFO** and **EDF**, without carbon: as batches come, or by deadline; each on the one pool on which it is done soonest.
- Three designs that EcoServe compares itself with (Li et al., arXiv 2502.05043, abstract: "performance, energy, and
  cost-optimized design points"): the fastest GPUs, those that take the least energy for the work, those that take the least
  money. The paper's own programs for them are not public; what carries over is the choice of GPUs, batch by batch, as they come:
  each as soon as there is room on the best, on the next best where it would not be done in time.
- **cleanest place** (Caribou, SOSP 2024): work runs when it comes, in the region that emits least at that hour by the forecast,
  transfers counted. Caribou solves a deployment for each hour and knows no deadlines and no capacity: here a batch goes on to the
  next cleanest place where one is full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from batchsched.planner import Job, Plan, Problem
from batchsched.simulate.policies.policy import Planner, Queue
from batchsched.simulate.policies.rows import Rows, fastest

Order = Callable[[Rows, Job], list[str]]
"""A job's configurations, the best first."""


def run_now() -> Planner:
    """As batches come, at once, on the newest hardware."""
    queue = Queue()

    def plan(problem: Problem, _now_s: float) -> Plan:
        rows = Rows(problem)
        for job in queue.ordered(rows.jobs):
            rows.soonest(job, rows.newest(job))
        return rows.plan()

    return plan


def fastest_gpus() -> Planner:
    """As batches come, on the fastest hardware."""
    return _best_first(lambda _rows, job: fastest(job))


def least_energy() -> Planner:
    """As batches come, where their work takes the least energy, cooling counted."""

    def joules(rows: Rows, job: Job, key: str) -> float:
        return job.seconds_on[key] * job.power_w_on[key] * rows.pools[job.configuration(key).pool].pue

    return _best_first(lambda rows, job: sorted(job.seconds_on, key=lambda key: (joules(rows, job, key), key)))


def least_money(price_per_h: Mapping[str, float]) -> Planner:
    """As batches come, where their work takes the least money; of an hour of a replica, by pool."""

    def money(job: Job, key: str) -> float:
        takes = job.configuration(key).takes.items()
        return job.seconds_on[key] * sum(price_per_h[pool] * share for pool, share in takes)

    return _best_first(lambda _rows, job: sorted(job.seconds_on, key=lambda key: (money(job, key), key)))


def _best_first(order: Order) -> Planner:
    queue = Queue()

    def plan(problem: Problem, _now_s: float) -> Plan:
        rows = Rows(problem)
        for job in queue.ordered(rows.jobs):
            rows.fill(job, ((key, slot) for key in order(rows, job) for slot in range(rows.in_time(job))))
            rows.rest(job)
        return rows.plan()

    return plan


def cleanest_place() -> Planner:
    """As batches come, at once, in the pool that emits least for the work at that hour."""
    queue = Queue()

    def plan(problem: Problem, _now_s: float) -> Plan:
        rows = Rows(problem)
        for job in queue.ordered(rows.jobs):
            keys = fastest(job)
            ranks = np.argsort([rows.grams(job, key) for key in keys], axis=0, kind="stable")
            rows.fill(job, ((keys[n], slot) for slot in range(ranks.shape[1]) for n in ranks[:, slot].tolist()))
        return rows.plan()

    return plan


def first_come() -> Planner:
    """As batches come, each on the pool on which it is done soonest."""
    queue = Queue()
    return _one_pool_each(queue.ordered)


def earliest_deadline() -> Planner:
    """By deadline, each on the pool on which it is done soonest."""
    return _one_pool_each(by_deadline)


def _one_pool_each(ordered: Callable[[list[Job]], list[Job]]) -> Planner:
    def plan(problem: Problem, _now_s: float) -> Plan:
        rows = Rows(problem)
        for job in ordered(rows.jobs):
            keys = sorted(fastest(job), key=lambda key: _done_s(rows, job, key))
            rows.soonest(job, keys[:1])
            rows.rest(job)
        return rows.plan()

    return plan


def _done_s(rows: Rows, job: Job, key: str) -> float:
    """When all of it would be done there, as things stand; infinite where never."""
    reached = np.cumsum(rows.free_s(job, key))
    slot = int(np.searchsorted(reached, job.seconds_on[key] - 1e-6))
    if slot == len(reached):
        return float("inf")
    before = reached[slot - 1] if slot else 0.0
    share = (job.seconds_on[key] - before) / (reached[slot] - before)
    return float(rows.start_s[slot] + share * rows.length_s[slot])


def by_deadline(jobs: list[Job]) -> list[Job]:
    """What is due first comes first."""
    return sorted(jobs, key=lambda job: (job.deadline_s, job.batch_id))
