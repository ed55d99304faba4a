"""What users of the SIMULATED server feel in the first three seconds of a burst that meets a server full of our work."""

from __future__ import annotations

import random

import pytest

from batchsched.executors.spare.governor import Goal, Traits
from benchmarks.spare.simulated import Shape
from benchmarks.spare.virtual import FixedCap, Governed, Seen, Sizes, simulate

ONLINE, OFFLINE, LONG = Sizes(40, 24), (Sizes(40, 60), Traits(45, 68)), (Sizes(100, 300), Traits(110, 340))
BURSTS, BURST_S, FIRST_S = 10, 4.0, 3.0


def bursts(calm_per_s: float, seed: int) -> tuple[list[tuple[float, int, int]], list[float], float]:
    """Arrivals, when each burst begins, and when all is over: sixty a second for four seconds after calm of a quarter of a
    minute or so."""
    rng, at_s, arrivals, starts = random.Random(seed), 0.0, [], []
    for number in range(BURSTS):
        starts.append(at_s + (rng.uniform(12, 22) if number else 40.0))
        for rate, until_s in ((calm_per_s, starts[-1]), (60.0, starts[-1] + BURST_S)):
            next_s, at_s = at_s, until_s
            while rate and (next_s := next_s + rng.expovariate(rate)) < until_s:
                arrivals.append((next_s, *ONLINE.draw(rng)))
    return arrivals, starts, at_s


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


@pytest.mark.slow
@pytest.mark.parametrize(("multiple", "lost"), [(3.0, 0.03), (1.5, 0.08)])
@pytest.mark.parametrize("calm_per_s", [0.0, 8.0])
@pytest.mark.parametrize("work", [OFFLINE, LONG], ids=["short", "long"])
def test_the_first_users_of_a_burst_meet_their_goal(
    work: tuple[Sizes, Traits], calm_per_s: float, multiple: float, lost: float
) -> None:
    """With nobody online before, the server is open to the ceiling: more than it can carry beside a burst."""
    arrivals, starts, end_s = bursts(calm_per_s, 0)
    alone = simulate(Shape(), arrivals, work[0], FixedCap(0), seconds=end_s)
    first_s, each_s = (multiple * p99([each[i] for each in alone.latencies]) for i in (0, 1))
    goal = Goal(first_s, each_s, share=0.99)

    def kept(seen: Seen) -> float:
        early = [asked for asked in seen.online if any(at <= asked.arrived_s < at + FIRST_S for at in starts)]
        well = [asked.first_s - asked.arrived_s <= goal.ttft_s and asked.tpot_s <= goal.tpot_s for asked in early]
        return sum(well) / len(well)

    ours = simulate(Shape(), arrivals, work[0], Governed(goal, 96, work[1]), seconds=end_s)
    full = simulate(Shape(), arrivals, work[0], FixedCap(96), seconds=end_s)
    assert kept(full) < 0.2  # it matters
    assert kept(ours) >= kept(alone) - lost
    assert ours.offline_tokens > 0.1 * full.offline_tokens
