"""The work before the start of a backtest, from which lengths of answers are known: it is over when the start comes."""

from __future__ import annotations

import msgspec
import pytest

from batchsched.simulate import Conditions, Scene
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


def test_it_tells_nothing_of_what_is_to_come() -> None:
    """Neither how long the answers of the scene's batches are, nor that all work takes longer since."""
    drawn, usual = scene(), Conditions()

    def before(given: Scene) -> list[tuple[float, float]]:
        return [(one.output_tokens, one.slowness) for one in warm_up(given, usual, Truth(given, usual))]

    longer = [msgspec.structs.replace(one, output_tokens=7 * one.output_tokens) for one in drawn.arrivals]
    slower = [msgspec.structs.replace(one, slowness=1.5 * one.slowness) for one in drawn.arrivals]
    known = before(drawn)
    assert len({answered for answered, _ in known}) > 1
    assert before(msgspec.structs.replace(drawn, arrivals=longer)) == known
    since = before(msgspec.structs.replace(drawn, arrivals=slower, slower_since=1.5))
    assert [answered for answered, _ in since] == [answered for answered, _ in known]
    assert [slowness for _, slowness in since] == pytest.approx([slowness for _, slowness in known])
