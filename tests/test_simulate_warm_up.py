"""The work before the start of a backtest, from which lengths of answers are known: it is over when the start comes."""

from __future__ import annotations

import msgspec

from batchsched.simulate import Conditions
from batchsched.simulate.backtests import warm_up
from batchsched.simulate.truth import Truth
from tests.test_simulate import scene


def test_it_fits_into_its_time() -> None:
    """Also where a fleet is much slower than its profiles say."""
    usual, drawn = Conditions(), scene()
    slow = msgspec.structs.replace(drawn, arrivals=[msgspec.structs.replace(one, slowness=50.0) for one in drawn.arrivals])
    room_s = usual.warm_up_h * 3600 * sum(pool.count for pool in drawn.fleet.pools.values())
    sizes: list[int] = []
    for each in (drawn, slow):
        truth = Truth(each, usual)
        found = warm_up(each, usual, truth)
        line_s = usual.chunk_s / usual.chunk_lines
        assert sum(one.requests / truth.grain(one.model) * line_s * one.slowness for one in found) < room_s
        sizes.append(sum(one.requests for one in found))
    assert 0 < sizes[1] < sizes[0]


def test_there_may_be_none() -> None:
    cold = Conditions(warm_up_h=0.0)
    assert warm_up(scene(), cold, Truth(scene(), cold)) == []
