"""`make_plan` on a fleet of the benchmark that is made easier: what it cannot be told is left out, in its favour.

It knows no releases, so every batch is ready at once; it knows replicas but no GPUs, so each GPU is a replica by itself, with its
share of speed and watts; engines start in no time and for nothing. Its grams are the less for that; its seconds are comparable.
"""

from __future__ import annotations

import time

import numpy as np

from batchsched.planner import Job, PoolState, Problem, Slot, make_plan
from batchsched.planner.fleet_model import Floats
from batchsched.units import JOULES_PER_KWH
from benchmarks.planner.instance import Instance

MEAN_G_PER_KWH = 1000.0
"""Of every pool: what its hours differ by is in its intensity, what pools and models differ by in watts."""


def greedy(instance: Instance) -> tuple[float, float, float]:
    """Grams, the share of the work that is late, and the seconds that it took."""
    easy = problem(instance)
    began = time.perf_counter()
    plan = make_plan(easy, "greedy")
    spent_s = time.perf_counter() - began
    grams = sum(g or 0.0 for g in plan.grams_expected.values())
    return grams, sum(plan.late.values()) / sum(job.remaining_requests for job in easy.jobs), spent_s


def problem(instance: Instance) -> Problem:
    """The easier problem. Where several models may serve a batch on a pool, the one that emits least does."""
    m = instance.model
    second_g: Floats = m.run_g + instance.ready_g[m.arc_config] / m.slot_s
    mean_g = second_g.mean(axis=1)
    shape = np.ones(m.capacity.shape)
    shape[instance.pool[m.arc_config]] = second_g / mean_g[:, None]
    ends = np.cumsum(m.slot_s)
    slots = [Slot(float(end - length), float(length)) for end, length in zip(ends, m.slot_s, strict=True)]
    pools = [
        PoolState(name, name, name, int(gpus), open_.tolist(), 1.0, (MEAN_G_PER_KWH * row).tolist())
        for name, gpus, open_, row in zip(instance.pools, instance.gpus, m.capacity, shape, strict=True)
    ]
    return Problem(slots, pools, [_job(instance, b, mean_g, float(ends[m.due[b] - 1])) for b in range(len(m.work))])


def _job(instance: Instance, batch: int, mean_g: Floats, deadline_s: float) -> Job:
    m = instance.model
    seconds_on: dict[str, float] = {}
    power_w_on: dict[str, float] = {}
    arcs = instance.arcs[m.batch_class[batch]]
    for a in arcs[np.argsort(-mean_g[arcs] / m.rate[arcs])]:  # the best of a pool comes last, and stays
        k = m.arc_config[a]
        name, gpus = instance.pools[instance.pool[k]], float(m.gpus[k].max())
        seconds_on[name] = float(m.work[batch] / m.rate[a]) * gpus
        power_w_on[name] = float(mean_g[a]) * JOULES_PER_KWH / MEAN_G_PER_KWH / gpus
    return Job(f"b{batch:05}", "m", int(m.work[batch]), seconds_on, power_w_on, dict.fromkeys(seconds_on, 0.0), deadline_s)
