"""The ceiling: what nobody can emit less than; worked by hand, held against small plans, and noticed where a simulation breaks
it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from batchsched.fleet import Fleet, Pool, Site
from batchsched.planner.fleet_model import Floats
from batchsched.simulate import POLICIES, Grid, backtests, draw_scene, simulate
from batchsched.simulate.backtests import Backtest
from batchsched.simulate.ceiling import Impossible, Task, check, least_g, tasks
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.outcome import Outcome, Work
from batchsched.simulate.paid import paid
from batchsched.simulate.rolling import hours_of
from tests.test_backtest import COARSE
from tests.test_backtest import grid as a_grid
from tests.test_backtest import scene as a_scene

START = datetime(2021, 7, 1, tzinfo=UTC)
ONE = Fleet({"s": Site("z", pue=1.0)}, {"p": Pool(site="s", gpu="T4", count=1)}, {}, "s")


def task(from_h: float, until_h: float, work_h: float, width: int = 1, kw: float = 1.0) -> Task:
    """An hour of its work at 1 kW emits as many grams as the hour's intensity."""
    return Task(from_h * 3600, until_h * 3600, width, {"p": work_h * 3600}, {"p": kw * 1000})


def truth(*values: float) -> dict[str, Floats]:
    """By hour."""
    return {"z": np.array(values)}


def test_the_cleanest_hours_of_its_time() -> None:
    assert least_g([task(0, 4, 2)], ONE, truth(5, 1, 4, 2)) == pytest.approx(1 + 2)
    assert least_g([task(2, 4, 2)], ONE, truth(5, 1, 4, 2)) == pytest.approx(4 + 2)
    assert least_g([task(0.5, 1.5, 0.75)], ONE, truth(5, 1)) == pytest.approx(0.5 * 1 + 0.25 * 5)


def test_as_wide_as_it_may_be_and_as_the_pool_is() -> None:
    two = msgspec.structs.replace(ONE, pools={"p": Pool(site="s", gpu="T4", count=2)})
    assert least_g([task(0, 3, 2, width=2)], two, truth(5, 1, 4)) == pytest.approx(1 + 1)
    assert least_g([task(0, 3, 2, width=2)], ONE, truth(5, 1, 4)) == pytest.approx(1 + 4)


def test_batches_take_room_from_one_another() -> None:
    both = [task(0, 3, 1, kw=2.0), task(0, 3, 1)]
    assert least_g(both, ONE, truth(5, 1, 4)) == pytest.approx(2 * 1 + 4)
    assert least_g(both, ONE, truth(5, 1, 4), shared=False) == pytest.approx(2 * 1 + 1)


def test_the_better_of_two_places() -> None:
    """All of it at p is 5 g; half of it fits into the first hour at q, where all would be 2 g."""
    fleet = Fleet(
        {"s": Site("z", pue=1.0), "t": Site("y", pue=2.0)},
        {"p": Pool(site="s", gpu="T4", count=1), "q": Pool(site="t", gpu="T4", count=1)},
        {},
        "s",
    )
    either = Task(0, 2 * 3600, 1, {"p": 3600.0, "q": 7200.0}, {"p": 1000.0, "q": 500.0})
    assert least_g([either], fleet, {"z": np.array([5.0, 5.0]), "y": np.array([1.0, 3.0])}) == pytest.approx(0.5 * (2 + 5))


@pytest.mark.parametrize("seed", [1, 2])
def test_no_policy_is_below_it_and_foresight_is_near(seed: int) -> None:
    scene = draw_scene(("CISO", "DE"), 1, seed)
    grid = Grid(Drawn(START, hours_of(scene), seed), ("CISO", "DE"), START, hours_of(scene))
    for name in ("run now", "EDF, cheapest slot", "greedy, perfect foresight"):
        check(simulate(scene, grid, POLICIES[name]), scene, grid, shared=True)
    best = simulate(scene, grid, POLICIES["greedy, perfect foresight"])
    whole = tasks(scene, set(best.missed), grid.hours * 3600.0)
    shared, alone = least_g(whole, scene.fleet, grid.truth), least_g(whole, scene.fleet, grid.truth, shared=False)
    assert 0.5 * best.grams < alone <= shared * (1 + 1e-6) <= best.grams


def test_a_saving_that_cannot_be_is_noticed() -> None:
    scene = draw_scene(("CISO", "DE"), 1, 1)
    grid = Grid(Drawn(START, hours_of(scene), 1), ("CISO", "DE"), START, hours_of(scene))
    least = least_g(tasks(scene, (), grid.hours * 3600.0), scene.fleet, grid.truth, shared=False)
    honest = Outcome("honest", len(scene.arrivals), work=[Work(0.0, "p", "b", 1.0, 0.0, 1.0, least)])
    check(honest, scene, grid)
    with pytest.raises(AssertionError, match=r"'too good' emitted .* the simulation has a fault"):
        check(
            msgspec.structs.replace(honest, policy="too good", work=[Work(0.0, "p", "b", 1.0, 0.0, 1.0, 0.99 * least)]),
            scene,
            grid,
        )
    undone = [arrival.batch_id for arrival in scene.arrivals]
    check(msgspec.structs.replace(honest, work=[], unfinished=undone), scene, grid)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["run now", "greedy, perfect foresight"])
def test_a_whole_server_is_held_against_what_its_work_took(policy: str, tmp_path: Path) -> None:
    """By the speeds, watts and lengths that were drawn: with those that were expected the bound would be another."""
    made = Backtest(a_scene(), a_grid(), POLICIES[policy], COARSE, tmp_path)
    try:
        outcome = made.run()
        done = made.tasks(outcome)
    finally:
        made.close()
    assert len(done) == len(a_scene().arrivals)
    expected = tasks(a_scene(), (), a_grid().hours * 3600.0)
    assert [one.seconds_on for one in done] != [one.seconds_on for one in expected]
    for real, thought in zip(done, expected, strict=True):
        assert real.seconds_on == pytest.approx(thought.seconds_on, rel=0.5)
    least = least_g(done, a_scene().fleet, a_grid().truth)
    assert 0.2 * outcome.grams < least <= outcome.grams


@pytest.mark.slow
def test_a_whole_server_that_emits_too_little_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cheated(*args: Any) -> list[Work]:
        return [msgspec.structs.replace(work, grams=0.2 * work.grams) for work in paid(*args)]

    monkeypatch.setattr(backtests, "paid", cheated)
    made = Backtest(a_scene(), a_grid(), POLICIES["greedy, perfect foresight"], COARSE, tmp_path)
    try:
        with pytest.raises(Impossible, match="the simulation has a fault"):
            made.run()
    finally:
        made.close()
