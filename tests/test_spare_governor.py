"""The governor against the SIMULATED server: goals kept from cold, work done, bursts, blindness, restarts, long prompts."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from batchsched.executors.spare.governor import Budget, Goal, Governor, Traits
from batchsched.executors.spare.histogram import Histogram
from batchsched.executors.spare.pace import Pace
from batchsched.executors.spare.response import Step
from batchsched.executors.spare.window import Window
from benchmarks.spare.simulated import Server, Shape
from benchmarks.spare.virtual import FixedCap, Governed, Seen, Sizes, poisson, simulate

ONLINE, OFFLINE = Sizes(40, 24), Sizes(40, 60)
TRAITS = Traits(45, 68)
SECONDS = 90.0


def bursty(seconds: float, seed: int) -> list[tuple[float, int, int]]:
    """Twelve a second for a while, then sixty for a shorter one."""
    rng, at_s, found = random.Random(seed), 0.0, []
    while at_s < seconds:
        for rate, mean_s in ((12, 6), (60, 3)):
            until_s, next_s = at_s + rng.expovariate(1 / mean_s), at_s
            while (next_s := next_s + rng.expovariate(rate)) < min(until_s, seconds):
                found.append((next_s, *ONLINE.draw(rng)))
            at_s = until_s
    return found


def later(by_s: float, arrivals: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    return [(by_s + at_s, prompt, answer) for at_s, prompt, answer in arrivals]


def shares(seen: Seen, goal: Goal) -> float:
    kept = [first <= goal.ttft_s and each <= goal.tpot_s for first, each in seen.latencies]
    return sum(kept) / len(kept)


def p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))]


@pytest.mark.parametrize("multiple", [1.5, 3.0])
@pytest.mark.parametrize("load", ["steady", "bursty"])
def test_online_users_keep_their_goal_and_offline_work_gets_done(load: str, multiple: float) -> None:
    arrivals = poisson(25, SECONDS, ONLINE, 5) if load == "steady" else bursty(SECONDS, 5)
    run = {cap: simulate(Shape(), arrivals, OFFLINE, FixedCap(cap), seconds=SECONDS) for cap in (0, 2, 8, 64)}
    alone = run[0]
    first_s, each_s = (multiple * p99([each[i] for each in alone.latencies]) for i in (0, 1))
    goal = Goal(first_s, each_s, share=0.99)
    guard = Governed(goal, 256, TRAITS)
    ours = simulate(Shape(), arrivals, OFFLINE, guard, seconds=SECONDS)
    assert shares(ours, goal) >= shares(alone, goal) - 0.02
    assert shares(run[64], goal) < 0.7  # the load is such that it matters
    assert ours.offline_tokens_per_s > run[2].offline_tokens_per_s
    assert ours.wasted_tokens < 0.02 * ours.offline_tokens


class Texts(Sizes, frozen=True):
    """Of embeddings: nothing is written but the answer."""

    def draw(self, rng: random.Random) -> tuple[int, int]:
        return super().draw(rng)[0], 1


@pytest.mark.parametrize(("multiple", "a_second"), [(2.0, 60), (4.0, 60), (3.0, 120)])
def test_beside_users_of_embeddings_it_goes_by_how_long_their_requests_stay(multiple: float, a_second: float) -> None:
    """Such a server never decodes: there is no time for each token to learn from, and none is promised."""
    texts = Texts(100)
    arrivals = poisson(a_second, SECONDS, texts, 5)
    run = {cap: simulate(Shape(), arrivals, texts, FixedCap(cap), seconds=SECONDS) for cap in (0, 1, 64)}
    alone = run[0]
    goal = Goal(multiple * p99([first_s for first_s, _ in alone.latencies]), 0.05, share=0.99)
    guard = Governed(goal, 256, Traits(110, 1))
    ours = simulate(Shape(), arrivals, texts, guard, seconds=SECONDS)
    assert guard.governor.model.known
    assert shares(ours, goal) >= shares(alone, goal) - 0.02
    assert a_second > 60 or shares(run[64], goal) < 0.85  # it matters
    assert ours.offline_tokens > 1.5 * run[1].offline_tokens


def test_with_nobody_to_embed_for_it_opens_fully() -> None:
    texts = Texts(100)
    arrivals = [*poisson(60, 15, texts, 1), *later(30, poisson(60, 10, texts, 2))]
    guard = Governed(Goal(0.03, 0.05), 100, Traits(110, 1))
    simulate(Shape(), arrivals, texts, guard, seconds=40)
    assert max(cap for at_s, cap in guard.caps if 20 < at_s < 30) > 20
    assert max(cap for at_s, cap in guard.caps if at_s > 32) < 20


def test_a_server_that_tells_no_latency_gets_a_handful_beside_its_users() -> None:
    governor = Governor(Goal(0.1, 0.02), 64)
    for at in range(100):
        mute = window(at * 0.5, ours=governor.budget.in_flight)
        governor.see(msgspec.structs.replace(mute, step=None, first_token=Histogram()), TRAITS)
    assert 0 < governor.budget.in_flight <= 4


def test_a_server_that_writes_after_all_is_learnt_anew() -> None:
    governor = Governor(Goal(0.1, 0.02), 64)
    for at in range(40):
        seen = window(at * 0.5, ours=governor.budget.in_flight)
        governor.see(msgspec.structs.replace(seen, step=Step(0.03, 3.0, 0.0), only_reads=True), TRAITS)
    assert governor.model.known
    assert governor.budget.reading_share == 1.0
    governor.see(window(20.0, ours=0), TRAITS)
    assert (governor.model.known, governor.budget.reading_share) == (False, 0.25)
    assert governor.budget.in_flight <= 2


def test_a_burst_cuts_within_a_second() -> None:
    calm, burst_at = 8.0, 40.0
    arrivals = [*poisson(calm, burst_at, ONLINE, 1), *later(burst_at, poisson(120, 10, ONLINE, 2))]
    guard = Governed(Goal(0.06, 0.012), 256, TRAITS)
    simulate(Shape(), arrivals, OFFLINE, guard, seconds=burst_at + 10)
    before = [cap for at_s, cap in guard.caps if burst_at - 5 < at_s <= burst_at]
    after = [cap for at_s, cap in guard.caps if burst_at + 1 <= at_s < burst_at + 9]
    assert min(before) > 10
    assert max(after) < min(before) / 2


def test_with_nobody_online_it_opens_fully_and_closes_when_they_come_back() -> None:
    arrivals = [*poisson(25, 15, ONLINE, 1), *later(30, poisson(25, 10, ONLINE, 2))]
    guard = Governed(Goal(0.05, 0.008), 100, TRAITS)
    simulate(Shape(), arrivals, OFFLINE, guard, seconds=40)
    assert max(cap for at_s, cap in guard.caps if 20 < at_s < 30) == 100
    assert max(cap for at_s, cap in guard.caps if at_s > 32) < 30


def test_where_kv_space_is_short_it_is_left_to_online_users() -> None:
    shape = Shape(kv_tokens=3_000, max_seqs=256)
    guard = Governed(Goal(10.0, 1.0), 256, TRAITS)
    used: list[float] = []
    seen = simulate(
        shape,
        poisson(25, 60, ONLINE, 1),
        OFFLINE,
        guard,
        seconds=60,
        watch=lambda at_s, server: used.append(server.held_tokens / shape.kv_tokens if at_s > 20 else 0.0),
    )
    assert sum(share > 0.9 for share in used) < 0.1 * len(used)  # at readings, before what is let go then has left
    assert seen.offline_tokens_per_s > 200


def window(at_s: float, *, online: float = 5, arrived: float = 10, ours: float = 4, step_s: float = 0.004) -> Window:
    """An ordinary one."""
    first = Histogram((0.02, 0.04, 0.08), (arrived, arrived, arrived), arrived, 0.015 * arrived)
    return Window(
        at_s, 0.5, online, online, arrived, ours, online + ours, 0, 0, 0.1, Step(step_s, online + ours, 2.0), 1.0, first
    )


def warm(ceiling: int = 64) -> Governor:
    """A governor that has seen a calm minute."""
    governor = Governor(Goal(0.1, 0.02), ceiling)
    for at in range(120):
        governor.see(window(at * 0.5, ours=governor.budget.in_flight, step_s=0.003 + 0.0002 * governor.budget.in_flight), TRAITS)
    assert governor.budget.in_flight > 8
    return governor


def test_without_readings_it_shrinks_holds_a_floor_and_stops_after_ten_seconds() -> None:
    governor = warm()
    before = governor.budget.in_flight
    caps = [(tenth / 10, governor.blind(tenth / 10, 0.5).in_flight) for tenth in range(5, 120, 5)]
    assert all(cap == before for age_s, cap in caps if age_s <= 1.0)
    assert all(1 <= cap < before for age_s, cap in caps if 1.5 <= age_s <= 10)
    assert next(cap for age_s, cap in caps if age_s == 8) <= 2
    assert caps[-1] == (11.5, 0)
    assert governor.budget.keep == 0  # what is in flight goes as well
    governor.see(window(80.0, ours=0), TRAITS)
    assert 0 < governor.budget.in_flight <= 2  # and it begins small


def test_a_server_that_began_anew_is_met_with_one_request() -> None:
    governor = warm()
    assert governor.restarted().in_flight == 1


def test_the_ceiling_holds_with_nobody_online() -> None:
    governor = warm(ceiling=12)
    for at in range(120, 240):
        governor.see(window(at * 0.5, online=0, arrived=0, ours=12), TRAITS)
    assert governor.budget.in_flight == 12
    assert governor.budget.open


def test_short_prompts_keep_a_pace_and_long_ones_go_apart() -> None:
    budget, pace = Budget(in_flight=8, keep=8, prompt_token_s=1e-4, slack_s=0.02, harm_share=0.0025), Pace()
    assert pace.waits_s(budget, 8, 10, 0.0) == math.inf
    assert pace.waits_s(budget, 7, 100, 0.0) == 0
    pace.went(budget, 100, 0.0)  # 10 ms of reading: the next after four times that
    assert pace.waits_s(budget, 7, 100, 0.0) == pytest.approx(0.04)
    pace.went(budget, 1000, 1.0)  # 100 ms, far above the slack
    assert pace.waits_s(budget, 7, 100, 1.4) == 0
    assert pace.waits_s(budget, 7, 1000, 1.4) == pytest.approx(39.6)
    assert pace.waits_s(Budget(in_flight=8, open=True), 7, 1000, 1.4) == 0


def test_the_same_seeds_give_the_same_run() -> None:
    def once() -> tuple[int, list[tuple[float, int]]]:
        guard = Governed(Goal(0.05, 0.008), 64, TRAITS)
        return simulate(Shape(), poisson(25, 20, ONLINE, 1), OFFLINE, guard, seconds=20).offline_tokens, guard.caps

    assert once() == once()


def test_a_server_stays_the_same_however_it_is_watched() -> None:
    looks: list[Server] = []
    simulate(Shape(), [], OFFLINE, FixedCap(1), seconds=5, watch=lambda _, server: looks.append(server))
    assert len(looks) == 10
