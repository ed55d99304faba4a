"""GreenLLM's section 5: every implication under its exact condition, and what happens outside it."""

from __future__ import annotations

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from batchsched.carbon.greenllm import (
    Device,
    Split,
    Use,
    longer_old_life_helps,
    new_life_turns_at_g_per_kwh,
    saving_grows_with_intensity,
    saving_needs_less_energy,
    shorter_new_life_helps,
)

MARGIN = 1e-6
"""Nearer than this to a condition's border, rounding decides; the algebra is about either side of it."""

times = st.floats(0.1, 1000)
energies = st.floats(0.1, 1e6)
uses = st.builds(Use, times, energies)
devices = st.builds(Device, st.floats(0.1, 1000), st.floats(1, 15))
splits = st.builds(Split, uses, uses, uses, devices, devices)
intensities = st.floats(0.1, 1000)


def clear(one: float, other: float) -> None:
    assume(abs(one - other) > MARGIN * (abs(one) + abs(other)))


def with_new_life(split: Split, years: float) -> Split:
    return msgspec.structs.replace(split, new_gpu=msgspec.structs.replace(split.new_gpu, life_years=years))


def with_old_life(split: Split, years: float) -> Split:
    return msgspec.structs.replace(split, old_gpu=msgspec.structs.replace(split.old_gpu, life_years=years))


@given(splits, intensities)
def test_equation_5_is_the_share_of_grams(split: Split, intensity: float) -> None:
    alone_g = split.alone.energy_j / 3.6e6 * intensity + split.embodied_alone_g
    share = split.rho + (split.embodied_split_g - split.rho * split.embodied_alone_g) / alone_g
    assert abs(1 - split.saving(intensity) - share) <= 1e-9 * max(1.0, share, split.rho)


@given(splits, intensities)
def test_implication_1_holds_under_its_condition(split: Split, intensity: float) -> None:
    assume(saving_needs_less_energy(split))
    if split.saving(intensity) > 0:
        assert split.rho < 1


@given(splits)
def test_implication_1s_condition_is_exact_where_a_split_takes_more_energy(split: Split) -> None:
    """Outside it, there is a grid clean enough for a split that takes more energy to save; under it there is none."""
    assume(split.rho > 1 + MARGIN)
    clear(split.embodied_split_g, split.embodied_alone_g)
    added_kwh = (split.rho - 1) * split.alone.energy_j / 3.6e6
    breaks_even = (split.embodied_alone_g - split.embodied_split_g) / added_kwh
    if saving_needs_less_energy(split):
        assert split.saving(0) < 0
        assert breaks_even < 0
    else:
        assert split.saving(breaks_even / 2) > 0 > split.saving(breaks_even * 2)


def test_implication_1_fails_outside_its_condition() -> None:
    """The old GPU takes over most of the time and was cheap to make: more energy, and still less carbon on a clean grid."""
    split = Split(Use(10, 1000), Use(1, 500), Use(10, 600), Device(100, 5), Device(1, 5))
    assert split.rho > 1
    assert not saving_needs_less_energy(split)
    assert split.saving(1) > 0 > split.saving(1000)


def test_less_energy_alone_does_not_suffice() -> None:
    split = Split(Use(10, 1000), Use(10, 500), Use(10, 400), Device(10, 5), Device(100, 5))
    assert saving_needs_less_energy(split)
    assert split.rho < 1
    assert split.saving(1) < 0 < split.saving(1000)


@given(splits, intensities, st.floats(1.5, 10))
def test_implication_2_is_its_condition(split: Split, intensity: float, factor: float) -> None:
    clear(split.embodied_split_g, split.rho * split.embodied_alone_g)
    low, high = split.saving(intensity), split.saving(intensity * factor)
    assume(abs(low - high) > 1e-9 * max(1.0, split.rho, abs(low)))
    assert (high > low) == saving_grows_with_intensity(split)
    assert abs(high - (1 - split.rho)) < abs(low - (1 - split.rho))


def test_implication_2_fails_outside_its_condition() -> None:
    """Half the energy, but a tenth of the new GPU's time and next to nothing for the old one: the clean grid saves most."""
    split = Split(Use(10, 1000), Use(1, 400), Use(10, 100), Device(100, 5), Device(1, 5))
    assert split.rho == 0.5
    assert not saving_grows_with_intensity(split)
    assert split.saving(17) > split.saving(261) > split.saving(501) > 0.5


@given(splits, intensities, st.floats(1, 15), st.floats(1.5, 10))
def test_implication_3_for_the_new_gpu_is_its_condition(split: Split, intensity: float, years: float, factor: float) -> None:
    left = split.alone.energy_j / 3.6e6 * intensity * (split.new.time_s - split.rho * split.alone.time_s)
    clear(left, split.alone.time_s * split.old_gpu.charge_g(split.old.time_s))
    short = with_new_life(split, years).saving(intensity)
    long = with_new_life(split, years * factor).saving(intensity)
    assume(abs(short - long) > 1e-9 * max(1.0, split.rho, abs(short)))
    assert (short > long) == shorter_new_life_helps(split, intensity)


@given(splits)
def test_the_turning_point_is_where_the_condition_turns(split: Split) -> None:
    turns = new_life_turns_at_g_per_kwh(split)
    if turns is None:
        assert shorter_new_life_helps(split, 1e6)
    else:
        assert turns > 0
        assert shorter_new_life_helps(split, turns * 0.99)
        assert not shorter_new_life_helps(split, turns * 1.01)


def test_where_time_falls_as_much_as_energy_a_shorter_life_always_helps() -> None:
    split = Split(Use(10, 1000), Use(5, 300), Use(10, 200), Device(100, 5), Device(10, 5))
    assert new_life_turns_at_g_per_kwh(split) is None


def test_implication_3_for_the_new_gpu_fails_outside_its_condition() -> None:
    """The new GPU stays as busy as before and draws less: a shorter life lowers the saving, as the paper measured."""
    split = Split(Use(3600, 1_080_000), Use(3600, 500_000), Use(3600, 200_000), Device(26.34, 7), Device(10.3, 7))
    assert not shorter_new_life_helps(split, 261)
    assert with_new_life(split, 2).saving(261) < with_new_life(split, 7).saving(261)
    assert shorter_new_life_helps(split, 1)
    assert with_new_life(split, 2).saving(1) > with_new_life(split, 7).saving(1)


@given(splits, intensities, st.floats(1, 15), st.floats(1.5, 10))
def test_a_longer_life_of_the_old_gpu_never_lowers_the_saving(
    split: Split, intensity: float, years: float, factor: float
) -> None:
    short, long = (with_old_life(split, life).saving(intensity) for life in (years, years * factor))
    assert longer_old_life_helps(split)
    assert long >= short
    # Strictly more, wherever the old GPU's embodied carbon is not lost in the last digits of the total.
    if with_old_life(split, years).old_gpu.charge_g(split.old.time_s) > 1e-9 * split.split_g(intensity):
        assert long > short


def test_grams_saved_follow_other_rules_than_the_share() -> None:
    """More energy: the share saved may grow with the intensity (towards 1 - rho < 0), the grams saved always shrink."""
    split = Split(Use(10, 1000), Use(10, 700), Use(10, 400), Device(10, 5), Device(100, 5))
    grams = [split.alone_g(intensity) - split.split_g(intensity) for intensity in (17, 261)]
    assert saving_grows_with_intensity(split)
    assert split.saving(261) > split.saving(17)
    assert grams[1] < grams[0]
