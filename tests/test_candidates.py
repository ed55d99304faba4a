"""Which model serves a batch on each of its pools: Algorithm 1 over candidates whose winners are known."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from batchsched.outlook import Outlooks
from batchsched.profiles.candidates import Candidate, Outlook, one_a_pool
from batchsched.profiles.lengths import Lengths
from batchsched.profiles.profile import Profile
from tests.planner_cases import pool, slots

TOKENS = 1000.0
G_PER_KWH = 24.0
"""20 g/kWh at a PUE of 1.2."""
SLOT_G_PER_S = 0.0019
"""Of an H100 with its share of a server, over its life."""


def way(model: str, seconds: float, power_w: float, *, startup_s: float = 60.0, sigma: float = 0.0, **more: object) -> Candidate:
    """A model on a pool, in so many seconds at so many watts."""
    speed = TOKENS / seconds
    profile = Profile(model, "a", speed, speed, power_w, 0.0, sigma, startup_s)
    return Candidate(**{"profile": profile, "lengths": Lengths(0.0, TOKENS, 0.0), **more})  # type: ignore[arg-type]


SLOW, FAST = way("slow", 300, 100), way("fast", 100, 400)


def taken(*ways: Candidate, within_s: float = 3600.0, embodied: float = 0.0, confidence: float = 0.99) -> str:
    """The model chosen on the one pool."""
    (found,) = one_a_pool(ways, {"a": Outlook(within_s, G_PER_KWH, embodied)}, confidence).values()
    return found.model


def test_a_tight_deadline_takes_the_fast_model_and_a_loose_one_the_clean_one() -> None:
    assert taken(SLOW, FAST) == "slow"
    assert taken(SLOW, FAST, within_s=300.0) == "slow"
    assert taken(SLOW, FAST, within_s=299.0) == "fast"


def test_manufacturing_counts_where_plans_weigh_it() -> None:
    """0.20 + 0.57 g against 0.27 + 0.19 g."""
    assert taken(SLOW, FAST, embodied=SLOT_G_PER_S) == "fast"
    assert taken(SLOW, FAST, embodied=SLOT_G_PER_S / 10) == "slow"


def test_each_pool_has_a_choice_of_its_own() -> None:
    elsewhere = [msgspec.structs.replace(one, profile=msgspec.structs.replace(one.profile, pool="b")) for one in (SLOW, FAST)]
    outlook = {"a": Outlook(200.0, G_PER_KWH, 0.0), "b": Outlook(400.0, G_PER_KWH, 0.0)}
    assert {on: one.model for on, one in one_a_pool([SLOW, FAST, *elsewhere], outlook, 0.99).items()} == {
        "a": "fast",
        "b": "slow",
    }


def test_the_batch_says_how_sure_it_must_be() -> None:
    unsure = way("slow", 300, 100, sigma=0.5)
    chance = unsure.attainment(500.0)
    assert 0.8 < chance < 0.95
    assert taken(unsure, FAST, within_s=500.0, confidence=chance - 0.01) == "slow"
    assert taken(unsure, FAST, within_s=500.0, confidence=chance + 0.01) == "fast"


@pytest.mark.parametrize(("profile_sigma", "own_sigma"), [(0.3, 0.0), (0.0, 0.3), (0.3, 0.4)])
def test_attainment_is_the_share_of_draws_that_are_in_time(profile_sigma: float, own_sigma: float) -> None:
    one = way("m", 300, 100, sigma=profile_sigma, lengths=Lengths(0.0, TOKENS, own_sigma), replicas=2, loaded=False)
    draw, spread = random.Random(1), math.hypot(profile_sigma, own_sigma)
    drawn = [60 + 300 * math.exp(draw.gauss(-(spread**2) / 2, spread)) / 2 for _ in range(20_000)]
    assert one.attainment(250.0) == pytest.approx(sum(t <= 250.0 for t in drawn) / len(drawn), abs=0.01)
    assert one.attainment(60.0) == one.attainment(-5.0) == 0.0


def test_replicas_share_the_work() -> None:
    assert taken(msgspec.structs.replace(SLOW, replicas=2), FAST, within_s=200.0) == "slow"


def test_where_none_keeps_the_deadline_the_one_that_may_is_taken() -> None:
    unsure, more_unsure = way("slow", 300, 100, sigma=0.3), way("fast", 200, 400, sigma=0.3)
    assert taken(unsure, more_unsure, within_s=200.0) == "fast"
    assert taken(way("slow", 210, 100, sigma=0.3), way("fast", 200, 400, sigma=0.001), within_s=190.0) == "slow"


def test_what_cannot_be_in_time_at_all_is_done_as_soon_as_can_be() -> None:
    assert taken(SLOW, FAST, within_s=90.0) == "fast"
    assert taken(SLOW, FAST, within_s=-10.0) == "fast"
    cold = way("fast", 100, 400, startup_s=300.0, loaded=False)
    assert taken(SLOW, cold, within_s=0.0) == "slow"


def test_a_start_counts_for_a_model_that_is_not_loaded() -> None:
    small = way("small", 50, 400, startup_s=300.0, loaded=False)
    assert taken(way("big", 100, 400), small) == "big"
    assert taken(way("big", 3000, 400), way("small", 1500, 400, startup_s=300.0, loaded=False)) == "small"
    assert small.attainment(349.0) == 0.0
    assert small.attainment(350.0) == 1.0


def test_batches_that_accept_a_model_share_its_start_with_its_manufacturing() -> None:
    big = way("big", 100, 400)
    alone, one_of_many = (way("small", 50, 400, startup_s=300.0, loaded=False, asked=asked) for asked in (5, 10))
    assert taken(big, alone) == "big"
    assert taken(big, one_of_many) == "small"
    warm, cold = way("warm", 100, 120), way("cold", 50, 100, startup_s=60.0, loaded=False)
    assert taken(warm, cold) == "cold"
    assert taken(warm, cold, embodied=1.0) == "warm"


def test_an_outlook_is_of_the_time_until_the_deadline_in_which_the_pool_is_open() -> None:
    by_night = pool("a", [100.0, 200.0, 300.0, 400.0], replicas=2, capacity=[0.0, 2.0, 0.0, 1.0], pue=1.5)
    outlooks = Outlooks(slots(4, 100.0), [by_night])
    assert outlooks.until(150.0)["a"] == Outlook(50.0, 300.0, 0.0)
    assert outlooks.until(400.0)["a"].g_per_kwh == pytest.approx(1.5 * (100 * 200 + 50 * 400) / 150)
    assert outlooks.until(400.0)["a"].open_s == 150.0
    assert outlooks.until(9000.0) == outlooks.until(400.0)
    assert outlooks.until(50.0)["a"] == outlooks.until(-50.0)["a"] == Outlook(0.0, 150.0, 0.0)


def test_an_unknown_grid_costs_more_than_any_that_is_known() -> None:
    pools = [
        pool("a", [None, 100.0]),
        pool("b", [50.0, 200.0], embodied_g_per_s=0.1),
        pool("c", [0.0] * 2, embodied_g_per_s=None),
    ]
    found = Outlooks(slots(2, 100.0), pools).until(200.0)
    assert found["a"].g_per_kwh == pytest.approx((300 + 100) / 2)
    assert found["b"] == Outlook(200.0, 125.0, 0.1)
    assert found["c"].embodied_g_per_s == pytest.approx(0.15)
