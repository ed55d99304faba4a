"""The planner's own path at fleet size: few cuts, no scan of all batches for each batch, a plan in a fraction of a second."""

from __future__ import annotations

import random
import time
from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from batchsched.planner import Problem, make_plan
from batchsched.planner.latest_start import latest_safe_starts, open_pools
from batchsched.planner.problem import CUT_SHARE, cut, telling

from .planner_cases import job, pool, slots


@given(st.lists(st.floats(2.0, 80_000.0), max_size=300))
def test_many_instants_need_few_cuts(instants: list[float]) -> None:
    """Whatever falls due, a boundary lies close before it; 15-minute slots need some hundred cuts at the very most."""
    problem = Problem(slots(96), [], [])
    chosen = telling(problem.slots, instants)
    assert len(chosen) <= 200
    edges = [0.0, *(slot.end_s for slot in cut(problem, chosen).slots)]
    for at in instants:
        before = edges[bisect_right(edges, at) - 1]
        assert at - before <= CUT_SHARE * at + 1.0 + 1e-9  # cuts within a second of a boundary are not made


def fleet(batches: int, pools: int, load: float = 0.4) -> Problem:
    """Pools of twenty replicas, four models, batches that fill `load` of them and fall due at any time."""
    draw = random.Random(batches)
    names = [f"p{i}" for i in range(pools)]
    states = [pool(name, [draw.uniform(50, 500) for _ in range(96)], 20, loaded=["m0"] * draw.randint(0, 20)) for name in names]
    mean_s = load * pools * 20 * 86_400 / batches
    jobs = []
    for i in range(batches):
        work = draw.uniform(0.2, 1.8) * mean_s
        on = {name: work * draw.uniform(1.0, 2.0) for name in draw.sample(names, min(pools, 8))}
        more = {"model": f"m{i % 4}", "startup_s_on": dict.fromkeys(on, 60.0), "sigma": 0.2, "sigma_own": 0.1}
        jobs.append(job(f"b{i:05}", on, draw.uniform(7_200, 90_000), **more))
    return Problem(slots(96), states, jobs)


def test_ten_times_the_batches_take_little_more_than_ten_times_as_long() -> None:
    """What scans all batches for each batch would take a hundred times as long."""

    def spent_s(batches: int) -> float:
        problem = fleet(batches, 10)
        began = time.process_time()
        make_plan(problem, "greedy")
        latest_safe_starts(problem.jobs, open_pools(problem))
        return time.process_time() - began

    spent_s(20)
    assert spent_s(2_000) < 30 * max(0.02, spent_s(200))
