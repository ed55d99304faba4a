"""Manufacturing carbon: published figures, the recipe that reproduces them, and charges that add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.carbon.embodied import Policy, charge_g, crossover_g_per_kwh, first_life_g
from batchsched.carbon.operational import operational_g
from batchsched.carbon.recipe import embodied_kg

POLICIES: list[Policy] = ["sunk", "whole_life", "remaining", "cut_off"]
YEAR_S = 8760 * 3600.0


@pytest.mark.parametrize(
    ("die_mm2", "node_nm", "memory_gb", "packages", "kg"),
    [(815, 12, 32, 26, 19.949), (826, 7, 40, 26, 26.357), (545, 12, 16, 0, 10.381), (826, 7, 80, 26, 28.957)],
    ids=["V100 32 GB", "A100 40 GB", "T4 without packages", "A100 80 GB"],
)
def test_recipe_reproduces_published_figures(die_mm2: float, node_nm: int, memory_gb: float, packages: int, kg: float) -> None:
    assert embodied_kg(die_mm2, node_nm, memory_gb, packages) == pytest.approx(kg, abs=0.001)


def test_sci_example() -> None:
    """A server of 1000 kg over 4 years, one hour of it."""
    assert charge_g(1000, 3600, 4, "whole_life") == pytest.approx(28.5, abs=0.05)


@pytest.mark.parametrize(("kg", "crossover"), [(26, 2.0), (181, 13.8), (275, 20.9)])
def test_crossover_of_an_a100_at_300_w(kg: float, crossover: float) -> None:
    assert crossover_g_per_kwh(kg, 5, 300) == pytest.approx(crossover, abs=0.05)
    year_g = operational_g(300 * 5 * YEAR_S, 1.2, crossover_g_per_kwh(kg, 5, 300, pue=1.2))
    assert year_g == pytest.approx(kg * 1000)


def test_pue_is_on_operational_carbon() -> None:
    assert operational_g(3_600_000, 1.2, 300) == pytest.approx(360)


spans = st.lists(st.floats(0.01, 1), min_size=1, max_size=12)


@given(policy=st.sampled_from(POLICIES), kg=st.floats(1, 1000), life=st.floats(1, 10), parts=spans)
def test_charges_of_one_life_add_up(policy: Policy, kg: float, life: float, parts: list[float]) -> None:
    """Busy and idle spans that fill the life, in order: the total, no more and no less; nothing afterwards."""
    charged = age = 0.0
    for part in parts:
        years = part / sum(parts) * life
        charged += charge_g(kg, years * YEAR_S, life, policy, age_years=age)
        age += years
    assert charged == pytest.approx(kg * 1000)
    assert charge_g(kg, YEAR_S, life, policy, age_years=life) == pytest.approx(0, abs=1e-6)
    assert charge_g(kg, (life + 3) * YEAR_S, life, policy) == pytest.approx(kg * 1000)


@given(
    policy=st.sampled_from(POLICIES),
    kg=st.floats(1, 1000),
    life=st.floats(1, 10),
    handed=st.floats(0.1, 15),
    second=st.floats(0.5, 10),
    parts=spans,
)
def test_charges_of_two_lives_add_up(
    policy: Policy, kg: float, life: float, handed: float, second: float, parts: list[float]
) -> None:
    reused = [
        charge_g(kg, part / sum(parts) * second * YEAR_S, life, policy, age_years=handed, second_life_years=second)
        for part in parts
    ]
    assert sum(reused) + first_life_g(kg, life, policy, handed, second) == pytest.approx(kg * 1000)
    assert all(charge >= 0 for charge in reused)


def test_policies_differ_for_a_reused_device() -> None:
    charges = {policy: charge_g(100, YEAR_S, 5, policy, age_years=3, second_life_years=4) for policy in POLICIES}
    assert charges == pytest.approx({"sunk": 1e5 / 7, "whole_life": 1e5 / 7, "remaining": 1e5 * 0.4 / 4, "cut_off": 0})
    assert charge_g(100, YEAR_S, 5, "remaining", age_years=6, second_life_years=4) == 0
