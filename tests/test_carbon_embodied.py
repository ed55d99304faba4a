"""Manufacturing carbon: published figures, the recipe that reproduces them, and charges that add up."""

from __future__ import annotations

from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.carbon.embodied import NEW, Held, Policy, charge_g, crossover_g_per_kwh, first_life_g
from batchsched.carbon.models import Hardware
from batchsched.carbon.operational import operational_g
from batchsched.carbon.presets import greenllm
from batchsched.carbon.recipe import embodied_kg
from batchsched.carbon.storage import Stored, keeping
from batchsched.catalogue import builtin
from batchsched.fleet import Pool

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


class Slots(msgspec.Struct):
    """A server's life: each slot of it is busy and idle in turn, and somebody pays for both."""

    slots: int
    parts: list[list[tuple[float, bool]]]


@st.composite
def servers(draw: st.DrawFn) -> Slots:
    slots = draw(st.integers(1, 8))
    parts = st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=8)
    return Slots(slots, [draw(parts) for _ in range(slots)])


@given(
    policy=st.sampled_from(POLICIES),
    server=servers(),
    gpu_kg=st.floats(1, 600),
    host_kg=st.floats(1, 6000),
    life=st.floats(1, 10),
    second=st.none() | st.tuples(st.floats(0.1, 15), st.floats(0.5, 10)),
)
def test_every_gram_of_a_server_is_paid_for_once(
    policy: Policy, server: Slots, gpu_kg: float, host_kg: float, life: float, second: tuple[float, float] | None
) -> None:
    """Busy and idle time of every slot, and what a first life bore, are the GPUs and the host: no more and no less."""
    paid = {True: 0.0, False: 0.0}
    replica_kg = gpu_kg + host_kg / server.slots
    length = second[1] if second else life
    for parts in server.parts:
        begins = 0.0
        for part, busy in parts:
            years = part / sum(size for size, _ in parts) * length
            age = second[0] + begins if second else begins
            held = Held(age_years=age, second_from_years=second[0] if second else None, second_life_years=length)
            paid[busy] += held.charge_g(replica_kg, years * YEAR_S, life, policy)
            begins += years
        assert Held(1, "slot", held.age_years + length, held.second_from_years, length).charge_g(
            replica_kg, YEAR_S, life, policy
        ) == pytest.approx(0, abs=1e-6)
    total_kg = server.slots * gpu_kg + host_kg
    before = first_life_g(total_kg, life, policy, *second) if second else 0.0
    assert paid[True] + paid[False] + before == pytest.approx(total_kg * 1000)


def test_greenllms_preset_leaves_the_idle_part_unpaid() -> None:
    """It is no policy, for its charges fall short of the total by what it says is unallocated."""
    life_s = 7 * YEAR_S
    charge = greenllm("A100-40", 0.3 * life_s, 0.0, held_s=life_s)
    assert charge
    assert charge.embodied_g == pytest.approx(0.3 * 26340)
    assert charge.embodied_g + charge.unallocated_embodied_g == pytest.approx(26340)
    assert greenllm("H100", 1, 1) is None
    one = greenllm("T4", 2.5, 100.0)
    assert one
    assert one.total_g == pytest.approx(2.5 / life_s * 10300 + 100 / 3.6e6 * 261)


class TestHeld:
    OLD = Pool(gpu="T4", bought_at=date(2019, 1, 1), second_life_at=date(2023, 1, 1), second_life_years=4)

    def test_a_pool_that_declares_nothing_is_new(self) -> None:
        assert Held.of(Pool(gpu="H100"), date(2026, 1, 1), 1) == NEW

    def test_its_place_in_life_follows_the_day(self) -> None:
        first, second = Held.of(self.OLD, date(2020, 1, 1), 2), Held.of(self.OLD, date(2025, 1, 1), 2)
        assert (first.gpus, first.age_years, first.second_from_years) == (2, 1, None)
        assert second.second_from_years == pytest.approx(4, abs=0.01)
        assert second.age_years == pytest.approx(6, abs=0.01)

    def test_written_off_hardware_costs_no_more(self) -> None:
        held = Held.of(Pool(gpu="T4", bought_at=date(2015, 1, 1)), date(2026, 1, 1), 1)
        assert held.charge_g(100, YEAR_S, 5, "whole_life") == 0
        late = Held.of(self.OLD, date(2027, 6, 1), 2)
        assert late.charge_g(100, YEAR_S, 5, "remaining") == 0

    def test_a_replica_takes_a_slot_for_each_gpu(self) -> None:
        hardware = Hardware()
        one, two = hardware.replica_kg("H100"), hardware.replica_kg("H100", Held(gpus=2))
        assert one
        assert two == one.scaled(2)
        of_p5 = hardware.host_share("p5-48xlarge").kg
        assert of_p5
        assert of_p5.mid == 5700 / 8
        assert hardware.replica_kg("H100", Held(host="aws-g4dn")) is None, "its figure includes GPUs, its slots are unknown"


def test_policies_differ_for_a_reused_device() -> None:
    charges = {policy: charge_g(100, YEAR_S, 5, policy, age_years=3, second_life_years=4) for policy in POLICIES}
    assert charges == pytest.approx({"sunk": 1e5 / 7, "whole_life": 1e5 / 7, "remaining": 1e5 * 0.4 / 4, "cut_off": 0})
    assert charge_g(100, YEAR_S, 5, "remaining", age_years=6, second_life_years=4) == 0


class TestStorage:
    def test_energy_and_making_by_gigabyte_and_time(self) -> None:
        kept = keeping(Stored("weights", 16, 30 * 86400), 400)
        assert kept
        assert kept.energy_j
        assert kept.energy_j == pytest.approx(16 * 0.0012 * 30 * 86400)
        assert kept.operational_g == pytest.approx(kept.energy_j / 3.6e6 * 1.2 * 400)
        assert kept.embodied_g.mid == pytest.approx(16 * 17.3 * 30 / (5 * 365))
        assert "1.2 W a TB: Cloud Carbon Footprint" in kept.source

    def test_copies_and_half_empty_disks_cost_more(self) -> None:
        one, four = keeping(Stored("archive", 5, 3600, "hdd"), 100), keeping(Stored("archive", 5, 3600, "hdd", 2, 0.5), 100)
        assert one
        assert four
        assert one.energy_j
        assert four.energy_j == pytest.approx(4 * one.energy_j)
        assert four.embodied_g.high == pytest.approx(4 * one.embodied_g.high)

    def test_a_disk_is_paid_for_over_its_life(self) -> None:
        kept = keeping(Stored("log", 1000, 5 * YEAR_S), None)
        assert kept
        assert kept.embodied_g.high == pytest.approx(1000 * 109.99)
        assert kept.operational_g is None

    def test_an_unknown_medium_is_unknown(self) -> None:
        bare = msgspec.structs.replace(builtin(), parts={})
        assert keeping(Stored("input", 1, 1), 100, catalogue=bare) is None
