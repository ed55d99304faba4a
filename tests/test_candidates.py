"""Which model serves a batch on each of its pools: what is left out would have made no plan better."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.planner import Job, Problem, make_plan
from batchsched.profiles.candidates import Candidate, by_pool, needs, one_a_pool, unbeaten
from batchsched.profiles.choose import undominated
from batchsched.profiles.lengths import Lengths
from batchsched.profiles.profile import Profile
from tests.planner_cases import pool, slots

TOKENS = 1000.0
DEADLINE_S = 3600.0
TRACE = 1.001
"""Plans weigh waiting with a trace, which may decide between hours that are all but equally clean."""


def way(
    model: str, on: str, seconds: float, power_w: float, *, startup_s: float = 60.0, sigma: float = 0.0, **more: object
) -> Candidate:
    """A model on a pool, in so many seconds at so many watts."""
    speed = TOKENS / seconds
    profile = Profile(model, on, speed, speed, power_w, 0.0, sigma, startup_s)
    return Candidate(profile, f"site-{on}", Lengths(0.0, TOKENS, 0.0), **more)  # type: ignore[arg-type]


def names(ways: Iterable[Candidate]) -> list[tuple[str, str]]:
    return [(one.model, one.pool) for one in ways]


def kept(ways: Sequence[Candidate]) -> list[Candidate]:
    """What nothing beats."""
    return [one for some in by_pool(ways).values() for one in unbeaten(some)]


def test_pools_can_be_looked_at_one_by_one() -> None:
    ways = [way("big", "new", 100, 500), way("small", "new", 20, 400), way("small", "old", 200, 60), way("big", "old", 900, 65)]
    together = undominated({str(i): needs(one) for i, one in enumerate(ways)})
    assert names(kept(ways)) == names(ways[int(i)] for i in together) == [("small", "new"), ("small", "old")]


def test_a_model_that_takes_more_of_everything_is_left_out_of_its_own_pool_alone() -> None:
    ways = [way("big", "new", 100, 500), way("small", "new", 20, 400), way("small", "old", 200, 60)]
    assert names(kept(ways)) == [("small", "new"), ("small", "old")]


def test_fewer_joules_do_not_beat_fewer_seconds() -> None:
    ways = [way("slow", "a", 300, 100), way("fast", "a", 100, 400)]
    assert names(kept(ways)) == [("slow", "a"), ("fast", "a")]
    assert names(one_a_pool(ways, DEADLINE_S).values()) == [("slow", "a")]
    assert names(one_a_pool(ways, 200.0).values()) == [("fast", "a")]


def test_a_start_counts_for_a_model_that_is_not_loaded() -> None:
    big, small = way("big", "a", 100, 400), way("small", "a", 50, 400, startup_s=300.0, loaded=False)
    assert names(kept([big, small])) == [("big", "a"), ("small", "a")]
    assert names(one_a_pool([big, small], 9000.0).values()) == [("big", "a")]
    much_work = [way("big", "a", 3000, 400), way("small", "a", 1500, 400, startup_s=300.0, loaded=False)]
    assert names(one_a_pool(much_work, 9000.0).values()) == [("small", "a")]


def test_a_start_that_another_batch_may_pay_beats_nothing_and_is_beaten_only_by_what_is_loaded() -> None:
    cold = [way(name, "a", seconds, 400, loaded=False, asked=2) for name, seconds in (("big", 100.0), ("small", 50.0))]
    assert names(kept(cold)) == [("big", "a"), ("small", "a")]
    assert names(kept([cold[0], way("small", "a", 50, 400)])) == [("small", "a")]


def test_batches_that_accept_a_model_share_its_start() -> None:
    big = way("big", "a", 100, 400)
    alone, one_of_many = (way("small", "a", 50, 400, startup_s=300.0, loaded=False, asked=asked) for asked in (5, 10))
    assert names(one_a_pool([big, alone], 9000.0).values()) == [("big", "a")]
    assert names(one_a_pool([big, one_of_many], 9000.0).values()) == [("small", "a")]


def test_what_cannot_be_in_time_anywhere_is_done_as_soon_as_can_be() -> None:
    ways = [way("slow", "a", 300, 100), way("fast", "a", 200, 400)]
    assert names(one_a_pool(ways, 100.0).values()) == [("fast", "a")]
    unsure = [way("slow", "a", 90, 100, sigma=0.5), way("fast", "a", 80, 400)]
    assert names(one_a_pool(unsure, 100.0).values()) == [("fast", "a")]


def planned(name: str, chosen: Mapping[str, Candidate], deadline_s: float) -> Job:
    """The job with these models on its pools."""
    return Job(
        name,
        "big",
        100,
        {on: one.seconds for on, one in chosen.items()},
        {on: one.power_w for on, one in chosen.items()},
        {on: one.profile.startup_s for on, one in chosen.items()},
        deadline_s,
        sigma=max(one.sigma for one in chosen.values()),
        model_on={on: one.model for on, one in chosen.items()},
    )


def choices(ways: Sequence[Candidate]) -> list[dict[str, Candidate]]:
    """Every way to take one model on each pool."""
    pools = sorted({one.pool for one in ways})
    return [dict(zip(pools, some, strict=True)) for some in itertools.product(*([w for w in ways if w.pool == p] for p in pools))]


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Problem, list[Candidate]]:
    """Two pools that serve two or three models, one of them loaded or none. There is time for each of them, on one pool alone."""
    states, ways = [], []
    for on in ("a", "b"):
        models = ["big", "small", "tiny"][: draw(st.integers(2, 3))]
        loaded = draw(st.sampled_from(["", *models]))
        grid = draw(st.lists(st.integers(10, 500), min_size=4, max_size=4))
        states.append(pool(on, [float(g) for g in grid], loaded=[loaded] if loaded else []))
        sigma = draw(st.sampled_from([0.0, 0.3]))
        for model in models:
            seconds, watts = draw(st.integers(20, 500)), draw(st.sampled_from([100, 200, 400]))
            start_s = draw(st.sampled_from([30, 200]))
            ways.append(way(model, on, seconds, watts, startup_s=start_s, sigma=sigma, loaded=model == loaded))
    return Problem(slots(4), states, []), ways


def grams(empty: Problem, job: Job) -> float:
    """What the plan of one job is expected to emit: exact, for nothing else is in its way."""
    plan = make_plan(Problem(empty.slots, empty.pools, [job]), "greedy")
    found = plan.grams_expected[job.batch_id]
    assert found is not None
    assert not plan.late
    return found


@settings(max_examples=40, deadline=None)
@given(fleets(), st.sampled_from([2000.0, DEADLINE_S]))
def test_the_cleanest_plan_is_among_what_is_left(fleet: tuple[Problem, list[Candidate]], deadline_s: float) -> None:
    empty, ways = fleet
    found = {
        among: [grams(empty, planned("j", one, deadline_s)) for one in choices(of)]
        for among, of in (("all", ways), ("kept", kept(ways)))
    }
    assert len(found["kept"]) <= len(found["all"])
    assert min(found["kept"]) <= min(found["all"]) * TRACE
