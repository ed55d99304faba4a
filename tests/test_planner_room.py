"""What is open to a job: of the fastest place all that is free, of the next as far as the job is wider."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.planner import Job, PoolState, Problem, Slot
from batchsched.planner.problem import Supply
from batchsched.planner.room import room, rooms

PLACES = ("a", "b", "c")
CAPACITY = st.lists(st.floats(0.0, 6.0), min_size=4, max_size=4)
WORK = st.dictionaries(st.sampled_from(PLACES), st.floats(600.0, 1e5), min_size=1)


def fleet(capacity: dict[str, list[float]], jobs: list[Job]) -> Problem:
    """Four hours."""
    slots = [Slot(3600.0 * n, 3600.0) for n in range(4)]
    pools = [PoolState(name, name, "z", 6, of_slots, 1.0, [100.0] * 4) for name, of_slots in capacity.items()]
    return Problem(slots, pools, jobs)


def job(name: str, work: dict[str, float], width: int, deadline_s: float, startup_s: float = 0.0) -> Job:
    return Job(
        name,
        "m",
        100,
        work,
        dict.fromkeys(work, 100.0),
        dict.fromkeys(work, startup_s),
        deadline_s,
        sigma=0.2,
        sigma_own=0.1,
        max_replicas=width,
    )


def by_hand(problem: Problem, one: Job) -> float:
    """How many times the work of a job fits that has the fleet for itself, place by place."""
    times, startup_s = 0.0, min(one.startup_s_on.values())
    width = [one.width * max(0.0, min(slot.length_s, one.deadline_s - slot.start_s)) for slot in problem.slots]
    for seconds, name in sorted((seconds, name) for name, seconds in one.seconds_on.items()):
        open_s = 0.0
        for t, slot in enumerate(problem.slots):
            length_s = max(0.0, min(slot.length_s, one.deadline_s - slot.start_s))
            take = min(problem.pool(name).capacity[t] * length_s, width[t])
            width[t] -= take
            open_s += take
        wasted = min(startup_s, open_s)
        startup_s -= wasted
        times += (open_s - wasted) / seconds
    return times


@given(
    st.fixed_dictionaries(dict.fromkeys(PLACES, CAPACITY)),
    WORK,
    st.integers(1, 9),
    st.floats(1.0, 14_400.0),
    st.floats(0.0, 900.0),
)
def test_a_job_fills_its_places_from_the_fastest_on(
    capacity: dict[str, list[float]], work: dict[str, float], width: int, deadline_s: float, startup_s: float
) -> None:
    one = job("j", work, width, deadline_s, startup_s)
    problem = fleet(capacity, [one])
    assert room(problem, one, deadline_s).times == pytest.approx(by_hand(problem, one), rel=1e-9, abs=1e-9)


def test_earlier_jobs_take_from_later_ones_and_replicas_that_fail_count() -> None:
    first, second = job("first", {"a": 7200.0}, 1, 7200.0), job("second", {"a": 3600.0, "b": 7200.0}, 2, 14_400.0)
    problem = fleet({"a": [1.0] * 4, "b": [1.0] * 4}, [first, second])
    found = rooms(problem, {"first", "second"})
    assert found["first"].times == pytest.approx(1.0)
    assert 4.0 < found["second"].times < 4.3  # two hours of `a` are left, some of what the first might take, and all of `b`
    failing = Supply(failures_per_replica_h=0.5, repair_s=1800.0)
    pools = [PoolState(p.name, p.site, p.zone, 6, p.capacity, 1.0, p.intensity_g_per_kwh, supply=failing) for p in problem.pools]
    shaky = rooms(Problem(problem.slots, pools, problem.jobs), {"second"})["second"]
    assert shaky.times == pytest.approx(found["second"].times)
    assert shaky.doubt.stops > 0
    assert shaky.probability < found["second"].probability
    assert math.isclose(rooms(problem, {"second"})["second"].probability, found["second"].probability)
