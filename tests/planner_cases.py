"""Instances for the planner's tests."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from hypothesis import strategies as st

from batchsched.planner import Job, PoolState, Problem, Slot


def pool(name: str, intensity: Sequence[float | None], replicas: int = 1, **more: object) -> PoolState:
    """An always open pool in a zone of its own."""
    settings: dict[str, object] = {"capacity": [float(replicas)] * len(intensity), "pue": 1.0, **more}
    return PoolState(name, f"site-{name}", f"zone-{name}", replicas, intensity_g_per_kwh=list(intensity), **settings)  # type: ignore[arg-type]


def job(name: str, seconds: float | dict[str, float], deadline_s: float, **more: object) -> Job:
    """A job of 100 requests at 1 kW; `seconds`: on pool `a`, or by pool."""
    on = seconds if isinstance(seconds, dict) else {"a": seconds}
    settings: dict[str, object] = {"model": "m", "remaining_requests": 100, "startup_s_on": dict.fromkeys(on, 0.0), **more}
    return Job(name, seconds_on=on, power_w_on=dict.fromkeys(on, 1000.0), deadline_s=deadline_s, **settings)  # type: ignore[arg-type]


def slots(count: int, length_s: float = 900.0) -> list[Slot]:
    """Equal slots from 0."""
    return [Slot(i * length_s, length_s) for i in range(count)]


def fleet_problem(
    seed: int, jobs: int = 6, pools: int = 3, count: int = 24, startup_s: float = 60.0, load: float = 1.0
) -> Problem:
    """Two models, waves of intensity, windows, models loaded here and there, deadlines anywhere; `load` scales the work."""
    draw = random.Random(seed)
    length, states, names = 900.0, [], [f"p{i}" for i in range(pools)]
    for name in names:
        replicas, phase, closed = draw.randint(1, 3), draw.uniform(0, 6.3), draw.randrange(count)
        capacity = [0.0 if closed <= t < closed + count // 6 else float(replicas) for t in range(count)]
        intensity: list[float | None] = [300 + 200 * math.sin(phase + t / 4) + draw.uniform(0, 20) for t in range(count)]
        loaded = draw.choice([[], ["m0"] * replicas, ["m1"]])
        states.append(pool(name, intensity, replicas, capacity=capacity, loaded=loaded))
    made = []
    for i in range(jobs):
        work = load * (60 + draw.expovariate(1 / 1500))
        on = {name: work * (1 + 0.7 * names.index(name)) for name in draw.sample(names, draw.randint(1, pools))}
        made.append(
            job(
                f"b{i:03}",
                on,
                draw.uniform(600, 1.05 * count * length),
                model=f"m{draw.randrange(2)}",
                remaining_requests=draw.randint(1, 4000),
                startup_s_on=dict.fromkeys(on, startup_s),
                sigma=0.2,
                sigma_own=0.1,
                finish_late=draw.random() < 0.3,
                weight=draw.choice([1.0, 1.0, 3.0]),
            )
        )
    return Problem(slots(count, length), states, made)


seeds = st.integers(0, 10_000)
