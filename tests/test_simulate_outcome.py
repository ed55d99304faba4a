"""What is told of a simulation: grams by cause, tails, what was used; and how batches are cut into chunks."""

from __future__ import annotations

import math

import msgspec
import pytest

from batchsched.cli.simulate_table import used
from batchsched.simulate import Conditions, Outcome
from batchsched.simulate.outcome import CAUSES, Work
from batchsched.simulate.records import Completion
from batchsched.simulate.truth import Truth
from tests.test_simulate import scene

WORK = [
    Work(0.0, "H100-CISO", "a", 3600.0, 900.0, 1.0, 80.0),  # a quarter of it starting
    Work(0.0, "H100-CISO", "a", 0.0, 0.0, 1.0, 3.0, files=True),
    Work(0.0, "H100-CISO", "", 7200.0, 0.0, 1.0, 5.0),
    Work(0.0, "H100-CISO", "", 600.0, 600.0, 1.0, 2.0),
]


def test_grams_have_a_cause_and_add_up() -> None:
    one = Outcome("mine", 1, work=WORK)
    assert one.grams_by_cause() == {"work": 60.0, "starts": 20.0, "idle": 5.0, "wasted": 2.0, "files": 3.0}
    assert tuple(one.grams_by_cause()) == CAUSES
    assert math.fsum(one.grams_by_cause().values()) == pytest.approx(one.grams)
    assert one.summary()["files_g"] == 3.0
    assert sum(Outcome("nothing").grams_by_cause().values()) == 0.0


def test_tails_are_told_beside_means() -> None:
    one = Outcome("mine", 20)
    for n in range(1, 21):
        one.done(f"b{n}", n * 3600.0, 1800.0 if n == 20 else 600.0 if n == 19 else -60.0)
    told = one.summary()
    assert (told["wait_h"], told["wait_p95_h"]) == (10.5, 19.0)
    assert (told["missed"], told["late_h"], told["latest_h"]) == (2, 0.33, 0.5)
    assert Outcome("nothing").waited_at_s(0.95) == 0.0


def test_what_was_used_is_hours_of_gpus_and_money_where_all_has_a_price() -> None:
    fleet = scene().fleet
    one = Outcome("mine", 1, work=WORK)
    hours, pool = 3600 / 3600 + 7200 / 3600 + 600 / 3600, fleet.pools["H100-CISO"]
    told = used(fleet, one)
    assert told["gpu_h"] == pytest.approx(hours * fleet.replica_gpus["H100-CISO"], abs=1e-5)
    assert told["money"] == pytest.approx(hours * pool.price_per_h, abs=1e-5)
    free = {**fleet.pools, "H100-CISO": msgspec.structs.replace(pool, price_per_h=0.0)}
    assert used(msgspec.structs.replace(fleet, pools=free), one)["money"] is None


def test_a_chunk_takes_a_part_of_its_batchs_window_at_most() -> None:
    here, usual = scene(), Conditions()
    truth, coarse = Truth(here, usual), Truth(here, msgspec.structs.replace(usual, chunk_share=math.inf))
    finer = 0
    for one in here.arrivals:
        lines = truth.lines(one)
        slowest_s = max(truth.usual_s(msgspec.structs.replace(one, slowness=1.0), pool, lines) for pool in one.pools)
        chunk_s = slowest_s * usual.chunk_lines / math.exp(3 * usual.sigma_own)  # what is off on a pool is not known beforehand
        assert chunk_s <= usual.chunk_share * (one.deadline_s - one.at_s) * 1.01
        assert lines.number * lines.grain == pytest.approx(one.requests)
        assert lines.number >= coarse.lines(one).number
        finer += lines.number > coarse.lines(one).number
    assert 0 < finer < len(here.arrivals)


@pytest.mark.parametrize(("times", "stops", "excused"), [(1.1, 0, False), (1.3, 0, True), (1.1, 1, True), (None, 0, False)])
def test_who_is_late_for_what_was_left_room_for_is_not_excused(times: float | None, stops: int, excused: bool) -> None:
    late = Completion("b", "m", 1, 0.0, 10.0, 11.0, True, 0.99, None, 1.0, times, None if times is None else 1.2, stops)
    assert late.excused is excused
