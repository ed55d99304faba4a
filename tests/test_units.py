"""Units for people."""

from __future__ import annotations

import pytest

from batchsched.units import format_grams


@pytest.mark.parametrize(
    ("grams", "text"),
    [(0.0, "0 g"), (1.7e-18, "0 g"), (-1e-15, "0 g"), (2e-9, "0.002 µg"), (0.5, "500 mg"), (-2.5, "-2.5 g"), (3.2e6, "3.2 t")],
)
def test_grams_are_told_in_the_unit_that_suits_them_and_the_rest_of_a_rounding_as_none(grams: float, text: str) -> None:
    assert format_grams(grams) == text
