"""What a batch that accepts several models is planned with on each of its pools: Algorithm 1 prunes."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from batchsched.outlook import Outlooks
from batchsched.profiles.candidates import Candidate, pruned
from batchsched.profiles.lengths import Lengths
from batchsched.profiles.profile import Profile
from tests.planner_cases import pool, slots

TOKENS = 1000.0


def way(model: str, seconds: float, power_w: float, *, startup_s: float = 60.0, sigma: float = 0.0, **more: object) -> Candidate:
    """A model on a pool, in so many seconds at so many watts."""
    speed = TOKENS / seconds
    profile = Profile(model, "a", speed, speed, power_w, 0.0, sigma, startup_s)
    return Candidate(**{"profile": profile, "lengths": Lengths(0.0, TOKENS, 0.0), **more})  # type: ignore[arg-type]


SLOW, FAST = way("slow", 300, 100), way("fast", 100, 400)


def kept(*ways: Candidate, within_s: float = 3600.0, confidence: float = 0.99) -> str:
    """The models that are left on the one pool."""
    return " ".join(one.model for one in pruned(ways, {"a": within_s}, confidence))


def test_what_may_miss_the_deadline_goes_where_another_keeps_it() -> None:
    assert kept(SLOW, FAST) == "slow fast"
    assert kept(SLOW, FAST, within_s=300.0) == "slow fast"
    assert kept(SLOW, FAST, within_s=299.0) == "fast"


def test_what_another_beats_in_every_respect_goes() -> None:
    assert kept(SLOW, FAST, way("worse", 301, 100)) == "slow fast"
    assert kept(way("small", 50, 100), SLOW, FAST) == "small"
    assert kept(SLOW, way("twin", 300, 100)) == "slow twin"


def test_what_it_does_not_suit_is_done_plainly() -> None:
    base, mixed = way("base", 300, 100), way("drafts", 100, 400)
    half = msgspec.structs.replace(mixed, plainly=(base.profile, 0.5), share=0.1)
    assert half.seconds == pytest.approx(20.0)
    assert half.power_w * half.seconds == pytest.approx(0.05 * (300 * 100 + 100 * 400))


def test_what_takes_more_than_its_own_pool_takes_nothing_out_that_does_not() -> None:
    """A replica without a partner serves plainly."""
    apart = way("apart", 50, 100, scarce=True)
    assert kept(apart, SLOW) == "apart slow"
    assert kept(apart, SLOW, FAST, within_s=299.0) == "apart fast"
    assert kept(apart, SLOW, within_s=100.0) == "apart slow"
    assert kept(way("apart", 400, 500, scarce=True), SLOW) == "slow"
    assert kept(apart, way("further apart", 60, 100, scarce=True)) == "apart"


def test_each_pool_is_looked_at_by_itself() -> None:
    elsewhere = [msgspec.structs.replace(one, profile=msgspec.structs.replace(one.profile, pool="b")) for one in (SLOW, FAST)]
    found = pruned([SLOW, FAST, *elsewhere], {"a": 200.0, "b": 400.0}, 0.99)
    assert [(one.pool, one.model) for one in found] == [("a", "fast"), ("b", "slow"), ("b", "fast")]


def test_the_batch_says_how_sure_it_must_be() -> None:
    unsure = way("slow", 300, 100, sigma=0.5)
    chance = unsure.attainment(500.0)
    assert 0.8 < chance < 0.95
    assert kept(unsure, FAST, within_s=500.0, confidence=chance - 0.01) == "slow fast"
    assert kept(unsure, FAST, within_s=500.0, confidence=chance + 0.01) == "fast"


@pytest.mark.parametrize(("profile_sigma", "own_sigma"), [(0.3, 0.0), (0.0, 0.3), (0.3, 0.4)])
def test_attainment_is_the_share_of_draws_that_are_in_time(profile_sigma: float, own_sigma: float) -> None:
    one = way("m", 300, 100, sigma=profile_sigma, lengths=Lengths(0.0, TOKENS, own_sigma), replicas=2, loaded=False)
    draw, spread = random.Random(1), math.hypot(profile_sigma, own_sigma)
    drawn = [60 + 300 * math.exp(draw.gauss(-(spread**2) / 2, spread)) / 2 for _ in range(20_000)]
    assert one.attainment(250.0) == pytest.approx(sum(t <= 250.0 for t in drawn) / len(drawn), abs=0.01)
    assert one.attainment(60.0) == one.attainment(-5.0) == 0.0


def test_replicas_share_the_work() -> None:
    assert kept(msgspec.structs.replace(SLOW, replicas=2), FAST, within_s=200.0) == "slow fast"


def test_where_none_keeps_the_deadline_the_one_that_may_is_kept() -> None:
    unsure, more_unsure = way("slow", 300, 100, sigma=0.3), way("fast", 200, 400, sigma=0.3)
    assert kept(unsure, more_unsure, within_s=200.0) == "fast"
    assert kept(way("slow", 210, 100, sigma=0.3), way("fast", 200, 400, sigma=0.001), within_s=190.0) == "slow"


def test_what_cannot_be_in_time_at_all_is_done_as_soon_as_can_be() -> None:
    assert kept(SLOW, FAST, within_s=90.0) == "fast"
    assert kept(SLOW, FAST, within_s=-10.0) == "fast"
    cold = way("fast", 100, 400, startup_s=300.0, loaded=False)
    assert kept(SLOW, cold, within_s=0.0) == "slow"


def test_a_start_counts_for_a_model_that_is_not_loaded() -> None:
    small = way("small", 50, 400, startup_s=300.0, loaded=False)
    assert kept(way("big", 100, 400), small) == "big small"
    assert kept(way("big", 100, 400), small, within_s=349.0) == "big"
    assert small.attainment(349.0) == 0.0
    assert small.attainment(350.0) == 1.0


def test_a_pool_has_the_time_until_the_deadline_in_which_it_is_open() -> None:
    by_night = pool("a", [100.0] * 4, replicas=2, capacity=[0.0, 2.0, 0.0, 1.0])
    outlooks = Outlooks(slots(4, 100.0), [by_night])
    found = {at: outlooks.until(at)["a"] for at in (-50.0, 50.0, 150.0, 400.0, 9000.0)}
    assert found == {-50.0: 0.0, 50.0: 0.0, 150.0: 50.0, 400.0: 150.0, 9000.0: 150.0}
