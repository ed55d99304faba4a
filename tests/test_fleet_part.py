"""Part of a fleet's plan as a program of its own: what stands is an answer, and what is found is a plan."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from batchsched.planner.fleet import plans
from batchsched.planner.fleet_cpsat import choose
from batchsched.planner.fleet_part import part
from batchsched.planner.fleet_verify import fleet_violations
from batchsched.planner.linear import Limit
from batchsched.planner.search import Search
from benchmarks.planner.generate import Size, generate

from .brute_force import tiny_fleet


@pytest.fixture(scope="module")
def search() -> Search:
    """Of a small fleet, from nothing: work goes where it costs least, one batch after another."""
    model = generate(Size(40, 6, 24, 40), 3).model
    found = Search(model)
    found.load(np.zeros(model.run_g.shape))
    return found


def test_what_stands_is_an_answer_and_costs_what_the_plan_does(search: Search) -> None:
    whole = part(search.model, *search.pieces(), np.ones(search.model.load_g.shape, bool))
    used = np.bincount(whole.row, whole.value * whole.now[whole.column], minlength=whole.most.size)
    assert (used <= whole.most + 1e-6).all()
    late_g = float(search.model.lost_g @ search.plan().late)
    assert whole.now_g == pytest.approx(search.cost_g - late_g)


def test_work_placed_anew_on_the_same_replicas_is_a_plan_that_costs_no_more(search: Search) -> None:
    model, before_g = search.model, search.cost_g
    asked = part(model, *search.pieces(), np.ones(model.load_g.shape, bool))
    grams, x = asked.work_g(asked.now[asked.works :], Limit())
    assert grams < asked.now_g
    search.offer(*asked.plan(x))
    assert search.cost_g <= before_g - (asked.now_g - grams) * 0.99
    assert fleet_violations(model, search.plan()) == []


@pytest.mark.parametrize("seed", [0, 3, 5, 8])
def test_cp_sat_on_a_whole_tiny_fleet_finds_nothing_below_the_bound_and_little_below_the_plan(seed: int) -> None:
    model = tiny_fleet(seed)
    *_, step = itertools.islice(plans(model), 8)
    search = Search(model)
    search.load(np.zeros(model.run_g.shape))
    asked = part(model, *search.pieces(), np.ones(model.load_g.shape, bool))
    whole, proven = choose(asked, 1.0, 0)
    assert whole is not None
    assert proven
    grams, x = asked.work_g(whole, Limit())
    if grams < asked.now_g:
        search.offer(*asked.plan(x))
    assert fleet_violations(model, search.plan()) == []
    assert search.cost_g >= step.bound_g * (1 - 1e-6)
    assert step.plan is not None
    assert step.plan.cost_g <= search.cost_g * 1.01 + 0.01
