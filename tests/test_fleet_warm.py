"""Planning again from what stands: the linear program resumes where it ended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from batchsched.planner.fleet_model import FleetModel
from batchsched.planner.fleet_relax import relax
from benchmarks.planner.events import events
from benchmarks.planner.generate import Size, generate

FLEET = generate(Size(200, 8, 48, 100), 3)


def steps(model: FleetModel, before: FleetModel | None = None) -> tuple[float, int]:
    """Bound and simplex steps, from nothing or from where the program of another fleet ended."""
    found = relax(model, relax(before).lp.basis() if before else None)
    return found.bound_g, found.lp.lp.iterations


def test_a_new_batch_takes_a_few_simplex_steps() -> None:
    model = events(FLEET, 0)["new batch"]
    bound, cold = steps(model)
    again, warm = steps(model, FLEET.model)
    assert again == pytest.approx(bound, rel=2e-4)
    assert warm < cold / 10


@pytest.mark.parametrize("event", ["changed forecast", "lost pool"])
def test_any_basis_leads_to_the_same_bound(event: str) -> None:
    model = events(FLEET, 1)[event]
    assert steps(model, FLEET.model)[0] == pytest.approx(steps(model)[0], rel=2e-4)


def test_a_basis_that_says_nothing_does_no_harm() -> None:
    basis = relax(FLEET.model).lp.basis()
    nonsense = replace(basis, gpus=np.full_like(basis.gpus, 5), done=np.full_like(basis.done, 5))
    assert relax(FLEET.model, nonsense).bound_g == pytest.approx(steps(FLEET.model)[0], rel=2e-4)
